"""Integral images of voxel grids: sums over boxes in constant time, exact in integers.

A running float32 sum over millions of voxels has lost the digits that the difference of two such
sums needs. Counts are therefore added up as int32. Fractions are split into int32 limbs of 14 bits,
so that their sums are as exact as the limbs, on every platform and without 64-bit types.
"""

import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array

# A box of fewer voxels than 2**31 / 2**_LIMB_BITS cannot overflow a limb. Sums over the whole grid
# may wrap around: their differences modulo 2**32 are right nevertheless.
_LIMB_BITS = 14
MAX_BOX_VOXELS = 2 ** (31 - _LIMB_BITS) - 1


def integrate(volume: Array) -> Array:
    """Adds up a grid along its last three axes.

    Args:
      volume: bool or integer[..., X, Y, Z].

    Returns:
      i32[..., X + 1, Y + 1, Z + 1]; element (x, y, z) is the sum over the voxels below x, y and z,
      modulo 2**32.
    """
    sums = volume.astype(jnp.int32)
    for axis in (-3, -2, -1):
        sums = jnp.cumsum(sums, axis=axis, dtype=jnp.int32)
    return jnp.pad(sums, [(0, 0)] * (volume.ndim - 3) + [(1, 0)] * 3)


def integrate_fractions(volume: Array) -> Array:
    """Adds up a grid of fractions.

    Args:
      volume: float[X, Y, Z] in [0, 1]; rounded down to 28 bits if float32, to 42 if float64.

    Returns:
      i32[L, X + 1, Y + 1, Z + 1], a limb per row, the highest first; see `combine_limbs`.
    """
    num_limbs = 3 if volume.dtype == jnp.float64 else 2
    limbs, rest = [], volume
    for _ in range(num_limbs):
        # The product with a power of two and the remainder are exact.
        rest = rest * 2**_LIMB_BITS
        limb = jnp.floor(rest)
        limbs.append(limb.astype(jnp.int32))
        rest = rest - limb
    return integrate(jnp.stack(limbs))


def combine_limbs(sums: Array) -> Array:
    """Turns sums of limbs, i32[L, ...], into sums of fractions: float[...]."""
    dtype = jnp.float64 if sums.shape[0] == 3 else jnp.float32
    scales = [2.0 ** (-_LIMB_BITS * (row + 1)) for row in range(sums.shape[0])]
    total = jnp.zeros(sums.shape[1:], dtype)
    # From the lowest limb up, so that small parts are not rounded away one by one.
    for limb, scale in zip(sums[::-1], scales[::-1], strict=True):
        total = total + limb.astype(dtype) * scale
    return total


def sum_boxes(integral: Array, boxes: Array) -> Array:
    """Sums a grid over boxes by inclusion and exclusion of their eight corners.

    Args:
      integral: i32[..., X + 1, Y + 1, Z + 1], see `integrate`.
      boxes: i32[N, 6], (x0, y0, z0, x1, y1, z1) in voxels, ends exclusive, within the grid.

    Returns:
      i32[..., N].
    """
    low, high = boxes[:, :3], boxes[:, 3:]
    total = jnp.zeros((), jnp.int32)
    for corner in range(8):
        picks = [high if corner >> axis & 1 else low for axis in range(3)]
        x, y, z = (pick[:, axis] for axis, pick in enumerate(picks))
        sign = -1 if corner.bit_count() % 2 == 0 else 1
        total = total + sign * integral[..., x, y, z]
    return total


def extend(integral: Array, margin: int) -> Array:
    """Continues an integral image along x and z, as if empty voxels lay around the grid.

    Args:
      integral: i32[..., X + 1, Y + 1, Z + 1], see `integrate`.
      margin: number of voxels on each side.

    Returns:
      i32[..., X + 1 + 2 margin, Y + 1, Z + 1 + 2 margin].
    """
    widths = [(0, 0)] * (integral.ndim - 3) + [(margin, margin), (0, 0), (margin, margin)]
    return jnp.pad(integral, widths, mode='edge')


def slide_box(extended: Array, low: Array, high: Array, *, margin: int) -> Array:
    """Sums a grid over one box at every place of the plane of x and z, clipped to the grid.

    The sums are those of `sum_boxes`, from slices instead of a gather per box.

    Args:
      extended: see `extend`.
      low, high: i32[3], corners in voxels of the box at place (0, 0), high exclusive. At most
        `margin` from that place along x and z; anywhere along y.
      margin: that of `extend`.

    Returns:
      i32[..., X, Z]; the box has moved by (x, 0, z) voxels.
    """
    num_rows = extended.shape[-2] - 1

    def cut(values: Array, start: Array, axis: int) -> Array:
        size = values.shape[axis] - 2 * margin - 1
        return lax.dynamic_slice_in_dim(values, start + margin, size, axis)

    rows = (jnp.clip(corner[1], 0, num_rows) for corner in (high, low))
    top, bottom = (lax.dynamic_index_in_dim(extended, row, -2, keepdims=False) for row in rows)
    plane = top - bottom
    plane = cut(plane, high[0], -2) - cut(plane, low[0], -2)
    return cut(plane, high[2], -1) - cut(plane, low[2], -1)
