"""A semantic network through the same commands: train, evaluate, predict."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.data.images import encode_image
from pdl_jax.data.records import open_split
from pdl_jax.evaluation.checkpoint import evaluate_checkpoint
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.training.loop import train
from tests import tiny
from tests.process_group import NETWORK

# One training serves all of them.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def experiment(data):
    return tiny.make_experiment(
        data,
        **NETWORK,
        model__has_instances=False,
        optimizer__learning_rate=5e-3,
        train__num_steps=60,
        train__checkpoint_every_steps=30,
        train__evaluate_every_steps=30,
        train__picture_every_steps=60,
        train__log_every_steps=1,
    )


@pytest.fixture(scope='module')
def workdir(experiment, tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    report = train(experiment, str(path), devices=tiny.one_device())
    assert report['pq'] is None
    return path


def test_it_learns_from_the_semantic_loss_alone(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert all(line['loss'] == line['loss_semantic'] for line in steps)
    assert not any('loss_center' in line or 'loss_offset' in line for line in steps)
    assert np.mean([line['loss'] for line in steps[-5:]]) < 0.9 * np.mean(
        [line['loss'] for line in steps[:5]]
    )


def test_evaluations_log_miou_and_no_pq(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    evaluations = [line for line in lines if 'eval/miou' in line]
    assert [line['step'] for line in evaluations] == [30, 60]
    assert not any('eval/pq' in line for line in evaluations)
    # Which checkpoint is the best is decided by it.
    scores = [
        json.loads(p.read_text())['score']
        for p in sorted(workdir.glob('checkpoints/*/metrics/metrics'))
    ]
    assert scores == pytest.approx([line['eval/miou'] for line in evaluations])
    names = [path.name for path in workdir.glob('pictures/*/*.png')]
    assert sorted(names) == [f'{kind}_{i}.png' for kind in ('prediction', 'target') for i in (0, 1)]


def test_predictions_of_a_split_are_label_maps_that_score_the_report(
    experiment, workdir, tmp_path, capsys
):
    report = evaluate_checkpoint(
        experiment,
        str(tmp_path),
        checkpoint=str(workdir),
        write_predictions=True,
        devices=tiny.one_device(),
    )
    assert 'mIoU' in capsys.readouterr().out
    source = open_split(experiment.data.path, 'val')
    right = total = 0
    for i in range(len(source)):
        name = source.info(i)['annotation_file_name']
        prediction = np.asarray(Image.open(tmp_path / 'predictions' / name))
        label = source.decode(i)[1] // source.spec.label_divisor
        valid = label != source.spec.ignore_label
        right += (prediction == label)[valid].sum()
        total += valid.sum()
    assert report['pixel_accuracy'] == pytest.approx(right / total)
    assert json.loads((tmp_path / 'report.json').read_text()) == report
    assert report['pq'] is None and 0 < report['miou'] < 1


def test_command_line_writes_classes_scores_and_an_overlay(workdir, tmp_path, experiment):
    source = open_split(experiment.data.path, 'val')
    image, _ = source.decode(0)
    (tmp_path / 'photo.png').write_bytes(encode_image(image))
    out = tmp_path / 'out'
    flags = [f'--checkpoint={workdir}', f'--images={tmp_path}/photo.png', f'--output={out}']
    main(['predict', *flags])
    assert sorted(p.name for p in out.iterdir()) == [
        'photo.json',
        'photo_overlay.png',
        'photo_semantic.png',
    ]
    result = Predictor.load(workdir)(image)
    classes = np.asarray(Image.open(out / 'photo_semantic.png'))
    np.testing.assert_array_equal(classes, result.panoptic // source.spec.label_divisor)
    np.testing.assert_array_equal(result.panoptic % source.spec.label_divisor, 0)
    segments = json.loads((out / 'photo.json').read_text())['segments']
    assert [s['class_id'] for s in segments] == sorted(np.unique(classes).tolist())
    assert sum(s['area_px'] for s in segments) == classes.size
    assert all(0 < s['score'] <= 1 and not s['is_thing'] for s in segments)


def test_a_semantic_network_has_no_centers_to_draw(workdir, tmp_path, capsys):
    (tmp_path / 'a.png').write_bytes(encode_image(np.zeros((4, 4, 3), np.uint8)))
    flags = [f'--checkpoint={workdir}', f'--images={tmp_path}/a.png', f'--output={tmp_path}/out']
    with pytest.raises(SystemExit):
        main(['predict', *flags, '--write=center'])
    assert 'error: a semantic network has no centers to draw' in capsys.readouterr().err


def test_overlay_of_things_has_no_crowds(workdir):
    spec = Predictor.load(workdir).spec
    panoptic = np.full((64, 64), spec.label_format.thing_classes[0] * spec.label_divisor, np.int32)
    result = PanopticResult(panoptic, (), spec, is_semantic=True)
    picture = result.with_style(min_side_px=0).draw_overlay(np.zeros((64, 64, 3), np.uint8))
    # Crowds are striped.
    assert len(np.unique(picture[:12].reshape(-1, 3), axis=0)) == 1


def test_scales_and_mirror_change_the_prediction_a_little(workdir, experiment):
    image, _ = open_split(experiment.data.path, 'val').decode(1)
    plain = Predictor.load(workdir)(image).segments
    averaged = Predictor.load(workdir, scales=(0.75, 1.0), is_flipped=True)(image).segments
    assert plain[0].class_id == averaged[0].class_id
    assert 1e-6 < abs(plain[0].score - averaged[0].score) < 0.2
