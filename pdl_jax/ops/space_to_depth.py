"""Rearrangement of blocks of pixels into channels, and back."""

import jax.numpy as jnp

from pdl_jax.typing import Array


def space_to_depth(x: Array, block: int) -> Array:
    """Moves every block of pixels into the channels of one.

    Args:
      x: [B, H, W, C]; zeros pad it below and on the right to whole blocks.
      block: side of a block in pixels.

    Returns:
      [B, ceil(H / block), ceil(W / block), block * block * C]; channels in the order (dy, dx, c) of
      TensorFlow.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % block), (0, -width % block), (0, 0)))
    x = x.reshape(batch, x.shape[1] // block, block, x.shape[2] // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*x.shape[:3], block * block * channels)


def depth_to_space(x: Array, block: int, size: tuple[int, int]) -> Array:
    """Moves channels back into blocks of pixels; the inverse of `space_to_depth`.

    Args:
      x: [B, h, w, block * block * C].
      block: side of a block in pixels.
      size: (height, width) in pixels of the result; what exceeds it is cut off.

    Returns:
      [B, height, width, C].
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, block, block, channels // block**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height * block, width * block, channels // block**2)
    return x[:, : size[0], : size[1]]
