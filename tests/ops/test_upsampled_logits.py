"""Upsampling block by block against upsampling first: values, gradients, memory and sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops import logit_blocks, upsampled_logits
from pdl_jax.ops.label_probability import probability_of_labels
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.platforms import pin_platform
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.ops.upsampled_logits import classify_pixels, cross_entropy_upsampled
from pdl_jax.runtime.sharding import make_mesh, shard_batch

# Whole and broken factors, shrinking, one pixel, no change; more classes than a chunk holds.
CASES = [
    ((17, 9), (65, 33), 5, 'corner_aligned'),
    ((12, 10), (50, 37), 23, 'corner_aligned'),
    ((9, 7), (5, 4), 21, 'corner_aligned'),
    ((1, 1), (6, 5), 3, 'corner_aligned'),
    ((16, 8), (64, 32), 41, 'half_pixel'),
    ((12, 9), (45, 37), 4, 'half_pixel'),
    ((5, 5), (5, 5), 3, 'half_pixel'),
]
# Keep XLA's optimisations but disable LLVM's, which take longer than the tests run.
QUICK = {'xla_backend_optimization_level': 0}


def _reference(logits, labels, mode):
    """Computes the cross entropy at full size; labels that are no class pick no logit."""
    logits = resize_bilinear(logits, labels.shape[1:], mode)
    is_label = labels[..., None] == jnp.arange(logits.shape[-1])
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits, axis=-1, where=is_label)


def _draw(small, size, num_classes, batch=2):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (batch, *small, num_classes)).astype(np.float32)
    labels = rng.integers(-1, num_classes, (batch, *size)).astype(np.int32)
    return logits, labels, rng.normal(size=(batch, *size)).astype(np.float32)


@pytest.fixture(params=['cpu', 'tpu'])
def platform(request):
    """Selects the implementation of the platform, computed on the CPU."""

    with pin_platform(request.param):
        yield request.param


@pytest.mark.slow
@pytest.mark.parametrize(('small', 'size', 'num_classes', 'mode'), CASES)
def test_equals_the_full_size(platform, monkeypatch, small, size, num_classes, mode):
    monkeypatch.setattr(logit_blocks, '_PIXELS_PER_BLOCK', 300)
    logits, labels, gradient = _draw(small, size, num_classes)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(logits, labels, gradient):
        def differentiate(function):
            loss, transpose = jax.vjp(lambda x: function(x, labels, mode), logits)
            return loss, transpose(gradient)[0]

        results = differentiate(cross_entropy_upsampled), classify_pixels(logits, size, mode)
        return results, differentiate(_reference), resize_bilinear(logits, size, mode)

    ((loss, slope), (semantic, probability, logit)), (expected, expected_slope), large = run(
        logits, labels, gradient
    )
    np.testing.assert_allclose(loss, expected, atol=5e-6)
    np.testing.assert_allclose(slope, expected_slope, atol=2e-6 * np.abs(expected_slope).max())
    # Another order of summation may change the last bit, and with it the winner of a tie.
    large = np.asarray(large)
    second, first = np.moveaxis(np.sort(large, axis=-1)[..., -2:], -1, 0)
    is_clear = first - second > 1e-5
    assert is_clear.mean() > 0.99
    np.testing.assert_array_equal(
        np.where(is_clear, semantic, 0), np.where(is_clear, large.argmax(-1), 0)
    )
    np.testing.assert_allclose(probability, jax.nn.softmax(large).max(-1), rtol=1e-5)
    np.testing.assert_allclose(logit, first, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(('small', 'size', 'num_classes', 'mode'), CASES)
def test_probability_of_labels_is_that_of_the_softmax(
    platform, monkeypatch, small, size, num_classes, mode
):
    monkeypatch.setattr(logit_blocks, '_PIXELS_PER_BLOCK', 300)
    logits, labels, _ = _draw(small, size, num_classes)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(logits, labels):
        classes = classify_pixels(logits, size, mode)
        # Blocks without another label take a shorter way.
        labels = jnp.where(
            (labels < 0) | (jnp.arange(size[0]) < size[0] // 2)[:, None], classes.semantic, labels
        )
        result = probability_of_labels(logits, classes, labels, mode)
        is_label = labels[..., None] == jnp.arange(num_classes)
        softmax = jax.nn.softmax(resize_bilinear(logits, size, mode))
        is_same = labels == classes.semantic
        return result, jnp.sum(softmax, axis=-1, where=is_label), is_same, classes.probability

    result, expected, is_same, probability = map(np.asarray, run(logits, labels))
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    assert 0 < is_same.mean() < 1
    np.testing.assert_array_equal(result[is_same], probability[is_same])


@pytest.mark.parametrize('num_classes', [3, 19, 41])
def test_classes_of_full_size_logits(platform, monkeypatch, num_classes):
    # Blocks of one row and of three, the last of which overlaps.
    for pixels in (1, 50):
        monkeypatch.setattr(upsampled_logits, '_PIXELS_PER_COPY', pixels)
        logits = _draw((7, 8), (7, 8), num_classes)[0]
        semantic, probability, logit = classify_pixels(logits, (7, 8), 'corner_aligned')
        np.testing.assert_array_equal(semantic, logits.argmax(-1))
        np.testing.assert_array_equal(logit, logits.max(-1))
        np.testing.assert_allclose(probability, jax.nn.softmax(logits).max(-1), rtol=1e-5)


def test_smallest_class_wins_a_tie(platform):
    # Ties within a chunk, across chunks, and at the value that pads the last chunk.
    logits = np.zeros((1, 3, 3, 41), np.float32)
    logits[..., [7, 9, 30]] = 2
    semantic, probability, _ = classify_pixels(logits, (9, 9), 'corner_aligned')
    np.testing.assert_array_equal(semantic, 7)
    np.testing.assert_allclose(probability, 1 / (3 + 38 * np.exp(-2)), rtol=1e-6)


def test_nan_is_not_hidden(platform):
    logits = np.zeros((1, 3, 3, 23), np.float32)
    logits[0, 1, 1, 4] = np.nan
    loss = cross_entropy_upsampled(logits, jnp.zeros((1, 9, 9), jnp.int32), 'corner_aligned')
    assert np.isnan(loss[0, 4, 4])


def test_large_logits_do_not_overflow(platform):
    logits = np.zeros((1, 2, 2, 22), np.float32)
    logits[..., 3], logits[..., 21] = 1e4, -1e4
    labels = np.broadcast_to(np.array([3, 21]), (1, 4, 2)).astype(np.int32)
    loss = cross_entropy_upsampled(logits, labels, 'half_pixel')
    np.testing.assert_allclose(loss, np.broadcast_to([0, 2e4], (1, 4, 2)))


def test_small_losses_of_large_logits_are_kept(platform):
    logits = np.zeros((1, 2, 2, 22), np.float32)
    logits[..., 3] = 1e4
    logits[..., 5] = 1e4 - 12
    loss = cross_entropy_upsampled(logits, np.full((1, 4, 2), 3, np.int32), 'half_pixel')
    np.testing.assert_allclose(loss, np.log1p(np.exp(-12.0)), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'space'), [(8, 1), (4, 2), (2, 4)])
def test_split_over_devices_equals_one_device(data, space):
    size = (65, 33)
    logits, labels, gradient = _draw((17, 9), size, 7, batch=8)

    def run(logits, labels, gradient):
        labels, gradient = split_rows((labels, gradient))
        loss, transpose = jax.vjp(
            lambda x: cross_entropy_upsampled(x, labels, 'corner_aligned'), split_rows(logits)
        )
        classes = classify_pixels(logits, size, 'corner_aligned')
        known = jnp.maximum(labels, 0)
        of_labels = probability_of_labels(logits, classes, known, 'corner_aligned')
        return loss, transpose(gradient)[0], *classes, of_labels

    run = jax.jit(run, compiler_options=QUICK)
    expected = run(logits, labels, gradient)
    mesh = make_mesh(data, space)
    with jax.set_mesh(mesh):
        compiled = run.lower(*shard_batch((logits, labels, gradient), mesh)).compile()
        actual = compiled(*shard_batch((logits, labels, gradient), mesh))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected
    )
    text = compiled.as_text()
    assert ('all-reduce(' in text) == (space > 1)
    # What devices exchange are small maps; the images of a batch stay where they are.
    if space == 1:
        assert 'all-gather(' not in text and 'collective-permute(' not in text


def test_memory_is_that_of_a_block():
    size, num_classes = (257, 257), 64
    logits = jax.ShapeDtypeStruct((1, 65, 65, num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, *size), jnp.int32)

    def measure(function):
        def loss(logits, labels):
            return jnp.sum(function(logits, labels, 'corner_aligned'))

        compiled = jax.jit(jax.grad(loss), compiler_options=QUICK).lower(logits, labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    full_size = 4 * size[0] * size[1] * num_classes
    assert measure(_reference) > full_size
    assert measure(cross_entropy_upsampled) < full_size
