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
from pdl_jax.prediction.predict_files import predict_file
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.training.loop import train
from tests import tiny
from tests.convert.compiling import compiling_fast
from tests.process_group import NETWORK

# One training serves all of them.
pytestmark = pytest.mark.slow


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
    assert result.with_style(min_side_px=0).draw_overlay(image).shape == image.shape


def test_kept_centers_and_offsets_are_those_that_made_the_objects(predictor):
    # The size of the canvas: centres in padding would take part.
    size = predictor.canvas_size((48, 64))
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    assert predictor(image).outputs is None
    result = predictor(image, keep_outputs=True)
    heat, offset = result.outputs['center'], result.outputs['offset']
    assert heat.shape == size and offset.shape == (*size, 2)
    options = predictor.origin['postprocess']
    half = options['nms_kernel_px'] // 2
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(heat, half, constant_values=-1), (2 * half + 1, 2 * half + 1)
    )
    is_center = (heat == windows.max(axis=(2, 3))) & (heat > options['center_threshold'])
    peaks = np.argwhere(is_center)
    highest = np.argsort(-heat[is_center], kind='stable')[: options['max_centers']]
    centers = peaks[highest]
    votes = np.moveaxis(np.indices(heat.shape), 0, -1) + offset
    nearest = np.square(votes[:, :, None] - centers).sum(axis=-1).argmin(axis=-1)
    objects = [s for s in result.segments if s.is_thing]
    assert len(centers) > 1 and objects
    for one in objects:
        counts = np.bincount(nearest[result.panoptic == one.label])
        # Another program may round otherwise where two centres are equally near.
        assert counts.max() >= 0.95 * counts.sum(), one
    assert result.draw_center().shape == result.draw_offset().shape == image.shape


def test_wrong_arrays_are_refused(predictor):
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.int64), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match='must be uint8'):
            predictor(image)


def test_images_in_many_forms_give_the_same_result(predictor, tmp_path):
    # They fit the canvas of 48x64 pixels, whose compiled program is in the cache.
    rng = np.random.default_rng(3)
    grey = rng.integers(0, 255, (46, 60)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    rgb = np.repeat(grey[..., None], 3, axis=2)
    expected = predictor(rgb)
    opaque = np.concatenate([rgb, np.full((46, 60, 1), 9, np.uint8)], axis=2)
    forms = [tmp_path / 'grey.png', str(tmp_path / 'grey.png'), Image.fromarray(grey), grey]
    results = predictor([*forms, grey[..., None], opaque, jax.numpy.asarray(rgb)])
    assert len(results) == 7
    for result in results:
        np.testing.assert_array_equal(result.panoptic, expected.panoptic)
        np.testing.assert_array_equal(result.image, rgb)
        assert result.segments == expected.segments
    assert [r.name for r in results[:3]] == ['grey.png', 'grey.png', '']


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


def test_command_line_writes_pictures_in_a_style(workdir, tmp_path):
    rng = np.random.default_rng(0)
    # The canvas of 48x64 pixels, whose compiled program is in the cache.
    Image.fromarray(rng.integers(0, 60, (46, 60, 3)).astype(np.uint8)).save(tmp_path / 'a.png')
    flags = [f'--checkpoint={workdir}', f'--images={tmp_path}/a.png', f'--output={tmp_path}/out']
    kinds = '--write=overlay,panel,html,center,offset'
    main(['predict', *flags, kinds, '--palette=colorblind', '--contrast=none', '--min_side_px=0'])
    sizes = {p.name: Image.open(p).size for p in (tmp_path / 'out').glob('*.png')}
    assert sizes.pop('a_panel.png')[0] == 60 + 4 + 60
    names = ('a_overlay.png', 'a_center.png', 'a_offset.png')
    assert sizes == dict.fromkeys(names, (60, 46))
    assert '</html>' in (tmp_path / 'out' / 'a.html').read_text()


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--palette=blue', "palette .='blue'. must be one of given, colorblind"),
        ('--contrast=more', "contrast .='more'. must be one of auto, stretch, none"),
        ('--alpha=1.5', r'alpha .=1.5. must lie in \[0, 1\]'),
        ('--write=page', "no output 'page'"),
    ],
)
def test_wrong_styles_end_before_the_network_is_loaded(tmp_path, capsys, flag, message):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / 'a.png')
    flags = ['--checkpoint=nowhere', f'--images={tmp_path}', f'--output={tmp_path}/out', flag]
    with pytest.raises(SystemExit):
        main(['predict', *flags])
    assert re.search(f'error: .*{message}', capsys.readouterr().err)


