"""Normalisation of pixel values."""

import dataclasses

import jax.numpy as jnp

from pdl_jax.typing import Array

NORMALIZATIONS = ('unit', 'imagenet', 'per_image', 'given')

# Statistics of ImageNet's pixels in [0, 255], RGB, from torchvision; detectron2 and bowenc0221 use
# them too.
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_DEVIATION = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """The normalisation 'given': a mean and a deviation of pixels in [0, 255] for each channel.

    Attributes:
      mean: one value per channel, or one for all.
      deviation: as many, positive.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.deviation):
            raise ValueError(
                f"config.model.normalization 'given' needs config.model.pixel_mean "
                f'(={self.mean}) and config.model.pixel_deviation (={self.deviation}) with one '
                f'number per channel, or one for all'
            )
        if not all(value > 0 for value in self.deviation):
            raise ValueError(f'config.model.pixel_deviation (={self.deviation}) must be positive')

    def check_channels(self, num_channels: int) -> None:
        """Checks the number of values.

        Raises:
          ValueError: there is neither one value nor one per channel.
        """
        if len(self.mean) not in (1, num_channels):
            raise ValueError(
                f'config.model.pixel_mean (={self.mean}) must have one number for each of the '
                f'config.data.num_channels (={num_channels}), or one for all'
            )


# A kind, or the statistics of the kind 'given'.
Normalization = str | ChannelStatistics


def normalize_image(image: Array, size: Array, *, kind: Normalization = 'unit') -> Array:
    """Centres pixel values on zero, so that 0 is a neutral padding value.

    Args:
      image: u8[H, W, C] on a canvas.
      size: i32[2], valid (height, width) in pixels.
      kind: 'unit' maps [0, 255] to [-1, 1] (DeepLab2, TF-slim); 'imagenet' subtracts the mean
        colour of ImageNet and divides by its deviation (PyTorch's networks), where other numbers
        of channels than three get the averages over the colours; 'per_image' subtracts the mean of
        the valid pixels and divides by their standard deviation, for images of varying exposure
        such as microscopy; `ChannelStatistics` are given.

    Returns:
      f32[H, W, C].

    Raises:
      ValueError: `kind` is unknown.
    """
    image = image.astype(jnp.float32)
    if kind == 'unit':
        return image / 127.5 - 1
    if isinstance(kind, ChannelStatistics):
        return (image - jnp.array(kind.mean)) / jnp.array(kind.deviation)
    if kind == 'imagenet':
        mean, deviation = jnp.array(_IMAGENET_MEAN), jnp.array(_IMAGENET_DEVIATION)
        if image.shape[2] != len(_IMAGENET_MEAN):
            mean, deviation = mean.mean(), deviation.mean()
        return (image - mean) / deviation
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
