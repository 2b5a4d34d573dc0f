"""Normalisation of pixel values."""

import jax.numpy as jnp

from pdl_jax.typing import Array

NORMALIZATIONS = ('unit', 'imagenet', 'per_image')

# Statistics of ImageNet's pixels in [0, 255], RGB, from torchvision; detectron2 and bowenc0221 use
# them too.
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_DEVIATION = (58.395, 57.12, 57.375)


def normalize_image(image: Array, size: Array, *, kind: str = 'unit') -> Array:
    """Centres pixel values on zero, so that 0 is a neutral padding value.

    Args:
      image: u8[H, W, 3] on a canvas.
      size: i32[2], valid (height, width) in pixels.
      kind: 'unit' maps [0, 255] to [-1, 1] (DeepLab2, TF-slim); 'imagenet' subtracts the mean
        colour of ImageNet and divides by its deviation (PyTorch's networks); 'per_image' subtracts
        the mean of the valid pixels and divides by their standard deviation, for images of varying
        exposure such as microscopy.

    Returns:
      f32[H, W, 3].

    Raises:
      ValueError: `kind` is unknown.
    """
    image = image.astype(jnp.float32)
    if kind == 'unit':
        return image / 127.5 - 1
    if kind == 'imagenet':
        return (image - jnp.array(_IMAGENET_MEAN)) / jnp.array(_IMAGENET_DEVIATION)
    if kind != 'per_image':
        raise ValueError(f'normalization {kind!r} is unknown; choose one of {NORMALIZATIONS}')
    rows = jnp.arange(image.shape[0])[:, None, None] < size[0]
    columns = jnp.arange(image.shape[1])[None, :, None] < size[1]
    valid = rows & columns
    count = (size[0] * size[1] * image.shape[2]).astype(jnp.float32)
    mean = jnp.sum(image, where=valid) / count
    variance = jnp.sum((image - mean) ** 2, where=valid) / count
    # The deviation is at least one grey level, so that a flat image is not amplified into noise.
    return (image - mean) / jnp.sqrt(jnp.maximum(variance, 1.0))