def test_photo_is_turned_upright(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright: turn by 90 degrees.
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(tmp_path / 'phone.jpg', exif=exif)
    result = predict_file(predictor, str(tmp_path / 'phone.jpg'), tmp_path)
    assert result.panoptic.shape == (48, 64)


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


def test_thresholds_decide_on_the_segments(workdir, predictor):
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    plain = predictor(image)
    things = sorted((s for s in plain.segments if s.is_thing), key=lambda s: s.score)
    assert len(things) > 1
    # Between the two best scores: one thing is left, with the same score and area.
    min_score = (things[-2].score + things[-1].score) / 2
    chosen = Predictor.load(workdir, min_score=min_score)
    assert chosen.origin['postprocess'] == {
        **predictor.origin['postprocess'],
        'min_score': min_score,
    }
    result = chosen(image)
    kept = [things[-1], *(s for s in plain.segments if not s.is_thing)]
    # Another program may round the scores otherwise.
    assert {s.label: (s.area_px, s.box) for s in result.segments} == {
        s.label: (s.area_px, s.box) for s in kept
    }
    scores = {s.label: s.score for s in result.segments}
    assert scores == pytest.approx({s.label: s.score for s in kept}, abs=1e-5)
    dropped = np.isin(plain.panoptic, [s.label for s in things[:-1]])
    void = plain.spec.label_format.void_label
    np.testing.assert_array_equal(result.panoptic, np.where(dropped, void, plain.panoptic))


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'min_scor': 0.5}, "min_scor is no option .* did you mean 'min_score'"),
        ({'min_score': 30}, 'min_score .=30.0. must lie in'),
        ({'nms_kernel_px': 7.5}, 'nms_kernel_px .=7.5. must be of type int'),
        ({'max_centers': 0}, 'max_centers .=0. must be positive'),
        ({'min_area_px': -1}, 'min_area_px .=-1. must not be negative'),
    ],
)
def test_wrong_thresholds_are_named(workdir, values, message):
    with pytest.raises(ValueError, match=message):
        Predictor.load(workdir, **values)


def test_a_search_finds_what_the_evaluation_confirms(data, workdir, true_classes, tmp_path, capsys):
    run = tmp_path / 'run'
    shutil.copytree(workdir, run)
    # As in `true_classes`, whose report is the one before.
    experiment = make_experiment(
        data,
        evaluate__oracle=('semantic',),
        postprocess__nms_kernel_px=3,
        postprocess__stuff_area_limit_px=0,
    )
    before, _ = true_classes
    names = ['center_threshold', 'min_score', 'min_area_px', 'stuff_area_limit_px']
    after = evaluate(experiment, tmp_path / 'after', run, tune_names=names)
    (path,) = run.glob('checkpoints/*/tuned.json')
    tuned = json.loads(path.read_text())
    assert list(tuned['values']) == names
    assert tuned['before'] == pytest.approx(before['pq']['All']['pq'], abs=1e-9)
    assert tuned['after'] == pytest.approx(after['pq']['All']['pq'], abs=1e-9)
    assert tuned['after'] > tuned['before'] + 0.005
    assert 'tuned on' in capsys.readouterr().out
    # From now on it counts, unless told otherwise; the checkpoint is intact.
    values = Predictor.load(run).origin['postprocess']
    assert values == {**values, **tuned['values']}
    assert Predictor.load(run, min_score=0.9).origin['postprocess'] == {**values, 'min_score': 0.9}
    assert Predictor.load(run, is_tuned=False).origin == {
        **Predictor.load(workdir).origin,
        'checkpoint': str(path.parent),
    }
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r'tuned.json does not hold options.*delete it'):
        Predictor.load(run)


def test_images_of_a_split_without_labels(data, workdir, tmp_path, capsys):
    """Predictions by the list of images score as those of the evaluation."""
    labels = data.parent / 'raw' / 'val'
    images = json.loads((labels / 'panoptic_val.json').read_text())['images']
    (tmp_path / 'info.json').write_text(json.dumps({'images': images}))
    out = tmp_path / 'out'
    flags = [f'--checkpoint={workdir}', f'--image_info={tmp_path}/info.json', f'--output={out}']
    main(['predict', *flags, f'--images={labels}/images', '--write=csv'])
    assert len(list(out.glob('*.csv'))) == len(images)
    # Grain reads the same pixels.
    report = evaluate(make_experiment(data), tmp_path, workdir)
    files, _ = evaluate_files(
        gt_json=labels / 'panoptic_val.json',
        gt_folder=labels / 'panoptic_val',
        pred_json=out / 'predictions.json',
        pred_folder=out / 'predictions',
    )
    assert files['pq']['All'] == pytest.approx(report['pq']['All'], abs=1e-9)
