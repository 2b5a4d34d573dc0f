"""Assignment of pixels to instance centres."""

import functools

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.batching import max_of_batch
from pdl_jax.ops.platforms import by_platform
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array

# Pixels per step on CPU, in whole rows.
_PIXELS_PER_STEP = 2**17


def group_pixels(centers: Array, valid: Array, offsets: Array, *, block: int = 8) -> Array:
    """Assigns every pixel to the nearest predicted centre.

    A pixel votes for (y, x) + offset(y, x); the id is the 1-based row of the nearest valid centre,
    the lower row on ties. A running minimum over blocks of centres, which ends after the last valid
    one, keeps memory at a few maps and reads them once per block.

    Args:
      centers: f32[K, 2], (y, x) in pixels of the offset map; ignored where `valid` is false.
      valid: bool[K].
      offsets: f32[H, W, 2], (dy, dx) in pixels from a pixel to its centre.
      block: centres per pass over the image.

    Returns:
      i32[H, W], 0 where no centre is valid (or the offset is not a number), else 1..K.

    Raises:
      ValueError: shapes disagree or `block` is not positive.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020, section 3.
    """
    if centers.shape != (*valid.shape, 2) or offsets.shape[2:] != (2,) or block < 1:
        raise ValueError(
            f'expected centers [K, 2], valid [K], offsets [H, W, 2] and block >= 1, got '
            f'{centers.shape}, {valid.shape}, {offsets.shape} and {block}'
        )
    height, width, _ = offsets.shape
    count = valid.shape[0]
    # An infinite distance is never below the running minimum, so the loop need not test validity.
    centers = jnp.where(valid[:, None], centers, jnp.inf)
    centers = jnp.pad(centers, ((0, -count % block), (0, 0)), constant_values=jnp.inf)
    last = jnp.max(jnp.where(valid, jnp.arange(1, count + 1), 0), initial=0)
    num_blocks = max_of_batch((last + block - 1) // block)

    return by_platform(
        centers,
        num_blocks,
        offsets[..., 0],
        offsets[..., 1],
        cpu=functools.partial(_group_by_rows, block=block),
        default=functools.partial(_group_at_once, block=block),
    )


def _group_by_rows(
    centers: Array, num_blocks: Array, offset_y: Array, offset_x: Array, block: int
) -> Array:
    """Groups a few rows at a time, so that their votes stay in the cache of a core."""
    height, width = offset_y.shape
    rows = min(height, max(1, _PIXELS_PER_STEP // width))

    def group(number: Array, instance: Array) -> Array:
        # The last step may overlap the one before.
        start = jnp.minimum(number * rows, height - rows)
        part_y, part_x = (
            lax.dynamic_slice_in_dim(offset, start, rows) for offset in (offset_y, offset_x)
        )
        part = _group_at_once(centers, num_blocks, part_y, part_x, block, start)
        return lax.dynamic_update_slice_in_dim(instance, part, start, 0)

    return lax.fori_loop(0, ceil_div(height, rows), group, jnp.zeros((height, width), jnp.int32))


def _group_at_once(
    centers: Array,
    num_blocks: Array,
    offset_y: Array,
    offset_x: Array,
    block: int,
    first_row: Array | int = 0,
) -> Array:
    height, width = offset_y.shape
    vote_y = offset_y + (first_row + jnp.arange(height)).astype(jnp.float32)[:, None]
    vote_x = offset_x + jnp.arange(width, dtype=jnp.float32)[None, :]

    def compare(block_number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, instance = state
        start = block_number * block
        rows = lax.dynamic_slice_in_dim(centers, start, block)
        for i in range(block):
            distance = (rows[i, 0] - vote_y) ** 2 + (rows[i, 1] - vote_x) ** 2
            is_nearer = distance < nearest
            nearest = jnp.where(is_nearer, distance, nearest)
            instance = jnp.where(is_nearer, start + i + 1, instance)
        return nearest, instance

    # Derived from the votes instead of constants, so that the loop state is sharded like the maps.
    nearest = jnp.full_like(vote_y, jnp.inf)
    instance = jnp.zeros_like(vote_y, dtype=jnp.int32)
    return lax.fori_loop(0, num_blocks, compare, (nearest, instance))[1]
