"""Sizes of images after a resize."""

import jax.numpy as jnp

from pdl_jax.typing import Array


def resize_to_range(size: Array, min_px: int, max_px: int) -> Array:
    """Computes the size of an image after a resize to a range of side lengths.

    Args:
      size: i32[2], (height, width) in pixels.
      min_px: target of the shorter side; 0 keeps the size unless it exceeds `max_px`.
      max_px: limit of the longer side; 0 for none. It wins over `min_px`.

    Returns:
      i32[2]. Two floors in float32 one after the other, as in DeepLab2: (480, 640) with 641 and 641
      becomes (481, 641).
    """
    dims = size.astype(jnp.float32)
    if min_px:
        dims = jnp.floor(dims * jnp.max(min_px / dims))
    if max_px:
        dims = jnp.floor(dims * jnp.minimum(jnp.min(max_px / dims), 1.0))
    return jnp.maximum(dims.astype(jnp.int32), 1)
