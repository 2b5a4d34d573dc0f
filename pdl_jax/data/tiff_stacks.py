"""Stacks of slices in one TIFF file, read page by page."""

from collections.abc import Iterator
from typing import IO

import numpy as np

from pdl_jax.data import tiff_images, tiff_segments
from pdl_jax.data.images import MAX_PIXELS, turn_upright
from pdl_jax.data.pixel_format import (
    PixelFormat,
    ValueRange,
    match_channels,
    measure_range,
    sample_values,
)
from pdl_jax.data.windows import Window

MAX_SLICES = 2**14
# Slices that the range of values of more than 8 bits is measured from.
_SAMPLED_SLICES = 16


class TiffStack:
    """The pages of a TIFF file as the slices of a volume, or the times of a recording.

    Args:
      file: the file, open as long as slices are read.
      name: name of the file, for error messages.
      pixels: number of channels, and the value range of files with more than 8 bits.

    Attributes:
      num_slices: number of pages.

    Raises:
      ValueError: it is no TIFF image that can be read here, or has more than `MAX_SLICES` pages.
    """

    def __init__(self, file: IO[bytes], *, name: str, pixels: PixelFormat) -> None:
        self._file, self._name, self._pixels = file, name, pixels
        self._pages = tiff_images.open_pages(file, name, max_pages=MAX_SLICES)
        self.num_slices = len(self._pages)
        if self.num_slices > MAX_SLICES:
            raise ValueError(f'{name} has more than {MAX_SLICES} pages: save it in several files')
        self._headers = [
            tiff_images.describe_pages([page], name, MAX_PIXELS) for page in self._pages
        ]
        first = self._headers[0]
        for index, header in enumerate(self._headers):
            if header != first:
                raise ValueError(
                    f'{name}: page {index + 1} has {header.height}x{header.width} pixels of '
                    f'{header.num_channels} channels and {header.bits} bits, the first '
                    f'{first.height}x{first.width}, {first.num_channels} and {first.bits}: save '
                    f'them apart'
                )
        if first.bits > 8 and pixels.value_range is None:
            # One range for all slices, or objects would change their brightness on the way.
            self._pixels = PixelFormat(pixels.num_channels, self._measure_range())

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields u8[H, W, C], the slices.

        Raises:
          ValueError: the file is damaged there; the message names it.
        """
        for index in range(self.num_slices):
            yield np.ascontiguousarray(self._pixels.scale(self._read(index)))

    def _read(self, index: int) -> np.ndarray:
        page, header = self._pages[index], self._headers[index]
        try:
            if not tiff_segments.is_decodable(page):
                tiff_images.require_imagecodecs(page, self._name)
            window = Window(0, 0, header.height, header.width)
            values = tiff_segments.decode_window(page, self._fetch, window)
            if header.photometric == tiff_segments.PALETTE:
                values = tiff_images.apply_palette(values, page.tags[320].value, self._name)
            elif header.bits < 8:
                values = values * np.uint8(255 // (2**header.bits - 1))
        except (MemoryError, tiff_images.TiffError):
            raise
        except Exception as error:
            raise ValueError(
                f'{self._name}: damaged or truncated TIFF image on page {index + 1}: {error}'
            ) from error
        values = match_channels(values, self._pixels.num_channels, header.has_alpha, self._name)
        return turn_upright(values, header.orientation)

    def _fetch(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(count)

    def _measure_range(self) -> ValueRange:
        step = max(1, self.num_slices // _SAMPLED_SLICES)
        indices = range(0, self.num_slices, step)
        return measure_range([sample_values(self._read(index)) for index in indices])
