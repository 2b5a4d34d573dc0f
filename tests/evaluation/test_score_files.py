"""Scores of files against panopticapi, cityscapesscripts, pycocotools and reference numbers."""

import argparse
import collections
import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from pdl_jax.commands import score
from pdl_jax.data.images import decode_ids, encode_ids
from pdl_jax.evaluation.files.score_files import DATASETS, METRICS, evaluate_files
from pdl_jax.typing import LabelFormat
from tests.metrics.panoptic_cases import (
    coco_stats,
    count_by_masks,
    read_reference_cases,
    read_street_scenes,
    write_files,
    write_reference_cases,
)

STREET = {'things': (24, 25, 26, 33), 'stuff': (7, 11, 23)}


def check_quality(report, expected):
    """Panoptic quality as panopticapi or cityscapesscripts return it."""
    for group in ('All', 'Things', 'Stuff'):
        assert report['pq'][group] == pytest.approx(expected[group], abs=1e-9)
    for category, row in expected['per_class'].items():
        ours = report['pq']['per_class'][str(category)]
        assert {key: ours[key] for key in row} == pytest.approx(row, abs=1e-9)


@pytest.fixture(scope='module', params=['coco', 'voc'])
def golden(request, tmp_path_factory):
    """The reference cases and their files."""
    reference = read_reference_cases(request.param)
    return reference, write_reference_cases(tmp_path_factory.mktemp(request.param), reference)


def read_expected(reference, metric):
    """Expected numbers, with the category ids of the files in the place of classes."""

    def rename(value):
        if not isinstance(value, dict):
            return value
        value = {key: rename(item) for key, item in value.items()}
        for key in value:
            if key.startswith('per_class'):
                rows = value[key].items()
                value[key] = {str(reference.categories[int(c)]): row for c, row in rows}
        return value

    return rename(reference.expected[metric])


def test_equals_the_original_programs_over_all_cases(golden):
    reference, files = golden
    report, _ = evaluate_files(**files)
    check_quality(report, read_expected(reference, 'pq'))

    expected = read_expected(reference, 'miou')
    assert report['miou'] == pytest.approx(expected['miou'], abs=1e-12)
    assert report['pixel_accuracy'] == pytest.approx(expected['pixel_acc'], abs=1e-12)
    assert report['iou_per_class'] == pytest.approx(expected['per_class_iou'], abs=1e-12)

    expected = read_expected(reference, 'pc')['normalized']
    for group in ('All', 'Things', 'Stuff'):
        assert report['pc'][group] == pytest.approx(expected[group], abs=1e-12)
    covering = {category: row['pc'] for category, row in report['pc']['per_class'].items()}
    assert covering == pytest.approx(expected['per_class'], abs=1e-12)

    expected = read_expected(reference, 'ap')
    np.testing.assert_allclose(coco_stats(report['ap']), expected['stats'], atol=1e-12)
    assert report['ap']['per_class'].keys() == expected['per_class'].keys()
    for category, row in expected['per_class'].items():
        assert report['ap']['per_class'][category] == pytest.approx(row, abs=1e-12)
    assert report['num_images'] == 35
    assert report['notes'] == []


def test_equals_panopticapi_on_every_case(golden, tmp_path):
    reference, files = golden
    labels, predictions = (json.loads(files[f'{side}_json'].read_text()) for side in ('gt', 'pred'))
    expected = read_expected(reference, 'pq')['per_image']
    covering = read_expected(reference, 'pc')['per_image']
    predicted = {annotation['image_id']: annotation for annotation in predictions['annotations']}
    assert len(labels['annotations']) == len(expected) == 35
    one = {**files, 'gt_json': tmp_path / 'gt.json', 'pred_json': tmp_path / 'pred.json'}
    for name, annotation in zip(reference.cases, labels['annotations'], strict=True):
        content = {'categories': labels['categories'], 'annotations': [annotation]}
        one['gt_json'].write_text(json.dumps(content))
        content = {'annotations': [predicted[annotation['image_id']]]}
        one['pred_json'].write_text(json.dumps(content))
        report, _ = evaluate_files(**one, metrics=('pq', 'pc'))
        check_quality(report, expected[name])
        assert report['pc']['All'] == pytest.approx(covering[name], abs=1e-12)


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    """The stored street scenes and their files."""
    cases = read_street_scenes()
    folder = tmp_path_factory.mktemp('street')
    return cases, write_files(
        folder, cases['labels'], cases['predictions'], scores=cases['scores'], **STREET
    )


