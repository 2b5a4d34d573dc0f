"""Pooling over windows; max-pooling has a gradient of its own on CPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.ops.padding import Padding
from pdl_jax.ops.placement import are_rows_split, gather_small_map
from pdl_jax.ops.platforms import by_platform
from pdl_jax.typing import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: Array, size: int, stride: int, padding: Padding) -> Array:
    """Takes the maximum of each window.

    The gradient goes to the first pixel of a window that has the maximum. XLA:CPU visits windows
    one by one to find it; on CPU the gradient is a sum over the taps of a window instead, which is
    five times faster.

    Args:
      x: float[B, H, W, C].
      size: side of the windows in pixels.
      stride: step in pixels, the same on both axes.
      padding: pixels added as ((top, bottom), (left, right)), which are never the maximum.

    Returns:
      float[B, H', W', C] of the dtype of `x`.
    """
    return _reduce_window(x, size, stride, padding)


def _forward(x: Array, size: int, stride: int, padding: Padding) -> tuple[Array, Array]:
    return max_pool(x, size, stride, padding), x


def _backward(size: int, stride: int, padding: Padding, x: Array, gradient: Array) -> tuple[Array]:
    def backward_lax(x: Array, gradient: Array) -> Array:
        return jax.vjp(lambda x: _reduce_window(x, size, stride, padding), x)[1](gradient)[0]

    def backward_shifted(x: Array, gradient: Array) -> Array:
        return _shifted_gradient(x, gradient, size, stride, padding)

    if are_rows_split():
        # XLA's partitioner cannot split this gradient for an even number of rows.
        return (backward_lax(gather_small_map(x), gather_small_map(gradient)),)
    return (by_platform(x, gradient, cpu=backward_shifted, default=backward_lax),)


max_pool.defvjp(_forward, _backward)


def _reduce_window(x: Array, size: int, stride: int, padding: Padding) -> Array:
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(
        gather_small_map(x), -jnp.inf, lax.max, window, strides, ((0, 0), *padding, (0, 0))
    )


def _shifted_gradient(x: Array, gradient: Array, size: int, stride: int, padding: Padding) -> Array:
    height, width = gradient.shape[1:3]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    taps = [(i, j) for i in range(size) for j in range(size)]
    highest = jnp.full(gradient.shape, -jnp.inf, x.dtype)
    winner = jnp.zeros(gradient.shape, jnp.int32)
    for index, (i, j) in enumerate(taps):
        rows, columns = (
            slice(tap, tap + (n - 1) * stride + 1, stride) for tap, n in ((i, height), (j, width))
        )
        pixels = padded[:, rows, columns]
        winner = jnp.where(pixels > highest, index, winner)
        highest = jnp.maximum(pixels, highest)
    # Without the barrier XLA would recompute the winner for every tap.
    winner = lax.optimization_barrier(winner)
    total = jnp.zeros((), x.dtype)
    for index, tap in enumerate(taps):
        lows = [position - pad[0] for position, pad in zip(tap, padding, strict=True)]
        spread = [
            (low, n - low - (m - 1) * stride - 1, stride - 1)
            for low, n, m in zip(lows, x.shape[1:3], (height, width), strict=True)
        ]
        won = jnp.where(winner == index, gradient, 0)
        # A negative width crops what lies in the padding.
        total = total + lax.pad(won, jnp.zeros((), x.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
    return total


def average_pool_padded(x: Array, size: int) -> Array:
    """Averages over the window around each pixel; pixels beyond the map count as zeros.

    Args:
      x: float[B, H, W, C].
      size: side of the windows in pixels, odd.

    Returns:
      float[B, H, W, C] of the dtype of `x`, accumulated in float32.
    """
    reach = (size // 2, size // 2)
    total = lax.reduce_window(
        x.astype(jnp.float32),
        0.0,
        lax.add,
        (1, size, size, 1),
        (1, 1, 1, 1),
        ((0, 0), reach, reach, (0, 0)),
    )
    return (total / size**2).astype(x.dtype)


def adaptive_average_pool(x: Array, size: int) -> Array:
    """Averages over size x size windows that divide a map as evenly as they can.

    Args:
      x: float[B, H, W, C].
      size: rows and columns of the result.

    Returns:
      float[B, size, size, C] of the dtype of `x`, accumulated in float32.

    Source: PyTorch's AdaptiveAvgPool2d.
    """
    rows, columns = (_adaptive_windows(n, size) for n in x.shape[1:3])
    pooled = jnp.einsum(
        'hi,wj,bijc->bhwc',
        rows,
        columns,
        x.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def _adaptive_windows(size: int, count: int) -> np.ndarray:
    """Returns f32[count, size], the averages over windows of an axis."""
    position = np.arange(size)
    start = np.arange(count)[:, None] * size // count
    end = -(-(np.arange(count)[:, None] + 1) * size // count)
    inside = ((position >= start) & (position < end)).astype(np.float32)
    return inside / inside.sum(axis=1, keepdims=True)
