"""Images to predict in the forms that people have them: files, PIL images, arrays."""

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pdl_jax.data.pixel_format import PixelFormat, match_channels
from pdl_jax.prediction.image_files import read_image

# A path, a PIL image, or an array of NumPy, JAX or any other library that converts to NumPy's.
ImageInput = Any
# Modes of PIL whose channels are those of an array; others are converted to RGB.
_ARRAY_MODES = ('L', 'LA', 'RGB', 'RGBA', 'I;16', 'I;16B', 'I;16L')


def read_input(image: ImageInput, pixels: PixelFormat) -> np.ndarray:
    """Reads an image as a network gets it.

    Args:
      image: a path, local or gs://; a PIL image; or an array of uint8, or of uint16, which is
        scaled like files of 16 bits: [H, W] and [H, W, 1] are grey, [H, W, 3] is RGB, and of
        [H, W, 2] and [H, W, 4] the last channel, opacity, is left out unless the network takes as
        many. Files and PIL images are turned upright if their EXIF data say so, as viewers do.
      pixels: see `Predictor.pixels`.

    Returns:
      u8[H, W, pixels.num_channels].

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is no image, or the array has another dtype or shape.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image), pixels)
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        image = image if image.mode in _ARRAY_MODES else image.convert('RGB')
    values = np.asarray(image)
    if np.issubdtype(values.dtype, np.floating):
        # Whether 1.0 is white or nearly black cannot be told from an array.
        raise ValueError(
            f'an image must be uint8, not {values.dtype}: convert values in 0 .. 1 by '
            f"(255 * image).round().astype('uint8')"
        )
    is_unsigned = values.dtype.kind == 'u' and values.dtype.itemsize <= 2
    if not is_unsigned or values.ndim not in (2, 3) or not values.size:
        hint = '; give several images as a list' if values.ndim == 4 else ''
        raise ValueError(
            f'an image must be uint8[H, W] or uint8[H, W, channels], not '
            f'{values.dtype}{list(values.shape)}{hint}'
        )
    values = values.astype(values.dtype.newbyteorder('='), copy=False)
    values = values if values.ndim == 3 else values[..., None]
    has_opacity = values.shape[2] in (2, 4)
    return pixels.scale(match_channels(values, pixels.num_channels, has_opacity, 'the image'))
