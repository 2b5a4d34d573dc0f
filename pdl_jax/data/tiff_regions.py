"""Regions of TIFF files that are larger than the memory, such as whole slides and aerial images."""

import math
from typing import IO, Any

import numpy as np

from pdl_jax.data import tiff_images, tiff_segments
from pdl_jax.data.images import MAX_SIDE_PX, turn_upright
from pdl_jax.data.pixel_format import PixelFormat, match_channels, measure_range, sample_values
from pdl_jax.data.windows import Window

# Above the largest slides; the labels of so many pixels fill a disk of 128 GiB.
MAX_PIXELS = 2**35
# Regions, of so many pixels a side, that the range of values of more than 8 bits is measured from.
_SAMPLES = 8
_SAMPLE_PX = 256


class TiffRegions:
    """A TIFF file whose regions are read one by one.

    Striped and tiled files, BigTIFF, and the first level of pyramids are read, compressed with
    Deflate, LZW, PackBits or JPEG, or as imagecodecs can if it is installed. Pages of one channel
    each are channels.

    Args:
      file: the file, open as long as regions are read.
      name: name of the file, for error messages.
      pixels: number of channels, and the value range of files with more than 8 bits.

    Attributes:
      size: (height, width) in pixels of the picture, upright as its orientation says.

    Raises:
      ValueError: it is no TIFF image that can be read here, or an image beyond `MAX_PIXELS`.
    """

    def __init__(self, file: IO[bytes], *, name: str, pixels: PixelFormat) -> None:
        self._file, self._name = file, name
        self._pages = tiff_images.open_pages(file, name)
        # No more bytes than that are ever together in memory: the regions of the caller.
        self._header = tiff_images.describe_pages(
            self._pages, name, MAX_PIXELS, max_bytes=64 * MAX_PIXELS
        )
        header = self._header
        if max(header.height, header.width) > MAX_SIDE_PX:
            raise ValueError(
                f'{name}: a side of {max(header.height, header.width)} pixels exceeds the limit of '
                f'{MAX_SIDE_PX}: cut the image into parts'
            )
        self.size = (header.height, header.width)
        if header.orientation >= 5:
            self.size = (header.width, header.height)
        self._caches = [tiff_segments.SegmentCache() for _ in self._pages]
        self._num_channels = pixels.num_channels
        self._pixels = pixels
        if header.bits > 8 and pixels.value_range is None:
            # One range for the whole image, or its regions would not fit together.
            self._pixels = PixelFormat(pixels.num_channels, self._measure_range())

    def read(self, window: Window) -> np.ndarray:
        """Reads a region.

        Args:
          window: not empty, within `size`.

        Returns:
          u8[h, w, C], upright.

        Raises:
          ValueError: the file is damaged there; the message names it.
        """
        return np.ascontiguousarray(self._pixels.scale(self._read_values(window)))

    def _read_values(self, window: Window) -> np.ndarray:
        orientation = self._header.orientation
        stored = find_stored(window, self.size, orientation)
        try:
            planes = [
                self._decode(page, stored, cache)
                for page, cache in zip(self._pages, self._caches, strict=True)
            ]
            values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
            if self._header.photometric == tiff_segments.PALETTE:
                colormap = self._pages[0].tags[320].value
                values = tiff_images.apply_palette(values, colormap, self._name)
            elif self._header.bits < 8:
                values = values * np.uint8(255 // (2**self._header.bits - 1))
        except (MemoryError, tiff_images.TiffError):
            raise
        except Exception as error:
            raise ValueError(
                f'{self._name}: damaged or truncated TIFF image in the region {tuple(stored)}: '
                f'{error}'
            ) from error
        values = match_channels(values, self._num_channels, self._header.has_alpha, self._name)
        return turn_upright(values, orientation)

    def _decode(self, page: Any, window: Window, cache: tiff_segments.SegmentCache) -> np.ndarray:
        if not tiff_segments.is_decodable(page):
            tiff_images.require_imagecodecs(page, self._name)
        return tiff_segments.decode_window(page, self._fetch, window, cache)

    def _fetch(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(count)

    def _measure_range(self) -> tuple[tuple[float, float], ...]:
        """Measures the range of values in regions on a regular grid."""
        tops, lefts = (
            {round(i * max(0, n - _SAMPLE_PX) / (_SAMPLES - 1)) for i in range(_SAMPLES)}
            for n in self.size
        )
        samples = []
        for top in sorted(tops):
            for left in sorted(lefts):
                bottom = min(top + _SAMPLE_PX, self.size[0])
                right = min(left + _SAMPLE_PX, self.size[1])
                values = self._read_values(Window(top, left, bottom, right))
                # As many values as of a whole image that is measured.
                step = math.ceil(math.sqrt(len(tops) * len(lefts)) / 2)
                samples.append(sample_values(values[::step, ::step]))
        return measure_range(samples)


def find_stored(window: Window, size: tuple[int, int], orientation: int) -> Window:
    """Finds the part of a stored image that `images.turn_upright` turns into a window.

    Args:
      window: in the upright image.
      size: (height, width) in pixels of the upright image.
      orientation: EXIF orientation, 1 .. 8.
    """
    y0, x0, y1, x1 = window
    height, width = size
    if orientation >= 5:
        y0, x0, y1, x1 = x0, y0, x1, y1
        height, width = width, height
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    if orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    return Window(y0, x0, y1, x1)
