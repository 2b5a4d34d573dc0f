"""Tiles of an image that is too large for one pass: overlapping windows, disjoint cores."""

import dataclasses
from collections.abc import Iterator

from pdl_jax.data.windows import Window
from pdl_jax.ops.rounding import ceil_div


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of an image that is predicted by itself.

    Attributes:
      row, column: place among the tiles.
      window: the pixels that the network sees.
      core: the pixels that take its labels; the cores of all tiles fill the image once.
    """

    row: int
    column: int
    window: Window
    core: Window


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """The tiles of an image.

    Windows start at multiples of the network's stride, so that strided layers see the same pixels
    as in the whole image. They have all the same size, but for less than a stride at the bottom and
    the right end.

    Attributes:
      size: (height, width) of the image in pixels.
      tile_size: (height, width) of a window in pixels.
      overlap_px: pixels that neighbouring windows share at least.
      stride_px: see `Predictor.stride_px`.

    Raises:
      ValueError: the overlap is too small to link objects by, or too large for the tile.
    """

    size: tuple[int, int]
    tile_size: tuple[int, int]
    overlap_px: int
    stride_px: int = 1

    def __post_init__(self) -> None:
        side = min(self.tile_size)
        if not 8 <= self.overlap_px <= side - max(self.stride_px, side // 4):
            raise ValueError(
                f'overlap_px (={self.overlap_px}) must lie in 8 .. '
                f'{side - max(self.stride_px, side // 4)} for tiles of {self.tile_size[0]}x'
                f'{self.tile_size[1]} pixels: about twice the size of the objects is best'
            )

    @property
    def window_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the largest window."""
        height, width = map(min, zip(self.size, self.tile_size, strict=True))
        return height, width

    def __len__(self) -> int:
        """Returns the number of tiles."""
        return len(self._find_starts(0)) * len(self._find_starts(1))

    def __iter__(self) -> Iterator[Tile]:
        """Yields the tiles row by row."""
        columns = self._find_spans(1)
        for row, (y0, y1, core_y0, core_y1) in enumerate(self._find_spans(0)):
            for column, (x0, x1, core_x0, core_x1) in enumerate(columns):
                window, core = Window(y0, x0, y1, x1), Window(core_y0, core_x0, core_y1, core_x1)
                yield Tile(row, column, window, core)

    def _find_starts(self, axis: int) -> list[int]:
        """Finds the first pixel of each window along an axis, spread evenly."""
        length, side, stride = self.size[axis], self.tile_size[axis], self.stride_px
        last = ceil_div(max(0, length - side), stride)
        step = (side - self.overlap_px) // stride
        count = ceil_div(last, step)
        return [last * i // max(count, 1) * stride for i in range(count + 1)]

    def _find_spans(self, axis: int) -> list[tuple[int, int, int, int]]:
        """Finds the bounds of each window, and of its core, along an axis."""
        starts, length = self._find_starts(axis), self.size[axis]
        ends = [min(start + self.tile_size[axis], length) for start in starts]
        # Where two tiles are equally far from their borders.
        middles = [(end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)]
        return list(zip(starts, ends, [0, *middles], [*middles, length], strict=True))
