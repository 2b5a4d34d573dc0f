"""The size that images are padded to, so that those of one size share a compiled program."""

import math
from collections.abc import Sequence

import numpy as np

from pdl_jax.data.images import MAX_PIXELS
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.inference import find_input_size
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.systems.system import System

# If all images are resized to one network input, canvases are multiples of this, so that different
# image sizes share a compiled program.
_CANVAS_STEP_PX = 128
# Somewhat more than the largest image that is decoded, for the padding of its canvas. A long strip,
# whose canvas is mostly padding, must not fill the memory.
_MAX_CANVAS_PIXELS = MAX_PIXELS * 17 // 16


def find_canvas_size(
    system: System, augment: AugmentOptions, size: tuple[int, int]
) -> tuple[int, int]:
    """Finds the (height, width) in pixels that an image is padded to.

    Args:
      system: the system that labels it.
      augment: the size that images are resized to, if they are.
      size: (height, width) of the image in pixels.

    Raises:
      ValueError: the system cannot take an image as large as this.
    """
    is_resized = augment.is_part or bool(augment.resize_max_px)
    if is_resized:
        height, width = (ceil_div(n, _CANVAS_STEP_PX) * _CANVAS_STEP_PX for n in size)
        canvas = (height, width)
    else:
        # The canvas size fixes the network input; rounding it up would add padding that evaluation
        # does not have.
        canvas = find_input_size(system, augment, size)
    if math.prod(canvas) > _MAX_CANVAS_PIXELS:
        raise ValueError(
            f'an image of {size[0]}x{size[1]} pixels needs a canvas of {canvas[0]}x{canvas[1]}, '
            f'and the limit is {_MAX_CANVAS_PIXELS} pixels: cut it into parts, as --tile_px does'
        )
    limit = None if is_resized else system.max_pixels
    if limit is not None and math.prod(canvas) > limit:
        raise ValueError(
            f'an image of {size[0]}x{size[1]} pixels is too large for a network input of at most '
            f'{limit} pixels: shrink it, or predict it with --tile_px'
        )
    return canvas


def stack_images(
    images: Sequence[np.ndarray], canvas: tuple[int, int], num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks images of one canvas into a batch.

    Args:
      images: u8[H, W, C] each, at least one.
      canvas: (height, width) in pixels that hold them all.
      num_rows: rows of the batch, no fewer than images.

    Returns:
      u8[B, H, W, C] with every image in its top left corner, and their i32[B, 2]; rows without an
      image are one black pixel.
    """
    batch = np.zeros((num_rows, *canvas, images[0].shape[2]), np.uint8)
    sizes = np.ones((num_rows, 2), np.int32)
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        batch[row, :height, :width] = image
        sizes[row] = height, width
    return batch, sizes
