"""Average precision on the device against DeepLab2, pycocotools and cityscapesscripts."""

import json

import jax
import numpy as np
import pytest
from clu import metrics

from pdl_jax.evaluation.files.score_files import evaluate_files
from pdl_jax.metrics.instance_ap import CityscapesAP, InstanceAP
from pdl_jax.typing import LabelFormat
from tests.metrics.panoptic_cases import (
    REFERENCE_SEGMENTS,
    REFERENCE_SIZE,
    coco_stats,
    make_segment_table,
    pad,
    read_deeplab2_maps,
    read_reference_cases,
    read_street_scenes,
    write_files,
)

TOY = LabelFormat(4, (1, 2), 0, 256)


def score(metric, label, prediction, scores):
    """The metric of one image, counted under jit."""
    count = jax.jit(metric.from_model_output)
    return count(
        panoptic_label=np.asarray(label, np.int32)[None],
        panoptic_prediction=np.asarray(prediction, np.int32)[None],
        segment_table=make_segment_table(list(scores), list(scores.values()), len(scores)),
        valid=np.ones(1, bool),
    )


def test_single_object_of_deeplab2():
    label = np.zeros((4, 5), int)
    label[1, 2:4] = label[2, 2:] = 257
    prediction = np.where(np.arange(5) < 4, label, 0)
    result = score(
        InstanceAP.for_format(TOY, max_segments=4), label, prediction, {257: 0.8}
    ).compute()
    expected = [0.7, 1, 1, 0.7, -1, -1, 0.7, 0.7, 0.7, 0.7, -1, -1]
    np.testing.assert_allclose(coco_stats(result), expected, atol=1e-12)
    np.testing.assert_array_equal(result['per_class']['valid'], [False, True, False, False])


def test_team_of_deeplab2(shared_dir):
    goldens = json.loads((shared_dir / 'golden' / 'deeplab2_and_tf1_goldens.json').read_text())
    expected = goldens['images']['team']['coco_ap_things_1_2_scores_1']
    label, prediction = read_deeplab2_maps(shared_dir, 'team')
    metric = InstanceAP.for_format(LabelFormat(3, (1, 2), 0, 256), max_segments=32)
    scores = dict.fromkeys(np.unique(prediction).tolist(), 1.0)
    result = score(metric, label, prediction, scores).compute()
    np.testing.assert_allclose(coco_stats(result), expected['stats'], atol=1e-12)
    published = goldens['published']['deeplab2_coco_ap_team']
    np.testing.assert_allclose(coco_stats(result), published, atol=1e-4)
    for c, row in expected['per_class'].items():
        for name, value in row.items():
            assert result['per_class'][name][int(c)] == pytest.approx(value, abs=1e-12)


QUARTERS = np.kron([[257, 514], [0, 515]], np.ones((2, 2), int))
# The upper right has the wrong class.
PREDICTED = np.kron([[257, 258], [0, 515]], np.ones((2, 2), int))


@pytest.mark.parametrize(
    'scores, expected',
    [
        ((0.4, 0.9), [0.5025] * 4 + [-1, -1, 0.25, 0.75, 0.75, 0.75, -1, -1]),
        ((0.9, 0.4), [0.75248] * 4 + [-1, -1, 0.75, 0.75, 0.75, 0.75, -1, -1]),
    ],
)
def test_order_of_scores_of_deeplab2(scores, expected):
    label = np.where(QUARTERS == 514, 515, QUARTERS)
    label[:2, 2:] = 514
    scores = {257: scores[0], 258: scores[1], 515: 0.8}
    result = score(InstanceAP.for_format(TOY, max_segments=4), label, PREDICTED, scores).compute()
    np.testing.assert_allclose(coco_stats(result), expected, atol=1e-4)


def test_crowd_of_deeplab2():
    label = np.where(QUARTERS == 514, 512, QUARTERS)
    scores = dict.fromkeys((257, 258, 515), 1.0)
    result = score(InstanceAP.for_format(TOY, max_segments=4), label, PREDICTED, scores).compute()
    expected = [1, 1, 1, 1, -1, -1, 1, 1, 1, 1, -1, -1]
    np.testing.assert_allclose(coco_stats(result), expected, atol=1e-12)


def test_mistakes_in_stuff_do_not_count():
    stuff = LabelFormat(4, (3,), 0, 256)
    label = np.kron([[769, 514], [0, 515]], np.ones((2, 2), int))
    prediction = np.kron([[769, 258], [0, 515]], np.ones((2, 2), int))
    scores = dict.fromkeys((258, 515, 769), 1.0)
    result = score(
        InstanceAP.for_format(stuff, max_segments=4), label, prediction, scores
    ).compute()
    expected = [1, 1, 1, 1, -1, -1, 1, 1, 1, 1, -1, -1]
    np.testing.assert_allclose(coco_stats(result), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['coco', 'voc'])
def test_equals_pycocotools_over_all_cases(name):
    label_format, _, cases, expected, _ = read_reference_cases(name)
    expected = expected['ap']
    metric = InstanceAP.for_format(label_format, max_segments=REFERENCE_SEGMENTS)
    count = jax.jit(metric.from_model_output)
    total = metric.empty()
    for case in cases.values():
        batch = count(
            panoptic_label=pad(case['gt'], REFERENCE_SIZE, label_format.void_label),
            panoptic_prediction=pad(case['pred'], REFERENCE_SIZE, label_format.void_label),
            segment_table=make_segment_table(case['score_ids'], case['scores'], REFERENCE_SEGMENTS),
            valid=np.ones(1, bool),
        )
        total = total.merge(batch.to_host())
    result = total.compute()
    np.testing.assert_allclose(coco_stats(result), expected['stats'], atol=1e-9)
    for c, row in expected['per_class'].items():
        assert result['per_class']['valid'][int(c)] == (row['ap'] is not None)
        for key, value in row.items():
            assert result['per_class'][key][int(c)] == pytest.approx(value or 0.0, abs=1e-9)


