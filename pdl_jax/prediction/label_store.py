"""A label map on disk, written by region, and its tiled TIFF file."""

import os
import shutil
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from etils import epath

from pdl_jax.data.windows import Window
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.storage.paths import explain_write_errors, is_remote

_TILE_PX = 256
# Above this many bytes a TIFF file needs offsets of 64 bits.
_MAX_CLASSIC_BYTES = 2**31


class LabelStore:
    """Labels i32[H, W] in a file beside the result, which is deleted in the end.

    Args:
      path: the file.
      size: (height, width) in pixels.

    Raises:
      ValueError: it lies in a bucket.
      OSError: the disk has too little space.
    """

    def __init__(self, path: epath.Path, size: tuple[int, int]) -> None:
        if is_remote(path):
            raise ValueError(f'tiles are written to local folders, not to {path.parent}')
        self._path, self._size = path, size
        # The result is compressed, and usually far smaller than that.
        needed, free = 4 * size[0] * size[1], shutil.disk_usage(path.parent).free
        if needed > free:
            raise OSError(
                f'the labels of {size[0]}x{size[1]} pixels need {needed / 2**30:.1f} GiB, and '
                f'{path.parent} has {free / 2**30:.1f}: free some space or give another --output'
            )
        with explain_write_errors(path):
            # A mapped file would end the program where the disk is full.
            self._file = open(path, 'w+b')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, window: Window, labels: np.ndarray) -> None:
        """Writes i32[h, w], the labels of a window.

        Raises:
          OSError: the disk is full.
        """
        with explain_write_errors(self._path):
            for y, row in zip(range(window.y0, window.y1), labels, strict=True):
                self._file.seek(4 * (y * self._size[1] + window.x0))
                self._file.write(np.ascontiguousarray(row, '<i4').tobytes())

    def read_rows(self, start: int, end: int) -> np.ndarray:
        """Reads rows, i32[end - start, W], all of which have been written."""
        width = self._size[1]
        self._file.seek(4 * start * width)
        rows = np.frombuffer(self._file.read(4 * (end - start) * width), '<i4')
        return rows.reshape(end - start, width)

    def save_tiff(self, path: epath.Path, table: np.ndarray) -> None:
        """Writes the map as a tiled TIFF file, compressed with Deflate.

        Args:
          path: the file, which appears when it is complete.
          table: i32[N], the new label of each label, of which the type of the file follows: uint16
            if they fit, else uint32.

        Raises:
          OSError: the disk is full.
        """
        import tifffile

        dtype = np.dtype(np.uint16 if table.max(initial=0) < 2**16 else np.uint32)
        partial = path.parent / f'.{path.name}.{os.getpid()}.partial'
        num_bytes = self._size[0] * self._size[1] * dtype.itemsize
        try:
            with explain_write_errors(path):
                tifffile.imwrite(
                    partial,
                    self._make_tiles(table.astype(dtype)),
                    shape=self._size,
                    dtype=dtype,
                    tile=(_TILE_PX, _TILE_PX),
                    compression='zlib',
                    photometric='minisblack',
                    bigtiff=num_bytes > _MAX_CLASSIC_BYTES,
                    metadata=None,
                )
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_tiles(self, table: np.ndarray) -> Iterator[np.ndarray]:
        height, width = self._size
        for top in range(0, height, _TILE_PX):
            rows = table[self.read_rows(top, min(top + _TILE_PX, height))]
            for left in range(0, ceil_div(width, _TILE_PX) * _TILE_PX, _TILE_PX):
                yield np.ascontiguousarray(rows[:, left : left + _TILE_PX])
