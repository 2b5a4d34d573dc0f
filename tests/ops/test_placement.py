"""Operations on maps whose rows are split over devices, down to one row per device and less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops.convolution import conv
from pdl_jax.ops.depthwise_convolution import depthwise_conv
from pdl_jax.ops.padding import symmetric_padding
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.pooling import max_pool
from pdl_jax.runtime.sharding import make_mesh, replicated

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 4, 4)).astype(np.float32)
DEPTHWISE = RNG.normal(size=(5, 5, 1, 4)).astype(np.float32)
POOL = functools.partial(max_pool, size=3, stride=2, padding=symmetric_padding(3, 1))


def _network(x, kernel, depthwise):
    """Convolves a map of half the rows, upsamples it, and convolves its sum with the input."""
    small = conv(POOL(x), kernel, 1, 1, symmetric_padding(3, 1))
    large = jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)[:, : x.shape[1], : x.shape[2]]
    return depthwise_conv(large + x, depthwise, 1, 1, symmetric_padding(5, 1))


@pytest.mark.parametrize('space', [2, 4])
@pytest.mark.parametrize('height', [4, 8, 9, 32])
def test_gradients_are_those_of_one_device(height, space):
    x = RNG.normal(size=(8, height, 6, 4)).astype(np.float32)

    def run(mesh):
        def loss(x, kernel, depthwise):
            y = split_rows(_network(split_rows(x), kernel, depthwise))
            return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

        with jax.set_mesh(mesh):
            gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), out_shardings=replicated(mesh))
            return jax.device_get(gradients(x, KERNEL, DEPTHWISE))

    for expected, actual in zip(
        run(make_mesh(devices=jax.devices()[:1])), run(make_mesh(-1, space)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
