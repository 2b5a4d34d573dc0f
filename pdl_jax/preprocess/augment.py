"""Resizing, random scale, crop and flip as one resampling from a fixed canvas to a fixed crop."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pdl_jax.ops.sampling import sample_bilinear, sample_nearest
from pdl_jax.preprocess.normalize import Normalization, normalize_image
from pdl_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Options of the random crop of a training sample.

    Attributes:
      crop_size: (height, width) of the network input in pixels.
      resize_min_px: length of the shorter side after a first resize; 0 for none.
      resize_max_px: limit of the longer side in that resize; 0 for none.
      min_scale: smallest random scale.
      max_scale: largest random scale.
      num_scales: number of equidistant values that the scale is drawn from; 0 draws from the whole
        interval. DeepLab2 draws from 15 values in [0.5, 2] (Cityscapes) or 10 in [0.5, 1.5] (COCO),
        none of which is 1.
      flip_probability: probability of mirroring left and right.
      normalization: see `normalize.normalize_image`.
    """

    crop_size: tuple[int, int]
    resize_min_px: int = 0
    resize_max_px: int = 0
    min_scale: float = 0.5
    max_scale: float = 2.0
    num_scales: int = 0
    flip_probability: float = 0.5
    normalization: Normalization = 'unit'

    def __post_init__(self) -> None:
        for field, value in (
            ('crop_height_px', self.crop_size[0]),
            ('crop_width_px', self.crop_size[1]),
            ('min_scale', self.min_scale),
        ):
            if not value > 0:
                raise ValueError(f'config.augment.{field} (={value!r}) must be positive')
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(
                f'config.augment.flip_probability (={self.flip_probability!r}) must lie in [0, 1]'
            )
        if self.max_scale < self.min_scale:
            raise ValueError(
                f'config.augment.max_scale (={self.max_scale}) must not be below '
                f'config.augment.min_scale (={self.min_scale})'
            )
        if self.resize_min_px and not self.resize_max_px:
            # Without a limit a long image would grow beyond every fixed input size.
            raise ValueError(
                f'config.augment.resize_min_px (={self.resize_min_px}) needs '
                f'config.augment.resize_max_px too: set it to the longest side that the network '
                f'shall see'
            )


class Window(NamedTuple):
    """Source positions of the pixels of a resampled image.

    Attributes:
      rows: f32[H], source row of each row.
      columns: f32[W], source column of each column.
    """

    rows: Array
    columns: Array


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


def random_window(key: Array, size: Array, options: AugmentOptions) -> Window:
    """Draws a scale, a crop or padding position, and a flip.

    Args:
      key: a random key.
      size: i32[2], (height, width) of the source in pixels.
      options: ranges to draw from.

    Returns:
      The window of `options.crop_size`. An image smaller than the crop lies at a random position
      in it.

    Source: DeepLab2's data/preprocessing, with its resize and scaling composed into one resampling.
    """
    scale_key, pad_key, crop_key, flip_key = jax.random.split(key, 4)
    resized = resize_to_range(size, options.resize_min_px, options.resize_max_px)
    if options.num_scales:
        scales = jnp.linspace(options.min_scale, options.max_scale, options.num_scales)
        scale = jax.random.choice(scale_key, scales)
    else:
        scale = jax.random.uniform(scale_key, minval=options.min_scale, maxval=options.max_scale)
    scaled = jnp.maximum((resized.astype(jnp.float32) * scale).astype(jnp.int32), 1)
    crop = jnp.array(options.crop_size)
    before = jax.random.randint(pad_key, (2,), 0, jnp.maximum(crop - scaled, 1))
    start = jax.random.randint(crop_key, (2,), 0, jnp.maximum(scaled - crop, 0) + 1)
    is_flipped = jax.random.uniform(flip_key) < options.flip_probability
    rows = jnp.arange(options.crop_size[0])
    columns = jnp.arange(options.crop_size[1])
    columns = jnp.where(is_flipped, columns[::-1], columns)
    offset = start - before
    return Window(
        _source_positions(rows + offset[0], size[0], scaled[0]),
        _source_positions(columns + offset[1], size[1], scaled[1]),
    )


def centered_window(size: Array, resized: Array, out_size: tuple[int, int]) -> Window:
    """Returns the window of an image resized to `resized`, at the top left of an output.

    Swapping `size` and `resized` gives the inverse.

    Args:
      size: i32[2], (height, width) of the source in pixels.
      resized: i32[2], (height, width) of the resized image in pixels.
      out_size: (height, width) of the output in pixels.
    """
    rows, columns = jnp.arange(out_size[0]), jnp.arange(out_size[1])
    return Window(
        _source_positions(rows, size[0], resized[0]),
        _source_positions(columns, size[1], resized[1]),
    )


def _source_positions(index: Array, source: Array, target: Array) -> Array:
    """Maps pixels of an axis resized from `source` to `target` pixels to f32 source positions.

    Pixels beyond the ends get -1, which lies outside of the source.
    """
    # Corners are aligned; a target of one pixel takes the first of the source.
    step = (source - 1).astype(jnp.float32) / jnp.maximum(target - 1, 1).astype(jnp.float32)
    is_inside = (index >= 0) & (index < target)
    return jnp.where(is_inside, index * jnp.where(target > 1, step, 0.0), -1.0)


def sample_image(
    image: Array, size: Array, window: Window, *, normalization: Normalization
) -> Array:
    """Normalises and resamples a canvas: u8[H, W, C] to f32[H', W', C], 0 outside of the image."""
    image = normalize_image(image, size, kind=normalization)
    return sample_bilinear(image, window.rows, window.columns, size, fill=0.0)


def sample_labels(labels: Array, size: Array, window: Window, *, fill: ArrayLike) -> Array:
    """Resamples a label map i32[H, W] with nearest neighbours; `fill` outside of the image."""
    return sample_nearest(labels, window.rows, window.columns, size, fill=fill)
