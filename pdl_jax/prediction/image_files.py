"""Image files as a predictor takes them: checked, upright, and of the network's pixel format."""

import numpy as np
from absl import logging

from pdl_jax.data.images import MAX_PIXELS, decode_image, read_header
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.storage.outside_files import MAX_FILE_BYTES, read_outside_file
from pdl_jax.storage.paths import explain_bucket_errors, refuse_address


def read_image(
    path: str,
    pixels: PixelFormat,
    *,
    max_bytes: int = MAX_FILE_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads an image file; the picture is turned upright if its EXIF data say so, as viewers do.

    Args:
      path: local or on gs://.
      pixels: see `Predictor.pixels`.
      max_bytes: larger files are refused before they are read.
      max_pixels: larger images are refused before they are decoded.

    Returns:
      u8[H, W, pixels.num_channels].

    Raises:
      ValueError: the file is no image, no regular file, truncated, too large, or has another number
        of channels; the message names it.
      OSError: it cannot be read.
    """
    refuse_address(path)
    with explain_bucket_errors(path):
        data = read_outside_file(path, max_bytes=max_bytes)
    try:
        image = decode_image(
            data, name=path, max_pixels=max_pixels, is_exif_applied=True, pixels=pixels
        )
        header = read_header(data, name=path, max_pixels=max_pixels)
        if pixels.value_range is None and header.is_deep:
            logging.log_first_n(
                logging.WARNING,
                '%s: files of more than 8 bits are scaled by the percentiles of each: the network '
                'knows no value range of its training data',
                1,
                path,
            )
        return image
    except MemoryError as error:
        raise ValueError(f'{path} does not fit into the memory: shrink or tile it') from error