def test_equals_cityscapesscripts(street):
    cases, files = street
    report, _ = evaluate_files(**files, dataset='cityscapes', metrics=('pq', 'ap'))
    for group, row in zip(('All', 'Things', 'Stuff'), cases['panoptic_averages'], strict=True):
        expected = dict(zip(('pq', 'sq', 'rq', 'n'), row, strict=True))
        assert report['pq'][group] == pytest.approx(expected, abs=1e-9)
    rows = dict(zip(cases['panoptic_ids'].tolist(), cases['panoptic'].tolist(), strict=True))
    for category, row in report['pq']['per_class'].items():
        assert [row[key] for key in ('pq', 'sq', 'rq')] == pytest.approx(
            rows[int(category)], abs=1e-9
        )

    assert report['ap']['ap'] == pytest.approx(cases['cityscapes_average_ap'][0], abs=1e-12)
    assert report['ap']['ap50'] == pytest.approx(cases['cityscapes_average_ap'][1], abs=1e-12)
    for category, precision in zip(STREET['things'], cases['cityscapes_ap'], strict=True):
        expected = {'ap': precision.mean(), 'ap50': precision[0]}
        assert report['ap']['per_class'][str(category)] == pytest.approx(expected, abs=1e-12)


def test_equals_pycocotools_with_crowds_and_equal_scores(street):
    cases, files = street
    report, _ = evaluate_files(**files, metrics=('ap',))
    assert min(cases['coco_stats']) > 0
    np.testing.assert_allclose(coco_stats(report['ap']), cases['coco_stats'], atol=1e-12)