@pytest.fixture(scope='module')
def street():
    """The stored street scenes with classes 0..6 instead of category ids."""
    cases = read_street_scenes()
    classes = (24, 25, 26, 33, 7, 11, 23)
    table = np.full(34, 255)
    table[list(classes)] = np.arange(len(classes))

    def number(panoptic):
        return (table[panoptic // 1000] * 1000 + panoptic % 1000).astype(np.int32)

    tables = [
        make_segment_table(number(np.array(list(row))), list(row.values()), 64)
        for row in cases['scores']
    ]
    batch = {
        'panoptic_label': number(cases['labels']),
        'panoptic_prediction': number(cases['predictions']),
        'segment_table': jax.tree.map(lambda *rows: np.concatenate(rows), *tables),
        'valid': np.ones(len(tables), bool),
    }
    return cases, LabelFormat(7, (0, 1, 2, 3), 255, 1000), batch


def count_in_batches(metric, batch, size):
    """Two padded batches, merged on the host; padding repeats the last image."""
    count = jax.jit(metric.from_model_output)
    total, num = metric.empty(), len(batch['valid'])
    for start in range(0, num, size):
        rows = np.minimum(np.arange(start, start + size), num - 1)
        part = jax.tree.map(lambda array, rows=rows: array[rows], batch)
        part['valid'] = np.arange(start, start + size) < num
        total = total.merge(count(**part).to_host())
    return total.compute()


def test_equals_pycocotools_with_crowds_and_equal_scores(street):
    cases, label_format, batch = street
    result = count_in_batches(InstanceAP.for_format(label_format, max_segments=64), batch, 7)
    np.testing.assert_allclose(coco_stats(result), cases['coco_stats'], atol=1e-9)


def test_equals_cityscapesscripts(street):
    cases, label_format, batch = street
    result = count_in_batches(CityscapesAP.for_format(label_format, max_segments=64), batch, 7)
    assert [result['ap'], result['ap50']] == pytest.approx(cases['cityscapes_average_ap'], abs=1e-9)
    precision = cases['cityscapes_ap']
    np.testing.assert_allclose(result['per_class']['ap'][:4], precision.mean(1), atol=1e-9)
    np.testing.assert_allclose(result['per_class']['ap50'][:4], precision[:, 0], atol=1e-9)
    np.testing.assert_array_equal(result['per_class']['valid'], [True] * 4 + [False] * 3)


def test_a_small_group_excuses_twice(tmp_path):
    """A rule that random scenes hardly meet, the same from the device and from files."""
    label = np.full((40, 40), 3000)
    label[:10, :10] = 1001  # to be found, just large enough
    label[20:30, :9] = 1000  # a small group
    prediction = np.full_like(label, 3000)
    prediction[:10, :10] = 1001
    # 54 of 180 pixels on the group, counted twice: excused at 0.5 and 0.55.
    prediction[20:29, 3:23] = 1002
    prediction[32:36, :] = 1003
    scores = {1001: 0.5, 1002: 0.9, 1003: 0.8, 3000: 1.0}
    label_format = LabelFormat(4, (1,), 255, 1000)
    result = score(
        CityscapesAP.for_format(label_format, max_segments=8), label, prediction, scores
    ).compute()
    files = write_files(
        tmp_path, label[None], prediction[None], things=(1,), stuff=(3,), scores=[scores]
    )
    report, _ = evaluate_files(**files, dataset='cityscapes', metrics=('ap',))
    # The right one ranks below one wrong detection, or two; the curve goes to recall 0 from there.
    expected = (2 * 1 / 2 + 8 * 1 / 3) / 10 / 2
    assert result['ap'] == report['ap']['ap'] == pytest.approx(expected, abs=1e-12)


def test_too_many_segments_are_an_error_and_not_a_wrong_number():
    label = np.arange(257, 267).reshape(2, 5)
    metric = InstanceAP.for_format(TOY, max_segments=9)
    with pytest.raises(ValueError, match=r'1 images have more than max_segments \(=9\)'):
        score(metric, label, label, {257: 1.0}).compute()


def test_one_class_per_format_inside_a_jitted_collection():
    metric = InstanceAP.for_format(TOY, max_segments=4)
    assert metric is InstanceAP.for_format(TOY, max_segments=4)
    assert CityscapesAP.for_format(TOY, max_segments=4) is not metric
    collection = metrics.Collection.create(ap=metric)
    batch = {
        'panoptic_label': QUARTERS[None].astype(np.int32),
        'panoptic_prediction': QUARTERS[None].astype(np.int32),
        'segment_table': make_segment_table([257, 514, 515], [1, 1, 1], 3),
        'valid': np.ones(1, bool),
    }
    single = jax.jit(collection.single_from_model_output)(**batch)
    assert single.merge(single).compute()['ap']['ap'] == 1.0
    assert metric.empty().compute()['ap'] is None
    with pytest.raises(ValueError, match=r'InstanceAP.for_format'):
        InstanceAP.empty().compute()
