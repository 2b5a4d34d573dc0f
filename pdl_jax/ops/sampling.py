"""Resampling of images and label maps at positions that factor into rows and columns, or do not.

Scale, crop, padding and flip are each an affine map per axis, and so is their composition: one
resampling with f32[H'] row positions and f32[W'] column positions does them all, at a static output
size. A rotation mixes the axes: it needs f32[H', W'] positions, one per output pixel.
"""

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from pdl_jax.ops.platforms import by_platform
from pdl_jax.typing import Array


def sample_bilinear(
    image: Array, rows: Array, columns: Array, size: Array, *, fill: float
) -> Array:
    """Samples an image bilinearly.

    Args:
      image: f32[H, W, D]; only its top-left `size` pixels are valid.
      rows: f32[H'], positions on the row axis in pixels, or f32[H', W'] per output pixel.
      columns: f32[W'], positions on the column axis in pixels, or f32[H', W'] too.
      size: i32[2], valid (height, width) of `image` in pixels.
      fill: value of output pixels whose position lies outside the valid pixels.

    Returns:
      f32[H', W', D].
    """
    row_low, row_high, row_fraction, row_inside = _split(rows, size[0])
    column_low, column_high, column_fraction, column_inside = _split(columns, size[1])
    if rows.ndim == 2:
        # Four gathers per pixel, on every platform: slow on a TPU, but rotations are rare there.
        low, high = (
            image[row_low, column]
            + (image[row_high, column] - image[row_low, column]) * row_fraction[..., None]
            for column in (column_low, column_high)
        )
        sampled = low + (high - low) * column_fraction[..., None]
        return jnp.where((row_inside & column_inside)[..., None], sampled, fill)

    def gather(image: Array) -> Array:
        low, high = jnp.take(image, row_low, axis=0), jnp.take(image, row_high, axis=0)
        blended = low + (high - low) * row_fraction[:, None, None]
        low = jnp.take(blended, column_low, axis=1)
        high = jnp.take(blended, column_high, axis=1)
        return low + (high - low) * column_fraction[None, :, None]

    def multiply(image: Array) -> Array:
        by_row = _interpolation(row_low, row_high, row_fraction, image.shape[0])
        by_column = _interpolation(column_low, column_high, column_fraction, image.shape[1])
        blended = jnp.einsum('hi,iwd->hwd', by_row, image, precision=lax.Precision.HIGHEST)
        return jnp.einsum('wj,hjd->hwd', by_column, blended, precision=lax.Precision.HIGHEST)

    sampled = by_platform(image, tpu=multiply, default=gather)
    inside = row_inside[:, None] & column_inside[None, :]
    return jnp.where(inside[..., None], sampled, fill)


def sample_nearest(
    values: Array, rows: Array, columns: Array, size: Array, *, fill: ArrayLike
) -> Array:
    """Samples a map at the nearest pixel.

    Halves are rounded away from zero, as in TensorFlow's legacy resize.

    Args:
      values: [H, W] of any dtype; only its top-left `size` pixels are valid.
      rows: f32[H'], positions on the row axis in pixels, or f32[H', W'] per output pixel.
      columns: f32[W'], positions on the column axis in pixels, or f32[H', W'] too.
      size: i32[2], valid (height, width) of `values` in pixels.
      fill: value of output pixels whose position lies outside the valid pixels.

    Returns:
      [H', W'] of the dtype of `values`.
    """
    *_, row_inside = _split(rows, size[0])
    *_, column_inside = _split(columns, size[1])
    row_index = jnp.clip(jnp.floor(rows + 0.5).astype(jnp.int32), 0, size[0] - 1)
    column_index = jnp.clip(jnp.floor(columns + 0.5).astype(jnp.int32), 0, size[1] - 1)
    fill = jnp.asarray(fill, values.dtype)
    if rows.ndim == 2:
        return jnp.where(row_inside & column_inside, values[row_index, column_index], fill)
    # Gather whole rows, then whole columns: a TPU runs these as slices, not pixel by pixel.
    sampled = jnp.take(jnp.take(values, row_index, axis=0), column_index, axis=1)
    inside = row_inside[:, None] & column_inside[None, :]
    return jnp.where(inside, sampled, fill)


def _split(positions: Array, size: Array) -> tuple[Array, Array, Array, Array]:
    """Splits positions into lower and upper neighbour and the fraction between them.

    Also returns a mask of the positions inside [0, size - 1].
    """
    # Rounding may place a corner a few millionths of a pixel outside of the image.
    slack = 1e-3
    inside = (positions > -slack) & (positions < size - 1 + slack)
    positions = jnp.clip(positions, 0, size - 1)
    low = jnp.floor(positions)
    high = jnp.minimum(low + 1, size - 1)
    return low.astype(jnp.int32), high.astype(jnp.int32), positions - low, inside


def _interpolation(low: Array, high: Array, fraction: Array, size: int) -> Array:
    """Returns the interpolation along one axis as a matrix f32[len(low), size]."""
    axis = jnp.arange(size)
    at_low = (axis[None] == low[:, None]) * (1 - fraction[:, None])
    return at_low + (axis[None] == high[:, None]) * fraction[:, None]
