"""Panoptic quality against panopticapi's numbers and a NumPy oracle."""

import collections
import fractions
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics

from pdl_jax.evaluation.files.score_files import evaluate_files
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.typing import LabelFormat
from tests.metrics.panoptic_cases import (
    REFERENCE_SEGMENTS,
    REFERENCE_SIZE,
    count_by_masks,
    pad,
    read_deeplab2_maps,
    read_reference_cases,
    write_reference_cases,
)


@pytest.fixture(scope='module', params=['coco', 'voc'])
def golden(request):
    """The metric of each reference case, on a canvas of one size, and the cases."""
    reference = read_reference_cases(request.param)
    label_format, cases = reference.label_format, reference.cases
    metric = PanopticQuality.for_format(label_format, max_segments=REFERENCE_SEGMENTS)
    count = jax.jit(metric.from_model_output)
    results = {
        name: count(
            panoptic_label=pad(case['gt'], REFERENCE_SIZE, label_format.void_label),
            panoptic_prediction=pad(case['pred'], REFERENCE_SIZE, label_format.void_label),
            valid=np.ones(1, bool),
        ).to_host()
        for name, case in cases.items()
    }
    return results, reference


def check(result, expected):
    for group in ('All', 'Things', 'Stuff'):
        assert result[group]['n'] == expected[group]['n']
        for name in ('pq', 'sq', 'rq'):
            assert result[group][name] == pytest.approx(expected[group][name], abs=1e-9)
    for c, values in expected['per_class'].items():
        for name, value in values.items():
            assert result['per_class'][name][int(c)] == pytest.approx(value, abs=1e-9)


@pytest.mark.slow
def test_equals_panopticapi_on_every_case(golden):
    results, reference = golden
    expected = reference.expected['pq']
    assert results.keys() == expected['per_image'].keys()
    for name, metric in results.items():
        check(metric.compute(), expected['per_image'][name])


def test_equals_panopticapi_over_all_cases(golden):
    results, reference = golden
    expected = reference.expected['pq']
    total = next(iter(results.values())).empty()
    for metric in results.values():
        total = total.merge(metric)
    check(total.compute(), expected)
    for c, counts in expected['stats'].items():
        for name in ('tp', 'fp', 'fn'):
            assert total.compute()['per_class'][name][int(c)] == counts[name]


def test_equals_the_evaluation_of_files(golden, tmp_path):
    results, reference = golden
    total = next(iter(results.values())).empty()
    for metric in results.values():
        total = total.merge(metric)
    from_device = total.compute()
    from_files, _ = evaluate_files(**write_reference_cases(tmp_path, reference), metrics=('pq',))
    for group in ('All', 'Things', 'Stuff'):
        assert from_device[group] == pytest.approx(from_files['pq'][group], abs=1e-13)
    for c, category in enumerate(reference.categories):
        row = from_files['pq']['per_class'][str(category)]
        ours = {key: from_device['per_class'][key][c] for key in row}
        assert ours == pytest.approx(row, abs=1e-13)


@pytest.mark.parametrize('names', [('team',), ('bird', 'cat', 'team')])
def test_equals_deeplab2_on_its_pictures(shared_dir, names):
    goldens = json.loads((shared_dir / 'golden' / 'deeplab2_and_tf1_goldens.json').read_text())
    # DeepLab2's rule for PQ has no crowds: with all classes as stuff there are none.
    metric = PanopticQuality.for_format(LabelFormat(7, (), 0, 256), max_segments=32)
    count = jax.jit(metric.from_model_output)
    total = metric.empty()
    for name in names:
        label, prediction = read_deeplab2_maps(shared_dir, name)
        batch = {
            'panoptic_label': pad(label, (330, 345), 0),
            'panoptic_prediction': pad(prediction, (330, 345), 0),
        }
        total = total.merge(count(**batch, valid=np.ones(1, bool)).to_host())
    result = total.compute()
    stored = goldens['images']['+'.join(names)]['pq']['deeplab2']
    published = goldens['published']['deeplab2_pq_' + '_'.join(names)]
    valid = result['per_class']['valid']
    for key in ('pq', 'sq', 'rq'):
        assert result['All'][key] == pytest.approx(stored['All'][key], abs=1e-9)
        assert result['All'][key] == pytest.approx(published[key], abs=1e-7)
        for c, row in stored['per_class'].items():
            assert result['per_class'][key][int(c)] == pytest.approx(row[key], abs=1e-9)
    for key in ('tp', 'fp', 'fn'):
        assert result['per_class'][key][valid].mean() == pytest.approx(published[key])


FORMATS = [LabelFormat(5, (1, 2), 255, 100), LabelFormat(5, (1, 2, 3), 0, 16)]


def make_maps(label_format, seed, batch=4):
    """A label map with crowds and void, and a prediction that copies most of its blocks."""
    rng = np.random.default_rng(seed)
    classes = [*range(label_format.num_classes), label_format.ignore_label]
    semantic = rng.choice(classes, (2, batch, 6, 6))
    instance = rng.integers(0, 3, semantic.shape)
    instance[~np.isin(semantic, label_format.thing_classes)] = 0
    coarse = semantic * label_format.label_divisor + instance
    coarse[1] = np.where(rng.random(coarse[0].shape) < 0.9, coarse[0], coarse[1])
    maps = np.kron(coarse, np.ones((1, 1, 5, 7), int)).astype(np.int32)
    maps[1, :, :-1, :-2] = maps[1, :, 1:, 2:]
    return maps


