"""Image files as a predictor takes them: checked, upright, and of the network's pixel format."""

import numpy as np

from pdl_jax.data.images import decode_image
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.paths import explain_bucket_errors


def read_image(path: str, pixels: PixelFormat) -> np.ndarray:
    """Reads an image file; the picture is turned upright if its EXIF data say so, as viewers do.

    Args:
      path: local or on gs://.
      pixels: see `Predictor.pixels`.

    Returns:
      u8[H, W, pixels.num_channels].

    Raises:
      ValueError: the file is no image, no regular file, truncated, too large, or has another number
        of channels; the message names it.
      OSError: it cannot be read.
    """
    with explain_bucket_errors(path):
        data = read_outside_file(path)
    try:
        return decode_image(data, name=path, is_exif_applied=True, pixels=pixels)
    except MemoryError as error:
        raise ValueError(f'{path} does not fit into the memory: shrink or tile it') from error
