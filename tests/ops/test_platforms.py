"""Pinned platforms: one implementation in a program, and portable ones that equal the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops import segments
from pdl_jax.ops.label_probability import probability_of_labels
from pdl_jax.ops.platforms import (
    by_platform,
    eval_shape,
    is_portable,
    pin_platform,
    pin_platform_of,
)
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.ops.upsampled_logits import classify_pixels
from pdl_jax.postprocess.centers import find_centers
from pdl_jax.postprocess.grouping import group_pixels
from pdl_jax.postprocess.merge import merge_panoptic
from pdl_jax.postprocess.scores import segment_table
from pdl_jax.typing import LabelFormat


@jax.jit
def name_platform(x):
    return by_platform(
        x, cpu=lambda x: x + 1, tpu=lambda x: x + 2, default=lambda x: x + 3, portable=lambda x: -x
    )


@pytest.mark.parametrize(
    ('platform', 'expected'), [('cpu', 1), ('tpu', 2), ('cuda', 3), ('portable', 0)]
)
def test_a_jitted_function_is_traced_anew_for_a_pinned_platform(platform, expected):
    assert name_platform(0) == 1
    with pin_platform(platform):
        assert name_platform(0) == expected
        assert is_portable() == (platform == 'portable')
    assert name_platform(0) == 1 and not is_portable()


def test_a_pinned_program_has_no_choice_in_it():
    find = functools.partial(find_centers, kernel_px=3, max_centers=4)
    assert 'platform_index' in str(jax.make_jaxpr(find)(np.zeros((8, 8), np.float32)))
    for platform in ('cpu', 'tpu', 'portable'):
        with pin_platform(platform):
            text = str(jax.make_jaxpr(find)(np.zeros((8, 8), np.float32)))
        assert 'platform_index' not in text


def test_shapes_are_those_of_one_implementation():
    traced = []

    def run(x):
        def note(name):
            return lambda x: traced.append(name) or jnp.stack([x, x])

        return by_platform(x, cpu=note('cpu'), default=note('default'), portable=note('portable'))

    assert eval_shape(run, np.zeros(3, np.float32)).shape == (2, 3)
    with pin_platform('portable'):
        eval_shape(run, np.zeros(3, np.float32))
    assert traced == ['default', 'portable']


def test_a_program_is_pinned_to_the_devices_of_its_arguments():
    text = str(jax.make_jaxpr(name_platform)(0))
    assert 'platform_index' in text
    with pin_platform_of({'x': jnp.zeros(2), 'y': np.zeros(2)}):
        assert name_platform(0) == 1
        assert 'platform_index' not in str(jax.make_jaxpr(name_platform)(0))


def test_an_unknown_platform_is_refused():
    with pytest.raises(ValueError, match="platform .='gpu'. must be one of"):
        with pin_platform('gpu'):
            pass


def compute_labels(index, values, labels):
    ids, count = segments.unique_labels(labels, size=6, num_labels=40)
    return {
        'ids': ids,
        'count': count,
        'row': segments.index_labels(labels, ids, num_labels=40),
        'sum': segments.segment_sum(index, values, 5),
        'pairs': segments.count_pairs(index, labels, 5, 40),
        'lookup': segments.lookup(jnp.arange(1.0, 6.0), index),
        'first': segments.first_pixels(index, 5),
        'boxes': segments.segment_boxes(index, 5),
        'centroids': segments.segment_centroids(index, 5),
    }


def compute_network_ops(logits, labels):
    classes = classify_pixels(logits, (21, 17), 'corner_aligned')
    return {
        'resized': resize_bilinear(logits, (13, 9), 'half_pixel'),
        'classes': classes,
        'probability': probability_of_labels(logits, classes, labels, 'corner_aligned'),
    }


def compute_panoptic(heat, offsets, semantic):
    centers, scores, valid = find_centers(heat, threshold=0.3, kernel_px=4, max_centers=9)
    instance = group_pixels(centers, valid, offsets)
    label_format = LabelFormat(4, (1, 2), 255, 100)
    panoptic = merge_panoptic(
        semantic, instance, label_format=label_format, max_instances=9, stuff_area_limit=3
    )
    table = segment_table(panoptic, heat, heat, label_format=label_format, max_segments=13)
    return centers, scores, valid, instance, panoptic, table


def draw_arguments(function):
    rng = np.random.default_rng(0)
    if function is compute_labels:
        return (
            rng.integers(-1, 6, (19, 23)).astype(np.int32),
            rng.normal(size=(19, 23, 2)).astype(np.float32),
            rng.choice(np.array([3, 7, 8, 39, 40, -2], np.int32), (19, 23)),
        )
    if function is compute_network_ops:
        logits = rng.normal(size=(2, 6, 5, 7)).astype(np.float32)
        return logits, rng.integers(0, 7, (2, 21, 17)).astype(np.int32)
    # Equal heights, so that ties and plateaus are met; more peaks than rows.
    heat = (rng.integers(0, 8, (25, 31)) / 8).astype(np.float32)
    offsets = rng.normal(0, 4, (25, 31, 2)).astype(np.float32)
    return heat, offsets, rng.integers(0, 4, (25, 31)).astype(np.int32)


@pytest.mark.parametrize('function', [compute_labels, compute_network_ops, compute_panoptic])
def test_portable_implementations_equal_those_of_the_platform(function):
    arguments = draw_arguments(function)
    expected = jax.jit(function)(*arguments)
    with pin_platform('portable'):
        found = jax.jit(function)(*arguments)

    def check(one, other):
        assert one.dtype == other.dtype
        exact = one.dtype.kind in 'ib'
        np.testing.assert_allclose(one, other, rtol=0 if exact else 1e-5, atol=0 if exact else 2e-6)

    jax.tree.map(check, expected, found)
