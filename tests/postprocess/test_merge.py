"""Majority vote and numbering against a loop over instances."""

import functools

import jax
import numpy as np
import pytest

from pdl_jax.postprocess.merge import is_in_classes, merge_panoptic
from pdl_jax.typing import LabelFormat


def merge_by_loops(semantic, instance, label_format, limit):
    """The rules in the order of DeepLab2's program."""
    divisor = label_format.label_divisor
    panoptic = np.full(semantic.shape, label_format.void_label)
    is_thing = np.isin(semantic, label_format.thing_classes)
    numbers = dict.fromkeys(label_format.thing_classes, 0)
    for i in dict.fromkeys(instance[is_thing].tolist()):
        if i == 0:
            continue
        mask = (instance == i) & is_thing
        winner = np.bincount(semantic[mask]).argmax()
        numbers[winner] += 1
        if numbers[winner] < divisor:
            panoptic[mask] = winner * divisor + numbers[winner]
    for c in label_format.stuff_classes:
        mask = semantic == c
        if mask.sum() >= limit:
            panoptic[mask] = c * divisor
    return panoptic


FORMATS = [
    LabelFormat(6, (1, 4, 5), 255, 1000),
    LabelFormat(6, (1, 2, 3), 0, 256),
    LabelFormat(6, (0, 2), 6, 4),
    LabelFormat(6, (), 7, 10),
]


@pytest.mark.parametrize('label_format', FORMATS)
def test_equals_loops_on_random_maps(label_format):
    merge = functools.partial(
        merge_panoptic, label_format=label_format, max_instances=12, stuff_area_limit=60
    )
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 6, (4, 5, 6))
    semantic = np.kron(coarse, np.ones((1, 4, 5), int)).astype(np.int32)
    noise = rng.random(semantic.shape) < 0.2
    semantic[noise] = rng.integers(0, 6, noise.sum())
    instance = rng.integers(0, 13, semantic.shape).astype(np.int32)
    merged = jax.jit(jax.vmap(merge))(semantic, instance)
    for i in range(4):
        expected = merge_by_loops(semantic[i], instance[i], label_format, 60)
        np.testing.assert_array_equal(merged[i], expected)
        np.testing.assert_array_equal(jax.jit(merge)(semantic[i], instance[i]), expected)


def test_toy_of_deeplab2():
    semantic = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 2, 2, 0], [2, 2, 3, 3]], np.int32)
    instance = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [2, 2, 3, 3]], np.int32)
    merged = merge_panoptic(
        semantic,
        instance,
        label_format=LabelFormat(4, (2, 3), 255, 256),
        max_instances=3,
        stuff_area_limit=3,
    )
    void = 255 * 256
    expected = [[0] * 4, [0, void, void, 0], [0, 513, 513, 0], [514, 514, 769, 769]]
    np.testing.assert_array_equal(merged, expected)


def test_instances_beyond_the_divisor_become_void():
    label_format = LabelFormat(2, (1,), 255, 3)
    merged = merge_panoptic(
        np.ones((1, 4), np.int32),
        np.array([[3, 1, 2, 4]], np.int32),
        label_format=label_format,
        max_instances=4,
        stuff_area_limit=0,
    )
    np.testing.assert_array_equal(merged, [[4, 5, 765, 765]])


def test_classes_as_ranges():
    values = np.arange(-1, 12, dtype=np.int32)
    for classes in [(), (0,), (3, 4, 5, 9), (11, 0, 1)]:
        np.testing.assert_array_equal(is_in_classes(values, classes), np.isin(values, classes))
