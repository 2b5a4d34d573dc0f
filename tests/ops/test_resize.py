"""Bilinear resizing against its definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops import resize


def _position(i, n, m, mode):
    """Returns the position of output pixel i of m on an axis of n pixels."""
    if mode == 'half_pixel':
        return min(max((i + 0.5) * n / m - 0.5, 0.0), n - 1)
    return i * (n - 1) / (m - 1) if m > 1 else 0.0


def _reference(x, size, mode):
    """Resizes by the definition, pixel by pixel in float64."""
    height, width = x.shape[1:3]
    out = np.zeros((x.shape[0], *size, x.shape[3]))
    for i in range(size[0]):
        for j in range(size[1]):
            y, z = _position(i, height, size[0], mode), _position(j, width, size[1], mode)
            y0, z0 = int(np.floor(y + 1e-9)), int(np.floor(z + 1e-9))
            y1, z1 = min(y0 + 1, height - 1), min(z0 + 1, width - 1)
            a, b = y - y0, z - z0
            top = x[:, y0, z0] * (1 - b) + x[:, y0, z1] * b
            low = x[:, y1, z0] * (1 - b) + x[:, y1, z1] * b
            out[:, i, j] = top * (1 - a) + low * a
    return out


SIZES = [
    ((3, 3), (5, 5)),
    ((5, 9), (17, 33)),
    ((9, 7), (4, 3)),
    ((1, 1), (6, 5)),
    ((4, 6), (1, 1)),
    ((5, 3), (5, 9)),
]


@pytest.mark.parametrize('mode', resize.MODES)
@pytest.mark.parametrize(('before', 'after'), SIZES)
def test_equals_definition(before, after, mode):
    x = np.random.default_rng(0).normal(size=(2, *before, 3)).astype(np.float32)
    expected = _reference(x, after, mode)
    np.testing.assert_allclose(
        resize.resize_bilinear(jnp.asarray(x), after, mode), expected, atol=1e-5
    )
    # The implementation for TPU and GPU, which is not chosen on CPU.
    np.testing.assert_allclose(resize._multiply(jnp.asarray(x), after, mode), expected, atol=1e-5)


@pytest.mark.parametrize('mode', resize.MODES)
@pytest.mark.parametrize(('before', 'after'), SIZES)
def test_gradient_is_the_transpose(before, after, mode):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *before, 3)), jnp.float32)
    value, vjp = jax.vjp(lambda x: resize.resize_bilinear(x, after, mode), x)
    gradient = jnp.asarray(rng.normal(size=value.shape), jnp.float32)
    # <J x, g> = <x, J^T g> for a linear map.
    np.testing.assert_allclose(jnp.vdot(value, gradient), jnp.vdot(x, vjp(gradient)[0]), rtol=1e-4)


def test_doubling_a_linear_field_is_exact():
    """DeepLab2's own expectation: (2 - i, 2 - j) from 3x3 to 5x5, times two, is (4 - i, 4 - j)."""
    i, j = np.mgrid[:3, :3]
    field = jnp.asarray(np.stack([2 - i, 2 - j], -1)[None], jnp.float32)
    i, j = np.mgrid[:5, :5]
    np.testing.assert_array_equal(
        resize.resize_bilinear(field * 2, (5, 5))[0], np.stack([4 - i, 4 - j], -1)
    )


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'nearest' is unknown.*half_pixel"):
        resize.resize_bilinear(jnp.zeros((1, 2, 2, 1)), (4, 4), 'nearest')
