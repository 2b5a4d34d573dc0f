"""Images that are read by region."""

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pdl_jax.data import tiff_images
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.tiff_regions import TiffRegions
from pdl_jax.data.windows import Window
from pdl_jax.prediction.image_inputs import ImageInput, read_input
from pdl_jax.storage.outside_files import refuse_irregular
from pdl_jax.storage.paths import explain_bucket_errors, make_path


class Regions(Protocol):
    """An image whose regions are read.

    Attributes:
      size: (height, width) in pixels.
    """

    size: tuple[int, int]

    def read(self, window: Window) -> np.ndarray:
        """Reads u8[h, w, C], a region within the image."""
        ...


class ArrayRegions:
    """An image in memory, or a mapped file.

    Args:
      image: u8[H, W, C].
    """

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self.size = (image.shape[0], image.shape[1])

    def read(self, window: Window) -> np.ndarray:
        """Returns u8[h, w, C], a region."""
        return self._image[window.slices]


@contextlib.contextmanager
def open_regions(image: ImageInput, pixels: PixelFormat) -> Iterator[Regions]:
    """Opens an image.

    A TIFF file is read by region and may be larger than the memory. Other files are decoded as a
    whole, and have to be within the limit of `images.MAX_PIXELS`.

    Args:
      image: see `image_inputs.read_input`.
      pixels: see `Predictor.pixels`.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is no image or too large.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
            refuse_irregular(name)
            with explain_bucket_errors(name):
                file = stack.enter_context(make_path(name).open('rb'))
                is_tiff = tiff_images.is_tiff(file.read(4))
            if is_tiff:
                yield TiffRegions(file, name=name, pixels=pixels)
                return
        yield ArrayRegions(read_input(image, pixels))