def test_equals_masks_on_coco_images(shared_dir, tmp_path):
    """Real labels, and predictions that move, rename, lose and split their segments."""
    folder = shared_dir / 'data' / 'coco_panoptic_200' / 'val'
    content = json.loads((folder / 'panoptic_val.json').read_text())
    categories = {c['id']: c['isthing'] for c in content['categories']}
    things = tuple(c for c in categories if categories[c])
    stuff = tuple(c for c in categories if not categories[c])
    label_format = LabelFormat(201, things, 255, 1000)
    rng = np.random.default_rng(0)
    labels, predictions, expected = [], [], collections.Counter()
    for annotation in content['annotations'][:8]:
        name = annotation['file_name']
        ids = decode_ids((folder / 'panoptic_val' / name).read_bytes(), name=name)[::2, ::2]
        label = np.full(ids.shape, label_format.void_label)
        prediction = label.copy()
        moved = np.roll(ids, tuple(rng.integers(-6, 7, 2)), (0, 1))
        for n, entry in enumerate(annotation['segments_info'], 1):
            category, is_crowd = entry['category_id'], entry['iscrowd']
            instance = n if categories[category] and not is_crowd else 0
            label[ids == entry['id']] = category * 1000 + instance
            action = rng.random()
            if action < 0.15:
                category = rng.choice(things)
            if action < 0.9:
                prediction[moved == entry['id']] = category * 1000 + n
            if action < 0.3:
                prediction[:, ids.shape[1] // 2 :][
                    moved[:, ids.shape[1] // 2 :] == entry['id']
                ] += 500
        labels.append(label)
        predictions.append(prediction)
        expected.update(count_by_masks(label, prediction, label_format))
    files = write_files(tmp_path, labels, predictions, things=things, stuff=stuff)
    report, _ = evaluate_files(**files, metrics=('pq',))
    assert (
        min(sum(n for (key, _), n in expected.items() if key == k) for k in ('tp', 'fp', 'fn')) > 9
    )
    for category in categories:
        row = report['pq']['per_class'][str(category)]
        for key in ('tp', 'fp', 'fn'):
            assert row[key] == expected[key, category]
        assert row['sq'] * row['tp'] == pytest.approx(expected['iou', category], abs=1e-9)


@pytest.mark.parametrize('dataset', ['coco', 'cityscapes'])
def test_processes_change_nothing(street, dataset):
    _, files = street
    labels = json.loads(files['gt_json'].read_text())
    predictions = json.loads(files['pred_json'].read_text())
    many = {'gt_json': labels, 'pred_json': predictions}
    files = dict(files)
    for name, content in many.items():
        annotations = content['annotations']
        copies = [
            {**a, 'image_id': a['image_id'] + 100 * copy} for copy in range(7) for a in annotations
        ]
        files[name] = files[name].with_name(f'many_{name}.json')
        files[name].write_text(json.dumps({**content, 'annotations': copies}))
    report, _ = evaluate_files(**files, dataset=dataset, num_processes=1)
    again, _ = evaluate_files(**files, dataset=dataset, num_processes=2)
    assert report == again and report['num_images'] == 70


def test_a_perfect_prediction_scores_one_and_absent_classes_are_null(tmp_path):
    maps = np.full((1, 20, 30), 2000)
    maps[0, :10, :10], maps[0, 10:, :10] = 1001, 1002
    files = write_files(tmp_path, maps, maps, things=(1, 5), stuff=(2, 9))
    report, _ = evaluate_files(**files)
    ones = {'pq': 1.0, 'sq': 1.0, 'rq': 1.0}
    assert report['pq']['All'] == {**ones, 'n': 2}
    assert report['pq']['per_class']['1'] == {**ones, 'tp': 2, 'fp': 0, 'fn': 0}
    assert report['pq']['per_class']['9']['pq'] == 0.0
    assert report['miou'] == report['pixel_accuracy'] == report['ap']['ap'] == 1.0
    assert report['pc']['Things'] == {'pc': 1.0, 'n': 1}
    assert report['iou_per_class'] == {'1': 1.0, '5': None, '2': 1.0, '9': None}
    assert report['ap']['per_class'] == {
        '1': {'ap': 1.0, 'ap50': 1.0},
        '5': {'ap': None, 'ap50': None},
    }
    assert report['ap']['ap_large'] is None
    assert report['notes'] == [
        '2 of 2 predicted things have no field score in segments_info: they count as detections of '
        'score 1'
    ]


def test_nothing_to_average_is_null(tmp_path):
    maps = np.zeros((1, 4, 5), int)
    report, _ = evaluate_files(**write_files(tmp_path, maps, maps, things=(1,), stuff=(2,)))
    nothing = {'pq': None, 'sq': None, 'rq': None, 'n': 0}
    assert report['pq']['All'] == report['pq']['Things'] == report['pq']['Stuff'] == nothing
    assert report['miou'] is report['ap']['ap'] is report['pc']['All']['pc'] is None


@pytest.mark.parametrize('area', [160, 1, 99.5, None, float('nan')])
def test_areas_are_counted(tmp_path, area):
    # panopticapi believes the stated area: with 1 it finds a quality of thousands of percent.
    label, prediction = np.full((1, 10, 10), 2000), np.full((1, 10, 10), 2000)
    prediction[0, :2] = 0
    files = write_files(tmp_path, label, prediction, things=(1,), stuff=(2,))
    content = json.loads(files['gt_json'].read_text())
    content['annotations'][0]['segments_info'][0]['area'] = area
    files['gt_json'].write_text(json.dumps(content))
    report, _ = evaluate_files(**files, metrics=('pq',))
    assert report['pq']['All']['sq'] == pytest.approx(0.8)
    told = 'segments lack area' if area is None or area != area else 'segments state an area'
    assert told in report['notes'][0] and report['notes'][0].startswith('1 ')


def test_a_predicted_segment_may_have_id_0(tmp_path):
    # The void of some writers is also the id of their first class; panopticapi takes it so.
    label, prediction = np.full((1, 4, 6), 2000), np.full((1, 4, 6), 0)
    files = write_files(tmp_path, label, prediction, things=(1,), stuff=(2,))
    content = json.loads(files['pred_json'].read_text())
    content['annotations'][0]['segments_info'] = [{'id': 0, 'category_id': 2}]
    files['pred_json'].write_text(json.dumps(content))
    report, _ = evaluate_files(**files, metrics=('pq',))
    assert report['pq']['All']['pq'] == 1.0


def segment(content, **fields):
    content['annotations'][0]['segments_info'][0].update(fields)


FAULTS = {
    'id not in the JSON': (
        'pred',
        lambda c: segment(c, id=77),
        r'pred.*000\.png holds segment id 1002, which segments_info of the prediction 000\.png does'
        r' not',
    ),
    'no id in the PNG': (
        'pred',
        lambda c: c['annotations'][0].update(segments_info=[{'id': 99, 'category_id': 2}]),
        r'prediction 000\.png: none of the 1 segments has a pixel in prediction PNG',
    ),
    'label id not in the JSON': (
        'gt',
        lambda c: c['annotations'][0]['segments_info'].pop(),
        r'label PNG .*000\.png holds segment id 2001',
    ),
    'repeated id': (
        'pred',
        lambda c: segment(c, id=2001),
        r'segments_info\[1\] of annotations\[0\] of .*pred\.json: id 2001 is given twice',
    ),
    'unknown category': (
        'pred',
        lambda c: segment(c, category_id=7),
        r'category_id 7 is not among',
    ),
    'label category': ('gt', lambda c: segment(c, category_id=-1), r'category_id -1 is not among'),
    'id out of range': (
        'pred',
        lambda c: segment(c, id=2**24),
        r'id must lie in 0 \.\. 16777215, got 16777216',
    ),
    'label of id 0': ('gt', lambda c: segment(c, id=0), r'holds segment id 1002, which'),
    'boolean id': ('pred', lambda c: segment(c, id=True), r'id must be int, got True'),
    'crowd flag': ('gt', lambda c: segment(c, iscrowd=2), r'iscrowd must be 0 or 1, got 2'),
    'area': ('gt', lambda c: segment(c, area=-4), r'area must be a number of pixels, .* got -4'),
    'huge area': (
        'gt',
        lambda c: segment(c, area=10**400),
        r'area must be .* got an integer of more than 70 digits',
    ),
    'score': ('pred', lambda c: segment(c, score=float('nan')), r'score nan .* must be finite'),
    'text as score': (
        'pred',
        lambda c: segment(c, score='1'),
        r"score must be int or float, got '1'",
    ),
    'traversal': (
        'pred',
        lambda c: c['annotations'][0].update(file_name='../gt/000.png'),
        r"annotations\[0\] of .*pred\.json: file_name '\.\./gt/000\.png' must be a path below",
    ),
    'absolute path': (
        'pred',
        lambda c: c['annotations'][0].update(file_name='/etc/passwd'),
        r'prediction PNG /etc/passwd does not exist in .*pred',
    ),
    'missing PNG': (
        'pred',
        lambda c: c['annotations'][0].update(file_name='gone.png'),
        r'prediction PNG .*gone\.png does not exist',
    ),
    'missing image': (
        'pred',
        lambda c: c['annotations'].pop(),
        r'lacks 1 of the 1 images .* image_id 0',
    ),
    'repeated image': (
        'gt',
        lambda c: c['annotations'].append({**c['annotations'][0], 'file_name': 'x.png'}),
        r"annotations\[1\] of .*: image_id '0' is annotated twice, with the PNGs '000\.png' and",
    ),
    'no images': ('gt', lambda c: c['annotations'].clear(), r'annotations of .*gt\.json is empty'),
    'no categories': ('gt', lambda c: c.pop('categories'), r'gt\.json lacks the field .categories'),
    'repeated category': (
        'gt',
        lambda c: c['categories'].append(c['categories'][0]),
        r'categories\[\]\.id of .*gt\.json holds 1 more than once',
    ),
    'no list': ('gt', lambda c: c.update(annotations={}), r'annotations must be list, got {}'),
}


@pytest.fixture
def tiny(tmp_path):
    maps = np.full((1, 6, 8), 2000)
    maps[0, :3, :5] = 1001
    return write_files(tmp_path, maps, maps, things=(1,), stuff=(2,))


@pytest.mark.parametrize('side, spoil, message', FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named(tiny, side, spoil, message):
    content = json.loads(tiny[f'{side}_json'].read_text())
    spoil(content)
    tiny[f'{side}_json'].write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_files(**tiny)


def test_damaged_files_are_named(tiny):
    png = tiny['pred_folder'] / '000.png'
    png.write_bytes(encode_ids(np.ones((6, 7), int)))
    content = {'annotations': [{'image_id': 0, 'file_name': '000.png', 'segments_info': []}]}
    tiny['pred_json'].write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'000\.png has 6x7 pixels .* its label 6x8: predict at'):
        evaluate_files(**tiny)
    png.write_bytes(png.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r'prediction PNG .*000\.png: damaged or truncated'):
        evaluate_files(**tiny)
    for text in ('{"annotations": [', '[' * 100000):
        tiny['pred_json'].write_text(text)
        with pytest.raises(ValueError, match=r'pred\.json is not valid JSON'):
            evaluate_files(**tiny)
    with pytest.raises(FileNotFoundError, match='folder of label PNGs .*nowhere does not exist'):
        evaluate_files(**{**tiny, 'gt_folder': 'nowhere'})
    with pytest.raises(ValueError, match="metrics 'pq,map' must be some of pq,miou,ap,pc"):
        evaluate_files(**tiny, metrics=('pq', 'map'))


def as_flags(files):
    return [f'--{name}={path}' for name, path in files.items()]


def parse(arguments):
    parser = argparse.ArgumentParser()
    score.add_flags(parser)
    return parser.parse_args(arguments)


def test_command_prints_a_table_and_writes_json(street, tmp_path, capsys):
    _, files = street
    output = tmp_path / 'reports' / 'report.json'
    score.run(parse([*as_flags(files), '--metrics=pq,miou', f'--output={output}']))
    report = json.loads(output.read_text())
    assert report.keys() == {
        'pq', 'miou', 'pixel_accuracy', 'iou_per_class', 'num_images', 'notes'
    }  # fmt: skip
    quality = report['pq']['All']
    table = capsys.readouterr().out
    percents = ' '.join(f'{100 * quality[key]:6.1f}' for key in ('pq', 'sq', 'rq'))
    assert f'{"All":24} | {percents} | {7:6d}' in table
    assert f'{"mIoU":24} | {100 * report["miou"]:6.1f}' in table
    assert 'category 33' in table


def test_flags_offer_what_the_library_has(tiny):
    flags = parse(as_flags(tiny))
    assert flags.metrics == ','.join(METRICS) and flags.dataset == DATASETS[0]
    for dataset in DATASETS:
        parse([*as_flags(tiny), f'--dataset={dataset}'])
    for example in score.EXAMPLES.replace('\\\n', ' ').splitlines():
        assert shlex.split(example)[:2] == ['pdl_jax', 'score']
        parse(shlex.split(example)[2:])


def test_command_loads_no_framework(tiny):
    """Help needs no NumPy; scoring needs no JAX, so that the workers can be forked."""
    code = (
        'import argparse, sys; from pdl_jax.commands import score;'
        'parser = argparse.ArgumentParser(); score.add_flags(parser);'
        'flags = parser.parse_args(sys.argv[1:]); assert "numpy" not in sys.modules;'
        'score.run(flags);'
        'assert "jax" not in sys.modules and "tensorflow" not in sys.modules'
    )
    command = [sys.executable, '-c', code, *as_flags(tiny)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert f'{"All":24} |  100.0  100.0  100.0 | {2:6d}' in result.stdout
    assert result.stderr.startswith('note: 1 of 1 predicted things have no field score')
    tiny['pred_json'].write_text('{}')
    with pytest.raises(ValueError, match='lacks the field'):
        score.run(parse(as_flags(tiny)))
