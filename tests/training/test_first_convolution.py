"""First convolutions for other numbers of channels."""

import numpy as np
import pytest

from pdl_jax.training.first_convolution import adapt_channels, is_first_convolution

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
IMAGE = np.random.default_rng(1).normal(size=(3, 3, 1)).astype(np.float32)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.einsum('ijc,ijcd->d', image, kernel)


def test_one_channel_gives_what_its_rgb_copy_gave():
    adapted = adapt_channels(KERNEL, (3, 3, 1, 8))
    expected = convolve(np.repeat(IMAGE, 3, axis=2), KERNEL)
    np.testing.assert_allclose(convolve(IMAGE, adapted), expected, rtol=1e-5)


@pytest.mark.parametrize('num_channels', [2, 4, 5, 6])
def test_equal_channels_keep_the_size_of_sums(num_channels):
    adapted = adapt_channels(KERNEL, (3, 3, num_channels, 8))
    assert adapted.shape == (3, 3, num_channels, 8) and adapted.dtype == np.float32
    for channel in range(num_channels):
        expected = KERNEL[:, :, channel % 3] * 3 / num_channels
        np.testing.assert_allclose(adapted[:, :, channel], expected, rtol=1e-6)


def test_other_arrays_are_unchanged():
    assert adapt_channels(KERNEL, KERNEL.shape) is KERNEL
    bias = np.zeros(8)
    assert adapt_channels(bias, (8,)) is bias


def test_first_convolutions_are_told_by_path_and_shape():
    name = 'params/backbone/conv1/kernel'
    assert is_first_convolution(name, (7, 7, 3, 64), (7, 7, 1, 64), num_found=3)
    for other, found, wanted in (
        ('params/semantic_head/kernel', (7, 7, 3, 64), (7, 7, 1, 64)),
        (name, (7, 7, 3, 64), (3, 3, 1, 64)),
        (name, (7, 7, 3, 64), (7, 7, 1, 32)),
        (name, (7, 7, 16, 64), (7, 7, 1, 64)),
        (name, (7, 7, 3, 64), (7, 7, 256, 64)),
        ('params/backbone/norm/scale', (64,), (32,)),
    ):
        assert not is_first_convolution(other, found, wanted, num_found=3)
