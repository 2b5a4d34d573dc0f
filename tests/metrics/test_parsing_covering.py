"""Parsing covering against the numbers of its origin and hand-computed cases."""

import functools
import json

import jax
import numpy as np
import pytest

from pdl_jax.metrics.parsing_covering import ParsingCovering
from pdl_jax.typing import LabelFormat
from tests.metrics.panoptic_cases import (
    REFERENCE_SEGMENTS,
    REFERENCE_SIZE,
    pad,
    read_deeplab2_maps,
    read_reference_cases,
)


@functools.cache
def compile_count(metric):
    return jax.jit(metric.from_model_output)


def score(metric, label, prediction, size=None, valid=True):
    return compile_count(metric)(
        panoptic_label=np.asarray(label, np.int32)[None],
        panoptic_prediction=np.asarray(prediction, np.int32)[None],
        size=np.array([size or np.shape(label)], np.int32),
        valid=np.array([valid]),
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['coco', 'voc'])
@pytest.mark.parametrize('kind', ['normalized', 'raw'])
def test_equals_the_origin_on_every_case(name, kind):
    label_format, _, cases, expected, _ = read_reference_cases(name)
    expected = expected['pc']
    metric = ParsingCovering.for_format(
        label_format, max_segments=REFERENCE_SEGMENTS, is_area_normalized=kind == 'normalized'
    )
    count = jax.jit(metric.from_model_output)
    total = metric.empty()
    for case_name, case in cases.items():
        result = count(
            panoptic_label=pad(case['gt'], REFERENCE_SIZE, label_format.void_label),
            panoptic_prediction=pad(case['pred'], REFERENCE_SIZE, label_format.void_label),
            size=np.array([case['gt'].shape]),
            valid=np.ones(1, bool),
        ).to_host()
        # The mean of one image is the same with normalized areas.
        assert result.compute()['All'] == pytest.approx(expected['per_image'][case_name], abs=1e-6)
        total = total.merge(result)
    result = total.compute()
    for group in ('All', 'Things', 'Stuff'):
        assert result[group] == pytest.approx(expected[kind][group], abs=1e-6)
    for c, value in expected[kind]['per_class'].items():
        assert result['per_class']['valid'][int(c)] == (value is not None)
        assert result['per_class']['pc'][int(c)] == pytest.approx(value or 0.0, abs=1e-6)
        assert total.area[int(c)] == pytest.approx(expected[kind]['gt_area'][c], rel=1e-6)


def test_team_of_deeplab2(shared_dir):
    goldens = json.loads((shared_dir / 'golden' / 'deeplab2_and_tf1_goldens.json').read_text())
    expected = goldens['published']['tfmodels_pc_team']
    label, prediction = read_deeplab2_maps(shared_dir, 'team')
    for is_normalized, suffix in ((False, ''), (True, '_normalized')):
        metric = ParsingCovering.for_format(
            LabelFormat(3, (), 0, 256), max_segments=32, is_area_normalized=is_normalized
        )
        result = score(metric, label, prediction)
        np.testing.assert_allclose(result.area, expected[f'gt_area{suffix}'], rtol=1e-6)
        np.testing.assert_allclose(
            result.weighted_iou, expected[f'weighted_iou{suffix}'], rtol=1e-6
        )
        assert result.compute()['All'] == pytest.approx({'pc': expected['pc'], 'n': 2}, abs=1e-6)


def test_splitting_and_merging_halve_and_shifting_classes_gives_nothing():
    metric = ParsingCovering.for_format(LabelFormat(4, (1, 2), 255, 10), max_segments=4)
    whole = np.full((4, 6), 11)
    halves = np.where(np.arange(6) < 3, 11, 12) + np.zeros((4, 1), int)
    assert score(metric, whole, halves).compute()['All']['pc'] == pytest.approx(0.5)
    assert score(metric, halves, whole).compute()['All']['pc'] == pytest.approx(0.5)
    assert score(metric, whole, whole + 10).compute()['All'] == {'pc': 0.0, 'n': 1}
    # Predictions do not grow by what lies on void or on a crowd, and both need no covering.
    label = np.where(np.arange(6) < 4, np.where(np.arange(6) < 3, 11, 10), 2550)
    assert score(metric, label + np.zeros((4, 1), int), whole).compute()['All'] == {
        'pc': 1.0,
        'n': 1,
    }


def test_areas_are_shares_of_the_image_without_its_padding():
    metric = ParsingCovering.for_format(LabelFormat(3, (1,), 255, 10), max_segments=4)
    label = np.full((8, 8), 2550)
    label[:4, :4] = 20
    assert score(metric, label, label, size=(4, 4)).area.tolist() == [0, 0, 1]
    assert score(metric, label, label, size=(4, 8)).area.tolist() == [0, 0, 0.5]


def test_padding_images_do_not_count_and_overflow_is_an_error():
    metric = ParsingCovering.for_format(LabelFormat(3, (1,), 255, 10), max_segments=4)
    label = np.arange(11, 16).reshape(1, 5)
    assert score(metric, label, label, valid=False).compute()['All']['pc'] is None
    with pytest.raises(ValueError, match=r'max_segments \(=4\).*ParsingCovering.for_format'):
        score(metric, label, label).compute()
