"""Panoptic quality against panopticapi's numbers and a NumPy oracle."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics

from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.typing import LabelFormat

CANVAS = 224


def count_by_masks(label, prediction, label_format):
    """Counter of ('iou' | 'tp' | 'fp' | 'fn', class) from one mask per segment."""
    divisor, ignore = label_format.label_divisor, label_format.ignore_label
    counts = collections.Counter()
    void = label // divisor == ignore
    predicted = {p: prediction == p for p in np.unique(prediction) if p // divisor != ignore}
    labelled = {g: label == g for g in np.unique(label) if g // divisor != ignore}
    crowd_labels = [c * divisor for c in label_format.thing_classes]
    crowds = {g: mask for g, mask in labelled.items() if g in crowd_labels}
    matched = set()
    for g in labelled.keys() - crowds.keys():
        for p, mask in predicted.items():
            shared = int((labelled[g] & mask).sum())
            union = int((labelled[g] | mask).sum()) - int((mask & void).sum())
            if g // divisor == p // divisor and 2 * shared > union:
                counts['tp', p // divisor] += 1
                counts['iou', p // divisor] += shared / union
                matched |= {('label', g), ('prediction', p)}
        if ('label', g) not in matched:
            counts['fn', g // divisor] += 1
    for p, mask in predicted.items():
        excuse = void | crowds.get(p // divisor * divisor, np.zeros_like(mask))
        if ('prediction', p) not in matched and 2 * (mask & excuse).sum() <= mask.sum():
            counts['fp', p // divisor] += 1
    return counts


@pytest.fixture(scope='module', params=['coco_d1000_ign255', 'voc_d1000_ign255'])
def golden(request, shared_dir):
    """The metric of every case on a canvas of one size, and the expected numbers."""
    folder = shared_dir / 'golden' / 'pq' / request.param
    meta = json.loads((folder / 'meta.json').read_text())
    label_format = LabelFormat(
        meta['num_classes'], tuple(meta['thing_ids']), meta['ignore_label'], meta['label_divisor']
    )
    metric = PanopticQuality.for_format(label_format, max_segments=512)
    count = jax.jit(metric.from_model_output)
    results = {}
    for path in sorted((folder / 'cases').glob('*.npz')):
        with np.load(path) as case:
            maps = np.full((2, 1, CANVAS, CANVAS), label_format.void_label, np.int32)
            height, width = case['gt'].shape
            maps[0, 0, :height, :width], maps[1, 0, :height, :width] = case['gt'], case['pred']
        results[path.stem] = count(
            panoptic_label=maps[0], panoptic_prediction=maps[1], valid=np.ones(1, bool)
        ).to_host()
    return results, json.loads((folder / 'expected_pq.json').read_text())['panopticapi']


def check(result, expected):
    for group in ('All', 'Things', 'Stuff'):
        assert result[group]['n'] == expected[group]['n']
        for name in ('pq', 'sq', 'rq'):
            if expected[group][name] is None:
                assert result[group][name] is None
            else:
                assert result[group][name] == pytest.approx(expected[group][name], abs=1e-6)
    for c, values in expected['per_class'].items():
        for name, value in values.items():
            assert result['per_class'][name][int(c)] == pytest.approx(value, abs=1e-6)


def test_equals_panopticapi_on_every_case(golden):
    results, expected = golden
    assert results.keys() == expected['per_image'].keys()
    for name, metric in results.items():
        check(metric.compute(), expected['per_image'][name])


def test_equals_panopticapi_over_all_cases(golden):
    results, expected = golden
    total = next(iter(results.values())).empty()
    for metric in results.values():
        total = total.merge(metric)
    check(total.compute(), expected)
    for c, counts in expected['stats'].items():
        for name in ('tp', 'fp', 'fn'):
            assert total.compute()['per_class'][name][int(c)] == counts[name]


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
        np.testing.assert_allclose(result.iou_sum, iou, rtol=1e-6)
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


def test_counts_on_the_host_do_not_overflow():
    metric = PanopticQuality.for_format(FORMATS[0])
    many = jnp.full(5, 2**30, jnp.int32)
    batch = metric(iou_sum=many * 0.75, tp=many, fp=many, fn=many, num_overflowing=jnp.int32(0))
    total = metric.empty()
    for _ in range(5):
        total = total.merge(batch.to_host())
    assert total.tp.dtype == np.int64
    assert total.tp.tolist() == [5 * 2**30] * 5
    assert total.compute()['All']['pq'] == pytest.approx(0.375)


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
