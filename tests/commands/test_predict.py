"""Evaluating and predicting from a checkpoint, in Python and from the command line."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.data.images import decode_ids
from pdl_jax.data.records import open_split
from pdl_jax.evaluation.checkpoint import evaluate_checkpoint
from pdl_jax.evaluation.files.score_files import evaluate_files
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.prediction.image_list import find_images, refuse_equal_stems
from pdl_jax.prediction.predict_files import predict_file
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.training.loop import train
from tests import tiny
from tests.convert.compiling import compiling_fast
from tests.process_group import NETWORK


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
    with compiling_fast():
        yield


def make_experiment(data, **changes):
    """The tiny experiment with a network of fewer layers."""
    network = {key.replace('.', '__'): value for key, value in NETWORK.items()}
    return tiny.make_experiment(data, **network, **changes)


def evaluate(experiment, folder, workdir, **options):
    """Evaluates the checkpoint of a run on one device."""
    return evaluate_checkpoint(
        experiment, str(folder), checkpoint=str(workdir), devices=tiny.one_device(), **options
    )


@pytest.fixture(scope='module')
def workdir(data, tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    # After 40 steps it is a matter of rounding whether any instance is found.
    experiment = make_experiment(data, train__num_steps=80, train__checkpoint_every_steps=80)
    train(experiment, str(path), devices=tiny.one_device())
    return path


@pytest.fixture(scope='module')
def predictor(workdir):
    return Predictor.load(workdir)


def test_loss_fell(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 80
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize('size', [(48, 64), (37, 131), (1, 1), (150, 20)])
def test_any_size(predictor, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    result = predictor(image)
    assert result.panoptic.shape == size and result.panoptic.dtype == np.int32
    labels, areas = np.unique(result.panoptic, return_counts=True)
    found = dict(zip(labels.tolist(), areas.tolist(), strict=True))
    found.pop(predictor.spec.label_format.void_label, None)
    assert {s.label: s.area_px for s in result.segments} == found
    for segment in result.segments:
        y0, x0, y1, x1 = segment.box
        mask = result.panoptic == segment.label
        assert mask[y0:y1, x0:x1].sum() == segment.area_px
        assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()
        assert 0 <= segment.score <= 1
        assert segment.class_name == predictor.spec.class_names[segment.class_id]
        assert segment.is_thing == (segment.class_id in predictor.spec.label_format.thing_classes)
    assert result.draw_overlay(image).shape == image.shape


def test_wrong_arrays_are_refused(predictor):
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match='must be uint8'):
            predictor(image)


def test_predictions_equal_those_of_the_evaluation(data, workdir, predictor, tmp_path):
    report = evaluate(make_experiment(data), tmp_path, workdir, write_predictions=True)
    assert json.loads((tmp_path / 'report.json').read_text()) == json.loads(json.dumps(report))
    source = open_split(data, 'val')
    annotations = json.loads((tmp_path / 'predictions.json').read_text())['annotations']
    assert len(annotations) == len(source)
    metric = PanopticQuality.for_format(source.spec.label_format, max_segments=64)
    total = metric.empty()
    for i, annotation in enumerate(annotations):
        image, label = source.decode(i)
        ids = decode_ids((tmp_path / 'predictions' / annotation['file_name']).read_bytes(), name='')
        result = predictor(image)
        # The pixels of void and the number of segments do not depend on how segments are numbered.
        np.testing.assert_array_equal(
            ids == 0, result.panoptic == source.spec.label_format.void_label
        )
        assert len(annotation['segments_info']) == len(result.segments)
        total = total.merge(
            jax.device_get(
                metric.from_model_output(
                    panoptic_label=label[None],
                    panoptic_prediction=result.panoptic[None],
                    valid=np.ones(1, bool),
                )
            )
        )
    assert total.compute()['All']['pq'] == pytest.approx(report['pq']['All']['pq'], abs=1e-6)


def test_evaluation_refuses_data_of_other_classes(workdir, data, tmp_path):
    other = tmp_path / 'other'
    shutil.copytree(data, other)
    path = other / 'val' / 'metadata.json'
    path.write_text(path.read_text().replace('"sheep"', '"goat"'))
    with pytest.raises(ValueError, match='14 classes.*same categories in the same order'):
        evaluate(make_experiment(other), tmp_path, workdir)


def test_command_line_writes_three_files_and_reports_broken_images(workdir, tmp_path, capsys):
    photos, out = tmp_path / 'photos', tmp_path / 'out'
    photos.mkdir()
    rng = np.random.default_rng(0)
    # The canvas of 48x64 pixels, whose compiled program is in the cache.
    Image.fromarray(rng.integers(0, 255, (46, 60, 3)).astype(np.uint8)).save(photos / 'a.png')
    Image.fromarray(rng.integers(0, 255, (46, 60)).astype(np.uint8)).save(photos / 'grey.png')
    (photos / 'broken.png').write_bytes((photos / 'a.png').read_bytes()[:2000])
    flags = [f'--checkpoint={workdir}', f'--images={photos}/*.png', f'--output={out}']
    with pytest.raises(SystemExit) as end:
        main(['predict', *flags])
    # Python prints the text and ends with status 1.
    assert re.match(r'error: not predicted:\n.*broken\.png', end.value.code)
    assert '2 of 3 images predicted' in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        f'{stem}{kind}'
        for stem in ('a', 'grey')
        for kind in ('.json', '_overlay.png', '_panoptic.png')
    ]
    description = json.loads((out / 'a.json').read_text())
    assert (description['height'], description['width']) == (46, 60)
    ids = decode_ids((out / 'a_panoptic.png').read_bytes(), name='a')
    assert ids.shape == (46, 60)
    assert sorted(set(np.unique(ids)) - {0}) == [s['id'] for s in description['segments']]
    for segment in description['segments']:
        assert (ids == segment['id']).sum() == segment['area_px']


def test_photo_is_turned_upright(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright: turn by 90 degrees.
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(tmp_path / 'phone.jpg', exif=exif)
    result = predict_file(predictor, str(tmp_path / 'phone.jpg'), tmp_path)
    assert result.panoptic.shape == (48, 64)


def test_find_images(tmp_path):
    for name in ('b.jpg', 'a.jpg', 'a.png'):
        (tmp_path / name).write_bytes(b'')
    pattern = f'{tmp_path}/*.jpg'
    assert find_images([pattern, pattern]) == [f'{tmp_path}/a.jpg', f'{tmp_path}/b.jpg']
    with pytest.raises(ValueError, match='a.jpg and .*a.png would both be written as a.json'):
        refuse_equal_stems(find_images([f'{tmp_path}/*']))
    with pytest.raises(FileNotFoundError, match='no such file'):
        find_images([f'{tmp_path}/*.bmp'])


def test_missing_checkpoint(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint in'):
        Predictor.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'no checkpoint of step 7 .* there are \[80\]'):
        Predictor.load(workdir, step=7)


@pytest.fixture(scope='module')
def true_classes(data, workdir, tmp_path_factory):
    """The report of an evaluation with the true classes, and its folder with the predictions."""
    folder = tmp_path_factory.mktemp('true_classes')
    experiment = make_experiment(
        data,
        evaluate__oracle=('semantic',),
        evaluate__extra_metrics=('pc', 'ap'),
        postprocess__nms_kernel_px=3,
        postprocess__stuff_area_limit_px=0,
    )
    return evaluate(experiment, folder, workdir, write_predictions=True), folder


def test_ground_truth_in_the_place_of_classes(true_classes):
    report, _ = true_classes
    assert report['miou'] == 1.0 and report['pixel_accuracy'] == 1.0
    assert report['pq']['Stuff']['pq'] == 1.0
    assert report['pq']['Things']['pq'] < 0.9


def test_ground_truth_in_the_place_of_all_outputs(data, workdir, tmp_path):
    """Without the stuff filter only objects that share a centre with another one are lost."""
    experiment = make_experiment(
        data,
        evaluate__oracle=('semantic', 'center', 'offset'),
        postprocess__nms_kernel_px=3,
        postprocess__stuff_area_limit_px=0,
    )
    report = evaluate(experiment, tmp_path, workdir)
    assert report['miou'] == 1.0 and report['pixel_accuracy'] == 1.0
    assert report['pq']['All']['pq'] > 0.95


def test_ap_and_covering_equal_those_of_the_written_files(data, true_classes):
    report, folder = true_classes
    labels = data.parent / 'raw' / 'val'
    paths = {
        'gt_json': labels / 'panoptic_val.json',
        'gt_folder': labels / 'panoptic_val',
        'pred_json': folder / 'predictions.json',
        'pred_folder': folder / 'predictions',
    }
    files, _ = evaluate_files(**paths, metrics=('pq', 'pc', 'ap'))
    assert 0 < report['ap']['ap'] < 1 and 0 < report['pc']['Things']['pc'] < 1
    assert {k: v for k, v in report['ap'].items() if k != 'per_class'} == pytest.approx(
        {k: v for k, v in files['ap'].items() if k != 'per_class'}, abs=1e-9
    )
    for group in ('All', 'Things', 'Stuff'):
        assert report['pc'][group] == pytest.approx(files['pc'][group], abs=1e-6)
        assert report['pq'][group] == pytest.approx(files['pq'][group], abs=1e-9)
    scores = [
        s['score']
        for a in json.loads(paths['pred_json'].read_text())['annotations']
        for s in a['segments_info']
    ]
    assert len(set(scores)) > 10 and all(0 <= score <= 1 for score in scores)
