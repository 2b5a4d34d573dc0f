"""Targets of mask transformers against a plain loop over segments, and their edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops.platforms import pin_platform
from pdl_jax.ops.resize import subsample
from pdl_jax.preprocess.mask_targets import MaskTargetOptions, make_mask_targets
from pdl_jax.typing import LabelFormat

# Void inside of the classes, as in COCO, and beyond them, as in Cityscapes.
FORMATS = (
    LabelFormat(num_classes=5, thing_classes=(1, 3), ignore_label=0, label_divisor=10),
    LabelFormat(num_classes=4, thing_classes=(2, 3), ignore_label=255, label_divisor=10),
)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def make(panoptic, size, label_format, options):
    return make_mask_targets(panoptic, size=size, label_format=label_format, options=options)


def loop_over_segments(panoptic, step, label_format, options):
    """The targets as a dict from label to (class index, mask, is small), and the semantic map."""
    label_map = panoptic[::step, ::step]
    segments, semantic = {}, np.full(label_map.shape, -1)
    for label in np.unique(label_map):
        value, instance = divmod(label, label_format.label_divisor)
        if value not in label_format.valid_classes:
            continue
        is_thing = value in label_format.thing_classes
        if is_thing and instance == 0:
            continue
        key = label if is_thing else value * label_format.label_divisor
        index = label_format.valid_classes.index(value)
        mask = segments.get(key, (0, False))[1] | (label_map == label)
        area = mask.sum() * panoptic.size / label_map.size
        segments[key] = index, mask, is_thing and area < options.small_instance_area_px
        semantic[label_map == label] = index
    return segments, semantic


def draw_label_map(label_format, rng, size):
    values = [*range(label_format.num_classes), label_format.ignore_label]
    blocks = rng.choice(values, (4, 5)) * label_format.label_divisor + rng.integers(0, 3, (4, 5))
    return np.kron(blocks, np.ones((9, 7), int))[: size[0], : size[1]].astype(np.int32)


@pytest.mark.parametrize(
    ('label_format', 'max_segments', 'platform'),
    [
        (FORMATS[0], 4, 'cpu'),
        (FORMATS[1], 24, 'cpu'),
        pytest.param(FORMATS[0], 4, 'tpu', marks=pytest.mark.slow),
    ],
)
def test_equals_a_loop_over_segments(label_format, max_segments, platform):
    rng = np.random.default_rng(0)
    options = MaskTargetOptions(max_segments, 100)
    with pin_platform(platform):
        for _ in range(4):
            panoptic = draw_label_map(label_format, rng, (33, 33))
            targets = make(panoptic, (17, 17), label_format, options)
            compare(targets, *loop_over_segments(panoptic, 2, label_format, options), options)


def compare(targets, segments, semantic, options):
    assert targets.count == len(segments)
    largest = sorted(segments, key=lambda key: (-segments[key][1].sum(), key))
    kept = sorted(largest[: options.max_segments])
    assert (targets.valid == (np.arange(options.max_segments) < len(kept))).all()
    expected = np.full(semantic.shape, -1)
    for row, key in enumerate(kept):
        label, mask, is_small = segments[key]
        expected[mask] = row
        assert targets.label[row] == label and targets.is_small[row] == is_small
    np.testing.assert_array_equal(targets.segment, expected)
    np.testing.assert_array_equal(targets.semantic, semantic)
    assert not targets.label[len(kept) :].any() and not targets.is_small[len(kept) :].any()


def test_a_map_smaller_than_the_list():
    panoptic = jnp.array([[0, 11], [20, 20]], jnp.int32)
    targets = make(panoptic, (2, 2), FORMATS[0], MaskTargetOptions(9, 1))
    np.testing.assert_array_equal(targets.segment, [[-1, 0], [1, 1]])
    assert targets.count == 2 and targets.label[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ('size', 'target', 'step'),
    [(1281, 321, 4), (1025, 513, 2), (640, 160, 4), (17, 9, 2), (65, 17, 4), (5, 1, 5), (7, 7, 1)],
)
def test_subsample(size, target, step):
    x = np.arange(size)[None]
    np.testing.assert_array_equal(subsample(x, (1, target))[0], x[0, ::step])


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r'\(1, 64\).*\(1, 33\)'):
        subsample(np.zeros((1, 64)), (1, 33))
    with pytest.raises(ValueError, match=r'config.targets.max_segments \(=0\)'):
        MaskTargetOptions(max_segments=0)
