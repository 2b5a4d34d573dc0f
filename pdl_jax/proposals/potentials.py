"""The four potentials of 3DOP, as sums over boxes of voxels.

    density    share of the voxels of the box with a point, P
    occlusion  share that is not free, 1 - F
    height     mean of the prior of the class, H(v) = P(v) exp(-((d_v - mean) / deviation)^2 / 2),
               over the heights d_v of voxels above the road
    contrast   sum of H in the box by that in the shell around it, 0.6 m thick

Source: Chen et al., 3D Object Proposals, NIPS 2015, section 3.1.
"""

from typing import NamedTuple

import jax.numpy as jnp

from pdl_jax.ops.integral_image import (
    combine_limbs,
    extend,
    slide_box,
    sum_boxes,
)
from pdl_jax.proposals.options import MARGIN_VOXELS
from pdl_jax.typing import Array

NAMES = ('density', 'occlusion', 'height', 'contrast')
# The sum of H in the shell that is added to all, so that an object with nothing around it has a
# finite contrast: five voxels at the height of the prior's peak.
_SHELL_GUARD = 5.0


class Integrals(NamedTuple):
    """Integral images of a grid [X, Y, Z], by `ops.integral_image.integrate`.

    Attributes:
      occupied: i32[X + 1, Y + 1, Z + 1] of P.
      blocked: i32[X + 1, Y + 1, Z + 1] of 1 - F.
      height: i32[L, X + 1, Y + 1, Z + 1] of H, by `integrate_fractions`.
    """

    occupied: Array
    blocked: Array
    height: Array


class BoxSums(NamedTuple):
    """Sums over boxes; all arrays have the same shape.

    Attributes:
      volume: i32, voxels of the box.
      occupied, blocked: i32, those that are occupied, and not free.
      height: float, sum of H over the box.
      enlarged_volume, enlarged_height: the same of the enlarged box, clipped to the grid.
    """

    volume: Array
    occupied: Array
    blocked: Array
    height: Array
    enlarged_volume: Array
    enlarged_height: Array


def height_prior(occupied: Array, heights: Array, mean_m: Array, deviation_m: Array) -> Array:
    """Computes H: float[X, Y, Z].

    Args:
      occupied: bool[X, Y, Z].
      heights: float[Y], heights of voxels above the road in metres.
      mean_m, deviation_m: the class's heights.
    """
    prior = jnp.exp(-0.5 * ((heights - mean_m) / deviation_m) ** 2)
    return jnp.where(occupied, prior[:, None], 0)


def sum_potentials(integrals: Integrals, boxes: Array, *, enlargement: int) -> BoxSums:
    """Sums over given boxes.

    Args:
      integrals: see there.
      boxes: i32[N, 6], (x0, y0, z0, x1, y1, z1) in voxels, ends exclusive, within the grid.
      enlargement: growth on each side, in voxels.

    Returns:
      Sums [N].
    """
    size = jnp.array(integrals.occupied.shape) - 1
    low = jnp.clip(boxes[:, :3] - enlargement, 0, size)
    high = jnp.clip(boxes[:, 3:] + enlargement, 0, size)
    enlarged = jnp.concatenate([low, high], axis=1)
    return BoxSums(
        volume=jnp.prod(boxes[:, 3:] - boxes[:, :3], axis=1),
        occupied=sum_boxes(integrals.occupied, boxes),
        blocked=sum_boxes(integrals.blocked, boxes),
        height=combine_limbs(sum_boxes(integrals.height, boxes)),
        enlarged_volume=jnp.prod(high - low, axis=1),
        enlarged_height=combine_limbs(sum_boxes(integrals.height, enlarged)),
    )


def extend_integrals(integrals: Integrals) -> Integrals:
    """Prepares integral images for `slide_potentials`."""
    return Integrals(*(extend(integral, MARGIN_VOXELS) for integral in integrals))


def slide_potentials(extended: Integrals, low: Array, high: Array, *, enlargement: int) -> BoxSums:
    """Sums over one box at every place of the plane of x and z, clipped to the grid.

    Args:
      extended: see `extend_integrals`.
      low, high: i32[3], corners of the box at place (0, 0), high exclusive; with the enlargement
        at most `MARGIN_VOXELS` from it along x and z.
      enlargement: growth on each side, in voxels.

    Returns:
      Sums [X, Z].
    """

    def slide(integral: Array, growth: int = 0) -> Array:
        return slide_box(integral, low - growth, high + growth, margin=MARGIN_VOXELS)

    shape = extended.occupied.shape
    size = tuple(n - 1 - 2 * MARGIN_VOXELS * (axis != 1) for axis, n in enumerate(shape))
    return BoxSums(
        volume=_count_voxels(size, low, high),
        occupied=slide(extended.occupied),
        blocked=slide(extended.blocked),
        height=combine_limbs(slide(extended.height)),
        enlarged_volume=_count_voxels(size, low - enlargement, high + enlargement),
        enlarged_height=combine_limbs(slide(extended.height, enlargement)),
    )


def make_features(sums: BoxSums) -> Array:
    """Returns the potentials of boxes, float[..., 4] in the order of `NAMES`.

    The contrast is made of sums, as in the paper's implementation: the mean of H over a box that
    fits exceeds the one over the larger box, and a ratio of means would change its sign.
    """
    volume = jnp.maximum(sums.volume, 1)
    shell = jnp.maximum(sums.enlarged_height - sums.height, 0)
    parts = (
        sums.occupied / volume,
        sums.blocked / volume,
        sums.height / volume,
        sums.height / (shell + _SHELL_GUARD),
    )
    return jnp.stack(parts, axis=-1)


def _count_voxels(size: tuple[int, ...], low: Array, high: Array) -> Array:
    """Counts the voxels of the clipped box at every place: i32[X, Z]."""
    lengths = []
    for axis in range(3):
        places = jnp.arange(size[axis]) if axis != 1 else jnp.zeros(1, jnp.int32)
        ends = (jnp.clip(places + corner[axis], 0, size[axis]) for corner in (high, low))
        lengths.append(jnp.maximum(jnp.subtract(*ends), 0))
    x, y, z = lengths
    return x[:, None] * y * z
