"""Exact Gaussian filtering of points in several dimensions: the sum over all pairs, in tiles."""

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array

# Pairs of a tile: few enough for fast memory, many enough for a matrix product.
_ROWS = 256
_COLUMNS = 2048


def filter_points(points: Array, values: Array) -> Array:
    """Sums values over all points, each weighted by exp(-|p - q|^2 / 2).

    The time is quadratic in the number of points, and the memory linear.

    Args:
      points: f32[N, d].
      values: f32[N, C].

    Returns:
      f32[N, C].
    """
    num_points, num_channels = values.shape
    targets = _split(points, _ROWS)
    # Padded points have no values, so they add nothing.
    sources = _split(points, _COLUMNS), _split(values, _COLUMNS)

    def add_tile(total: Array, tile: tuple[Array, Array], target: Array) -> Array:
        points, values = tile
        squares = [(target[:, None, i] - points[None, :, i]) ** 2 for i in range(points.shape[1])]
        weights = jnp.exp(-0.5 * sum(squares))
        # Three passes of a TPU's bfloat16 keep six digits, of which sums over all points need four.
        return total + jnp.matmul(weights, values, precision=lax.Precision.HIGH)

    def filter_rows(target: Array) -> Array:
        total = jnp.zeros((_ROWS, num_channels), values.dtype)
        return lax.scan(lambda t, tile: (add_tile(t, tile, target), None), total, sources)[0]

    return lax.map(filter_rows, targets).reshape(-1, num_channels)[:num_points]


def filter_image(image: Array, deviation_px: float) -> Array:
    """Sums over all pixels, each weighted by the Gaussian of its distance in pixels.

    Args:
      image: f32[H, W, C].
      deviation_px: standard deviation in pixels.

    Returns:
      f32[H, W, C].
    """
    height, width, _ = image.shape
    return jnp.einsum(
        'yv,xu,vuc->yxc',
        _weigh_pairs(height, deviation_px),
        _weigh_pairs(width, deviation_px),
        image,
        precision=lax.Precision.HIGHEST,
    )


def _weigh_pairs(size: int, deviation_px: float) -> Array:
    """Returns f32[size, size], the Gaussian of all pairs of positions along an axis."""
    position = jnp.arange(size, dtype=jnp.float32) / deviation_px
    return jnp.exp(-0.5 * (position[:, None] - position) ** 2)


def _split(x: Array, size: int) -> Array:
    """Splits [N, ...] into [ceil(N / size), size, ...], padded with zeros."""
    count = ceil_div(x.shape[0], size)
    pads = ((0, count * size - x.shape[0]), *((0, 0) for _ in x.shape[1:]))
    return jnp.pad(x, pads).reshape(count, size, *x.shape[1:])