@pytest.mark.parametrize('label_format', FORMATS)
def test_equals_masks_on_random_maps(label_format):
    metric = PanopticQuality.for_format(label_format, max_segments=40)
    count = jax.jit(metric.from_model_output)
    seen = collections.Counter()
    for seed in range(8):
        label, prediction = make_maps(label_format, seed)
        valid = np.array([True, True, False, True])
        result = count(panoptic_label=label, panoptic_prediction=prediction, valid=valid)
        expected = collections.Counter()
        for i in np.flatnonzero(valid):
            expected.update(count_by_masks(label[i], prediction[i], label_format))
        for name in ('tp', 'fp', 'fn'):
            counts = [expected[name, c] for c in range(label_format.num_classes)]
            np.testing.assert_array_equal(getattr(result, name), counts)
            seen[name] += sum(counts)
        iou = [expected['iou', c] for c in range(label_format.num_classes)]
        digits = np.asarray(result.iou_digits)
        np.testing.assert_allclose(digits @ [2**-16, 2**-32, 2**-48], iou, rtol=1e-12)
    assert min(seen.values()) > 20


def test_a_perfect_prediction_scores_one():
    label, _ = make_maps(FORMATS[0], 0)
    is_crowd = (label // 100 == 1) | (label // 100 == 2)
    label = np.where(is_crowd & (label % 100 == 0), label + 7, label)
    metric = PanopticQuality.for_format(FORMATS[0])
    count = jax.jit(metric.from_model_output)
    result = count(panoptic_label=label, panoptic_prediction=label, valid=np.ones(4, bool))
    assert result.compute()['All'] == {'pq': 1.0, 'sq': 1.0, 'rq': 1.0, 'n': 5}


def test_too_many_segments_are_an_error_and_not_a_wrong_number():
    label = np.arange(100, 200, dtype=np.int32).reshape(1, 10, 10)
    fill = np.zeros((1, 10, 10), np.int32)
    small = PanopticQuality.for_format(FORMATS[0], max_segments=99)
    count = jax.jit(small.from_model_output)
    result = count(panoptic_label=label, panoptic_prediction=fill, valid=np.ones(1, bool))
    with pytest.raises(ValueError, match=r'1 images have more than max_segments \(=99\)'):
        result.compute()
    padding = count(panoptic_label=label, panoptic_prediction=fill, valid=np.zeros(1, bool))
    assert padding.compute()['All'] == {'pq': None, 'sq': None, 'rq': None, 'n': 0}


def test_the_sum_of_iou_is_exact():
    label_format = LabelFormat(1, (0,), 255, 1000)
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(1, 65), 50).reshape(64, 50).astype(np.int32)
    prediction = np.where(np.arange(50) < rng.integers(26, 51, (64, 1)), label, label + 500)
    metric = PanopticQuality.for_format(label_format, max_segments=128)
    count = jax.jit(metric.from_model_output)
    result = count(
        panoptic_label=label[None], panoptic_prediction=prediction[None], valid=np.ones(1, bool)
    )
    expected = [fractions.Fraction(int((row < 500).sum()), 50) for row in prediction]
    assert result.compute()['per_class']['sq'][0] == pytest.approx(
        float(sum(expected) / 64), abs=1e-14
    )


def test_counts_on_the_host_do_not_overflow():
    metric = PanopticQuality.for_format(FORMATS[0])
    many = jnp.full(5, 2**30, jnp.int32)
    digits = jnp.full((5, 3), 3 * 2**29, jnp.int32)
    batch = metric(iou_digits=digits, tp=many, fp=many, fn=many, num_overflowing=jnp.int32(0))
    total = metric.empty()
    for _ in range(5):
        total = total.merge(batch.to_host())
    assert total.tp.dtype == np.int64
    assert total.tp.tolist() == [5 * 2**30] * 5
    assert total.iou_digits.tolist() == [[15 * 2**29] * 3] * 5


def test_one_class_per_format_inside_a_jitted_collection():
    pq = PanopticQuality.for_format(FORMATS[0], max_segments=256)
    assert pq is PanopticQuality.for_format(FORMATS[0])
    collection = metrics.Collection.create(pq=pq)
    label, prediction = make_maps(FORMATS[0], 1)
    batch = {'panoptic_label': label, 'panoptic_prediction': prediction, 'valid': np.ones(4, bool)}
    single = jax.jit(collection.single_from_model_output)(**batch)
    twice = single.merge(single)
    np.testing.assert_array_equal(twice.pq.tp, 2 * np.asarray(single.pq.tp))
    assert int(single.pq.tp.sum()) > 0


def test_class_without_format_names_the_remedy():
    with pytest.raises(ValueError, match='for_format'):
        PanopticQuality.empty()
