"""Outlines of objects as annotation files give them, and the pixels that they enclose.

A region is a polygon, the run lengths of COCO, or a small bitmap with its place; `draw` gives its
pixels. Annotation files are not trusted: every value is checked before C code sees it, and time and
memory are bounded.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from pycocotools import mask as coco_mask

from pdl_jax.storage.json_files import describe_value

# pycocotools walks along an outline in steps of 1/5 pixel and keeps some 16 bytes per step.
MAX_OUTLINE_PX = 2**20
# Points beyond would overflow its C integers; no picture reaches so far.
_MAX_COORDINATE_PX = 2**20
# Base64 of a COCO string: 5 bits per character, so 7 characters exceed the runs of any image.
_MAX_CHARACTERS_PER_RUN = 7


class Patch(NamedTuple):
    """Numbers of objects in a part of an image, 0 where there is none.

    Attributes:
      top, left: the first row and the first column of the part.
      ids: u8 or i32[h, w], numbers of objects; a single object has number 1.
    """

    top: int
    left: int
    ids: np.ndarray


class Region(Protocol):
    """A set of pixels."""

    def draw(self, size: tuple[int, int]) -> Patch:
        """Returns the pixels that lie inside an image of (height, width) `size`.

        Raises:
          ValueError: the region does not fit the size, or is too large to be drawn.
        """
        ...


class Polygon(NamedTuple):
    """A closed outline; pixels with their centre inside belong to it, by the even-odd rule.

    Attributes:
      points: f64[N, 2], (x, y) in pixels from the left and the upper edge of the image.
      is_relative: whether the points are fractions of width and height instead.
    """

    points: np.ndarray
    is_relative: bool = False

    def draw(self, size: tuple[int, int]) -> Patch:
        """See `Region.draw`."""
        points = self.points * (size[1], size[0]) if self.is_relative else self.points
        low = np.floor(points.min(axis=0)).astype(int) - 1
        high = np.ceil(points.max(axis=0)).astype(int) + 1
        left, top = np.clip(low, 0, (size[1], size[0])).tolist()
        right, bottom = np.clip(high, 0, (size[1], size[0])).tolist()
        if right <= left or bottom <= top:
            return _NOTHING
        moved = points - (left, top)
        length = float(np.abs(moved - np.roll(moved, 1, axis=0)).sum())
        if length > MAX_OUTLINE_PX:
            raise ValueError(
                f'its outline is {length:.0f} pixels long, more than {MAX_OUTLINE_PX}: simplify it'
            )
        outlines: Any = [moved.ravel().tolist()]
        runs: Any = coco_mask.frPyObjects(outlines, bottom - top, right - left)
        return Patch(top, left, coco_mask.decode(runs)[..., 0])


class RunLengths(NamedTuple):
    """Lengths of the runs of an image in column-major order, outside and inside by turns.

    Attributes:
      counts: i64[N], each >= 0; their sum is height * width.
      size: (height, width) of the image.
    """

    counts: np.ndarray
    size: tuple[int, int]

    def draw(self, size: tuple[int, int]) -> Patch:
        """See `Region.draw`."""
        if self.size != size:
            raise ValueError(
                f'its run lengths are those of an image of {self.size[0]}x{self.size[1]} pixels '
                f'(height x width), the image has {size[0]}x{size[1]}: repair one of them'
            )
        height = size[0]
        ends = np.cumsum(self.counts)
        inside = np.flatnonzero(self.counts[1::2]) * 2 + 1
        if not inside.size:
            return _NOTHING
        first, last = inside[0], inside[-1]
        # Only the columns from the first pixel inside to the last one are drawn.
        left, right = int(ends[first - 1]) // height, -(-int(ends[last]) // height)
        counts = np.concatenate(
            [
                [ends[first - 1] - left * height],
                self.counts[first : last + 1],
                [right * height - ends[last]],
            ]
        )
        flat = np.repeat((np.arange(len(counts)) & 1).astype(np.uint8), counts)
        pixels = flat.reshape(right - left, height).T
        rows = np.flatnonzero(pixels.any(axis=1))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        return Patch(top, left, pixels[top:bottom])


class Bitmap(NamedTuple):
    """A small mask and its place, which may exceed the image.

    Attributes:
      top, left: the first row and the first column; may be negative.
      pixels: bool[h, w].
    """

    top: int
    left: int
    pixels: np.ndarray

    def draw(self, size: tuple[int, int]) -> Patch:
        """See `Region.draw`."""
        top, left = max(0, self.top), max(0, self.left)
        bottom = min(size[0], self.top + self.pixels.shape[0])
        right = min(size[1], self.left + self.pixels.shape[1])
        if bottom <= top or right <= left:
            return _NOTHING
        pixels = self.pixels[
            top - self.top : bottom - self.top, left - self.left : right - self.left
        ]
        return Patch(top, left, pixels.astype(np.uint8))


_NOTHING = Patch(0, 0, np.zeros((0, 0), np.uint8))


def unite(patches: Sequence[Patch]) -> Patch:
    """Returns the pixels of any of the patches, as one object."""
    if len(patches) == 1:
        return patches[0]
    patches = [patch for patch in patches if patch.ids.size]
    if not patches:
        return _NOTHING
    top, left = min(p.top for p in patches), min(p.left for p in patches)
    bottom = max(p.top + p.ids.shape[0] for p in patches)
    right = max(p.left + p.ids.shape[1] for p in patches)
    ids = np.zeros((bottom - top, right - left), np.uint8)
    for patch in patches:
        y, x = patch.top - top, patch.left - left
        ids[y : y + patch.ids.shape[0], x : x + patch.ids.shape[1]] |= patch.ids > 0
    return Patch(top, left, ids)


def parse_polygon(values: Any, where: str) -> Polygon:
    """Reads a polygon.

    Args:
      values: JSON value: a list x, y, x, y, ... or a list of pairs [x, y].
      where: place of the polygon, for error messages.

    Raises:
      ValueError: the value is no such list, has fewer than three points, or a coordinate that is
        not finite or lies far outside of any image.
    """
    remedy = 'give at least three points as numbers x, y, x, y, ...'
    try:
        points = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'{where} is no polygon, got {describe_value(values)}: {remedy}'
        ) from error
    is_pairs = points.ndim == 2 and points.shape[1] == 2
    if not is_pairs and (points.ndim != 1 or points.size % 2) or points.size < 6:
        raise ValueError(
            f'{where} is no polygon, got {points.size} numbers in the shape '
            f'{"x".join(map(str, points.shape))}, {describe_value(values)}: {remedy}'
        )
    points = points.reshape(-1, 2)
    if not (np.abs(points) <= _MAX_COORDINATE_PX).all():
        wrong = points[~(np.abs(points) <= _MAX_COORDINATE_PX).all(axis=1)][0]
        raise ValueError(
            f'{where} holds the point x={wrong[0]:g}, y={wrong[1]:g}, which lies far outside of '
            f'any image or is not finite: repair it'
        )
    return Polygon(points)


def parse_run_lengths(size: Any, counts: Any, where: str) -> RunLengths:
    """Reads run lengths of COCO.

    Args:
      size: JSON value: [height, width].
      counts: JSON value: a list of lengths, or the string that COCO compresses them to.
      where: place of the run lengths, for error messages.

    Raises:
      ValueError: the values are malformed, or the lengths do not add up to height * width.
    """
    is_pair = isinstance(size, list) and len(size) == 2
    if not is_pair or not all(_is_count(value) and value for value in size):
        raise ValueError(f'{where}: size must be [height, width], got {describe_value(size)}')
    height, width = map(int, size)
    if isinstance(counts, str):
        lengths = _decompress(counts, where)
    else:
        if not isinstance(counts, list) or not all(map(_is_count, counts)):
            raise ValueError(
                f'{where}: counts must be a list of integers >= 0 or a string of COCO, got '
                f'{describe_value(counts)}'
            )
        lengths = np.array(counts, np.int64)
    total = int(lengths.sum())
    if (lengths < 0).any() or total != height * width:
        raise ValueError(
            f'{where}: counts add up to {total} pixels with a shortest run of '
            f'{int(lengths.min(initial=0))}, size says {height}x{width} = {height * width}: export '
            f'the annotation again'
        )
    return RunLengths(lengths, (height, width))


def _is_count(value: Any) -> bool:
    # A bound on each length keeps their sum inside int64.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _decompress(text: str, where: str) -> np.ndarray:
    """Returns the lengths i64[N] that a string of COCO holds.

    A length is a group of characters of 5 bits, the lowest first; bit 5 says that more follow, and
    bit 4 of the last is the sign. From the fourth length on the difference from the last but one is
    stored. Source: rleFrString in maskApi.c of cocoapi, which trusts its input.
    """
    if not re.fullmatch('[0-o]*', text):
        wrong = next(c for c in text if not '0' <= c <= 'o')
        raise ValueError(
            f'{where}: counts holds the character {wrong!r}, which no string of COCO has'
        )
    codes = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - ord('0')
    is_last = codes < 32
    if codes.size and not is_last[-1]:
        raise ValueError(f'{where}: counts ends in the middle of a length: the file is cut off')
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    num_characters = ends - starts + 1
    if num_characters.max(initial=0) > _MAX_CHARACTERS_PER_RUN:
        raise ValueError(f'{where}: counts holds a length of over 32 bits: export it again')
    if not ends.size:
        return np.zeros(0, np.int64)
    position = np.arange(codes.size) - np.repeat(starts, num_characters)
    lengths = np.add.reduceat((codes & 31) << (5 * position), starts)
    is_negative = (codes[ends] & 16) > 0
    lengths -= np.where(is_negative, 1 << (5 * num_characters), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
