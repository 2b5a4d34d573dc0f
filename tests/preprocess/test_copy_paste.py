"""Copy-paste against its definition, its draws, and its place in the train step."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.copy_paste import PADDING, paste_segments
from pdl_jax.training.step import StepOptions, make_training_samples
from pdl_jax.typing import LabelFormat

# Void among the classes, as in COCO, and beyond them, as in Cityscapes.
FORMATS = {
    'coco': LabelFormat(num_classes=7, thing_classes=(4, 6), ignore_label=0, label_divisor=100),
    'cityscapes': LabelFormat(7, thing_classes=(4, 6), ignore_label=255, label_divisor=100),
}
SIZE = (12, 15)


def _draw_sample(seed, labels):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(*SIZE, 3)).astype(np.float32)
    return jnp.asarray(image), jnp.asarray(rng.choice(labels, SIZE), jnp.int32)


@functools.cache
def _paste(name, probability, num):
    """Two samples, and the second pasted over the first by several keys."""
    label_format = FORMATS[name]
    void = label_format.void_label
    sample = _draw_sample(0, [void, 100, 500, 401, 402, 449])
    # Three classes of stuff, two of things, a crowd, void and padding.
    pasted = _draw_sample(1, [void, PADDING, 100, 200, 300, 400, 401, 449, 617])
    paste = functools.partial(paste_segments, label_format=label_format, probability=probability)
    draw = jax.jit(jax.vmap(paste, in_axes=(0, None, None)))
    return sample, pasted, draw(jax.random.split(jax.random.key(0), num), sample, pasted)


@pytest.mark.parametrize('name', FORMATS)
def test_all_things_some_stuff_and_never_void_are_pasted(name):
    (image, panoptic), (other, labels), results = _paste(name, 1.0, 400)
    renamed = {400: 400, 401: 498, 449: 450, 617: 682}
    subsets = collections.Counter()
    for new_image, new_panoptic in zip(*map(np.asarray, results), strict=True):
        kept = {c for c in (100, 200, 300) if np.all(new_panoptic[labels == c] == c)}
        expected, is_on_top = np.array(panoptic), np.zeros(SIZE, bool)
        for label, new in {**renamed, **{c: c for c in kept}}.items():
            expected[labels == label] = new
            is_on_top |= np.asarray(labels == label)
        np.testing.assert_array_equal(new_panoptic, expected)
        np.testing.assert_array_equal(new_image, np.where(is_on_top[..., None], other, image))
        subsets[tuple(sorted(kept))] += 1
    # Any number of the three is as likely as any other, and so are subsets of one size.
    assert len(subsets) == 8
    for subset, count in subsets.items():
        p = 1 / 4 / (1, 3, 3, 1)[len(subset)]
        assert abs(count - 400 * p) <= 4 * np.sqrt(400 * p * (1 - p)), subset


def test_probability_decides_whether_anything_is_pasted():
    (image, panoptic), _, (images, labels) = _paste('coco', 0.25, 200)
    is_same = np.array([np.array_equal(x, panoptic) for x in labels])
    assert 0.6 < is_same.mean() < 0.9
    assert [np.array_equal(x, image) for x in images] == is_same.tolist()


def test_a_train_step_pastes_each_image_at_half_its_size_over_the_next():
    label_format = FORMATS['cityscapes']
    options = AugmentOptions(
        (20, 24),
        min_scale=1.0,
        max_scale=1.0,
        flip_probability=0.0,
        copy_paste_probability=1.0,
    )
    # One object fills each image.
    objects = [401, 602, 403]
    batch = {
        'image': np.arange(60, 240, 60, np.uint8).reshape(3, 1, 1, 1)
        * np.ones((1, 22, 26, 3), 'u1'),
        'panoptic': np.array(objects, np.int32).reshape(3, 1, 1) * np.ones((1, 22, 26), 'i4'),
        'size': np.full((3, 2), (20, 24), np.int32),
    }
    make = jax.jit(
        lambda batch, step: make_training_samples(
            batch, step, label_format=label_format, options=StepOptions(options)
        )
    )
    starts = set()
    for step in range(4):
        image, panoptic = map(np.asarray, make(batch, step))
        for i in range(3):
            other = (i - 1) % 3
            label = objects[other] // 100 * 100 + 99 - objects[other] % 100
            is_on_top = panoptic[i] == label
            assert set(np.unique(panoptic[i])) == {label, objects[i]}
            y, x = np.nonzero(is_on_top)
            starts.add((y.min(), x.min()))
            assert is_on_top.sum() == (np.ptp(y) + 1) * (np.ptp(x) + 1) == 10 * 12
            values = np.where(is_on_top, 60 * (other + 1), 60 * (i + 1)) / 127.5 - 1
            np.testing.assert_allclose(image[i], np.repeat(values[..., None], 3, 2), atol=1e-5)
    assert len(starts) > 6


@pytest.mark.slow
def test_off_changes_no_draw():
    """With a probability that never strikes the samples are those without copy-paste."""
    rng = np.random.default_rng(0)
    batch = {
        'image': rng.integers(0, 256, (2, 20, 20, 3)).astype(np.uint8),
        'panoptic': rng.choice([100, 401, 402], (2, 20, 20)).astype(np.int32),
        'size': np.full((2, 2), 20, np.int32),
    }
    samples = []
    for probability in (0.0, 1e-30):
        options = StepOptions(AugmentOptions((16, 16), copy_paste_probability=probability))
        make = functools.partial(
            make_training_samples, label_format=FORMATS['coco'], options=options
        )
        samples.append(jax.jit(make)(batch, 3))
    np.testing.assert_array_equal(samples[0].panoptic, samples[1].panoptic)
    # The two programs may fuse a product with a sum differently.
    np.testing.assert_allclose(samples[0].image, samples[1].image, atol=1e-6)
