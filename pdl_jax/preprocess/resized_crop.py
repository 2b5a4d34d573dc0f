"""Crops of classifiers: a random part of the image in training, its centre at inference."""

import jax
import jax.numpy as jnp

from pdl_jax.typing import Array

# Draws until a part fits into the image; then comes the largest central part.
_NUM_DRAWS = 10


def draw_part(
    key: Array, size: Array, *, min_share: float, max_share: float, max_aspect: float
) -> tuple[Array, Array]:
    """Draws a part of an image by its share of the area and its aspect ratio.

    Args:
      key: a random key.
      size: i32[2], (height, width) of the image in pixels.
      min_share, max_share: range of the share, drawn evenly.
      max_aspect: limit of the ratio of the longer to the shorter side; its logarithm is drawn
        evenly, for both orientations.

    Returns:
      i32[2] each, the first (row, column) and the (height, width) in pixels.

    Source: Szegedy et al., Going Deeper with Convolutions, 2015; torchvision's RandomResizedCrop.
    """
    share_key, aspect_key, start_key = jax.random.split(key, 3)
    dims = size.astype(jnp.float32)
    shares = jax.random.uniform(share_key, (_NUM_DRAWS,), minval=min_share, maxval=max_share)
    limit = jnp.log(max_aspect)
    # Width over height.
    aspects = jnp.exp(jax.random.uniform(aspect_key, (_NUM_DRAWS,), minval=-limit, maxval=limit))
    areas = shares * dims[0] * dims[1]
    parts = jnp.stack([jnp.sqrt(areas / aspects), jnp.sqrt(areas * aspects)], axis=-1)
    parts = jnp.round(parts).astype(jnp.int32)
    fits = jnp.all((parts > 0) & (parts <= size), axis=-1)
    aspect = jnp.clip(dims[1] / dims[0], 1 / max_aspect, max_aspect)
    central = jnp.stack([jnp.minimum(dims[0], dims[1] / aspect), dims[1]])
    central = central.at[1].set(jnp.minimum(dims[1], central[0] * aspect))
    central = jnp.maximum(jnp.round(central).astype(jnp.int32), 1)
    is_drawn = jnp.any(fits)
    part = jnp.where(is_drawn, parts[jnp.argmax(fits)], central)
    start = jax.random.randint(start_key, (2,), 0, size - part + 1)
    return jnp.where(is_drawn, start, (size - part) // 2), part


def resize_part(start: Array, part: Array, out_size: tuple[int, int]) -> tuple[Array, Array]:
    """Returns f32[H] source rows and f32[W] source columns of a part resized to `out_size`.

    Pixel centres are aligned, and nothing beyond the part is seen.

    Args:
      start, part: i32[2] each, the first (row, column) and the (height, width) in pixels.
      out_size: (height, width) of the result in pixels.
    """

    def find(axis: int) -> Array:
        step = part[axis].astype(jnp.float32) / out_size[axis]
        position = (jnp.arange(out_size[axis]) + 0.5) * step - 0.5
        return start[axis] + jnp.clip(position, 0, part[axis] - 1)

    return find(0), find(1)


def find_center(size: Array, resized: Array, out_size: tuple[int, int]) -> tuple[Array, Array]:
    """Returns the source rows and columns of the centre of a resized image.

    Args:
      size, resized: i32[2] each, (height, width) in pixels of the source and of the resized image,
        which is no smaller than the result.
      out_size: (height, width) of the result in pixels.

    Returns:
      f32[H] and f32[W].

    Source: torchvision's Resize and CenterCrop.
    """

    def find(axis: int) -> Array:
        before = jnp.round((resized[axis] - out_size[axis]) / 2)
        step = size[axis].astype(jnp.float32) / resized[axis]
        position = (jnp.arange(out_size[axis]) + before + 0.5) * step - 0.5
        return jnp.clip(position, 0, size[axis] - 1)

    return find(0), find(1)
