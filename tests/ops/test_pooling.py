"""Max-pooling against XLA's own, values and gradients; averages against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pdl_jax.ops.pooling import adaptive_average_pool, average_pool_padded, max_pool


@pytest.mark.parametrize(
    ('size', 'stride', 'padding'),
    [
        (3, 2, ((1, 1), (1, 1))),
        (3, 2, ((0, 1), (0, 1))),
        (2, 2, ((0, 0), (0, 0))),
        (3, 1, ((1, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_equals_xla(size, stride, padding, dtype):
    rng = np.random.default_rng(0)
    # Integers, so that windows have several maxima; also negative ones, which padding with zeros
    # would hide.
    x = jnp.asarray(rng.integers(-6, 0, (2, 10, 13, 4)), dtype)

    def reference(x):
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, ((0, 0), *padding, (0, 0)))

    def ours(x):
        return max_pool(x, size, stride, padding)

    # Integers add up exactly in any order.
    gradient = jnp.asarray(rng.integers(-8, 8, jax.eval_shape(reference, x).shape), dtype)

    @jax.jit
    def both(x, gradient):
        return [(y, vjp(gradient)[0]) for y, vjp in (jax.vjp(f, x) for f in (reference, ours))]

    (expected, expected_gradient), (actual, actual_gradient) = both(x, gradient)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(actual_gradient, expected_gradient)
    assert actual_gradient.dtype == dtype


def test_averages_equal_those_of_pytorch():
    torch = pytest.importorskip('torch')
    x = np.random.default_rng(0).normal(size=(2, 10, 13, 4)).astype(np.float32)
    maps = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    wanted = torch.nn.functional.avg_pool2d(maps, 3, 1, 1).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(average_pool_padded(jnp.asarray(x), 3), wanted, atol=1e-6)
    for size in (7, 12):
        pooled = torch.nn.functional.adaptive_avg_pool2d(maps, size).numpy()
        found = adaptive_average_pool(jnp.asarray(x), size)
        np.testing.assert_allclose(found, pooled.transpose(0, 2, 3, 1), atol=1e-6)
