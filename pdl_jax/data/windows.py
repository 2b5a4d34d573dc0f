"""Rectangles of an image."""

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of an image in pixels, ends exclusive."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rectangle as an index of [H, W, ...]."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def within(self, other: 'Window') -> 'Window':
        """The same rectangle in coordinates whose origin is that of another one."""
        y, x = other.y0, other.x0
        return Window(self.y0 - y, self.x0 - x, self.y1 - y, self.x1 - x)

    def intersect(self, other: 'Window') -> 'Window':
        """The rectangle that two have in common; of no size where they have none."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Window(y0, x0, max(y0, min(self.y1, other.y1)), max(x0, min(self.x1, other.x1)))
