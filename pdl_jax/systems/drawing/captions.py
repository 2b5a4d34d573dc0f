"""Places for names in a picture, so that none covers another, leaves it or hides an object."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from pdl_jax.systems.drawing.borders import find_borders
from pdl_jax.systems.drawing.fonts import load_font

# Places are searched on a map of at most so many pixels a side, so that time is bounded.
_LAYOUT_PX = 768
# Names are wider than high, so a pixel of room above or below counts as so many beside.
_VERTICAL_COST = 2.5
# A name may move aside for others until it has less than this part of the room at its best place.
_MIN_ROOM_SHARE = 0.4
# A plate covers at most this part of its own segment, or of other objects if it stands beside.
_MAX_INSIDE_SHARE = 0.35
_MAX_OUTSIDE_SHARE = 0.1
# A crowded picture has smaller names, but no unreadable ones.
_SMALL = 0.75
MIN_FONT_PX = 10
# Places inside of a segment that are tried at the edge of the picture.
_MAX_TRIES = 8


@dataclasses.dataclass(frozen=True)
class Caption:
    """A text for a segment.

    Attributes:
      row: the index of the segment in the map of indices.
      texts: the text, and shorter ones for places with little room.
      may_stand_beside: whether the text may stand outside of its segment.
    """

    row: int
    texts: tuple[str, ...]
    may_stand_beside: bool


@dataclasses.dataclass(frozen=True)
class Plate:
    """A text with its place.

    Attributes:
      row: the index of the segment in the map of indices.
      text: one line.
      font_px: size of the font.
      box: (y0, x0, y1, x1) in pixels, ends exclusive.
    """

    row: int
    text: str
    font_px: int
    box: tuple[int, int, int, int]


def place_captions(index: np.ndarray, captions: Sequence[Caption], font_px: int) -> list[Plate]:
    """Finds places for texts in order, and leaves out those that find none.

    Args:
      index: i32[H, W], the segment of each pixel.
      captions: the most important first.
      font_px: size of the font; names that find no place get a smaller one.

    Returns:
      The plates; no two overlap, and all lie inside of the picture.
    """
    layout = _Layout(index, captions)
    small_px = max(MIN_FONT_PX, round(_SMALL * font_px))
    for caption in captions:
        variants = [(text, font_px) for text in caption.texts[:1]]
        variants += [(text, small_px) for text in caption.texts]
        for text, size_px in dict.fromkeys(variants):
            box = layout.find_place(caption.row, measure_plate(text, size_px), caption)
            if box is not None:
                layout.add(Plate(caption.row, text, size_px, box))
                break
    return layout.plates


@functools.lru_cache(maxsize=4096)
def measure_plate(text: str, font_px: int) -> tuple[int, int]:
    """Returns (height, width) in pixels of the plate of a text, with its margins."""
    left, _, right, _ = load_font(font_px).getbbox(text)
    return round(1.3 * font_px) + 2, int(right - left) + swatch_width(font_px) + font_px // 2 + 2


def swatch_width(font_px: int) -> int:
    """Returns the width in pixels of the strip of colour at the left of a plate."""
    return max(2, font_px // 5)


class _Layout:
    """A coarse copy of the map of indices, and the plates that stand there."""

    def __init__(self, index: np.ndarray, captions: Sequence[Caption]) -> None:
        self.size = index.shape
        self.plates: list[Plate] = []
        self._taken = np.zeros((len(captions), 4), int)
        step = -(-max(index.shape) // _LAYOUT_PX)
        self._step = step
        self._coarse = index[step // 2 :: step, step // 2 :: step]
        num = int(index.max()) + 1
        self._boxes = find_boxes(self._coarse, num)
        self._areas = np.bincount(self._coarse.ravel(), minlength=num)
        self._room = measure_room(find_borders(self._coarse, 1))
        self._is_object = np.zeros(num, bool)
        self._is_object[[c.row for c in captions if c.may_stand_beside]] = True

    def add(self, plate: Plate) -> None:
        """Adds a plate whose place is free."""
        self._taken[len(self.plates)] = plate.box
        self.plates.append(plate)

    def find_place(
        self, row: int, plate: tuple[int, int], caption: Caption
    ) -> tuple[int, int, int, int] | None:
        """Finds a box (y0, x0, y1, x1) for a plate of (height, width) in pixels, if there is."""
        if plate[0] > self.size[0] or plate[1] > self.size[1] or not self._areas[row]:
            return None
        box = None
        if plate[0] * plate[1] <= _MAX_INSIDE_SHARE * self._areas[row] * self._step**2:
            box = self._find_inside(row, plate)
        if box is None and caption.may_stand_beside:
            box = self._find_beside(row, plate)
        return box

    def _find_inside(self, row: int, plate: tuple[int, int]) -> tuple[int, int, int, int] | None:
        y0, x0, y1, x1 = self._boxes[row]
        inside = self._coarse[y0:y1, x0:x1] == row
        room = np.where(inside, self._room[y0:y1, x0:x1], 0)
        best = room.max()
        half_height, half_width = (side / 2 / self._step for side in plate)
        taken = self._taken[: len(self.plates)] / self._step
        tops, lefts = (taken[:, :2] - (half_height, half_width)).astype(int).T
        bottoms, rights = (taken[:, 2:] + (half_height, half_width)).astype(int).T + 1
        for i in np.flatnonzero((tops < y1) & (bottoms > y0) & (lefts < x1) & (rights > x0)):
            rows = slice(max(0, tops[i] - y0), bottoms[i] - y0)
            room[rows, max(0, lefts[i] - x0) : rights[i] - x0] = 0
        # A segment one pixel wide is all border, with no room at all.
        if not best or room.max() < _MIN_ROOM_SHARE * best:
            return None
        for _ in range(_MAX_TRIES):
            # In a wide segment many places are about as good; the one in their middle looks best.
            places = np.argwhere(room >= 0.9 * room.max())
            y, x = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
            middle_y, middle_x = (self._step * int(n) + self._step // 2 for n in (y + y0, x + x0))
            box = self._accept(middle_y - plate[0] // 2, middle_x - plate[1] // 2, plate)
            # At the edge of the picture the plate moves, perhaps onto another one.
            room[max(0, int(y - half_height)) : int(y + half_height) + 1] = 0
            if box is not None or room.max() < _MIN_ROOM_SHARE * best:
                return box
        return None

    def _find_beside(self, row: int, plate: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Tries the places around the box of a segment, and takes the one that covers least."""
        y0, x0, y1, x1 = (self._step * side for side in self._boxes[row])
        height, width = plate
        middle_y, middle_x = (y0 + y1 - height) // 2, (x0 + x1 - width) // 2
        places = [(y0 - height, middle_x), (y1, middle_x), (middle_y, x1), (middle_y, x0 - width)]
        places += [(y, x) for y in (y0 - height, y1) for x in (x0, x1 - width)]
        best, best_share = None, _MAX_OUTSIDE_SHARE
        for y, x in places:
            box = self._accept(y, x, plate)
            if box is None:
                continue
            covered = self._coarse[tuple(self._to_coarse(box))]
            share = np.mean(self._is_object[covered] & (covered != row))
            # A plate that was moved into the picture may lie on its own segment.
            own = np.sum(covered == row) / self._areas[row]
            if share < best_share and own <= _MAX_INSIDE_SHARE:
                best, best_share = box, share
        return best

    def _to_coarse(self, box: tuple[int, int, int, int]) -> list[slice]:
        y0, x0, y1, x1 = (side // self._step for side in box)
        last_y, last_x = (side - 1 for side in self._coarse.shape)
        y0, x0 = min(y0, last_y), min(x0, last_x)
        return [slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))]

    def _accept(self, y: int, x: int, plate: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Moves a plate into the picture; None if it then overlaps another one."""
        y = min(max(y, 0), self.size[0] - plate[0])
        x = min(max(x, 0), self.size[1] - plate[1])
        bottom, right = y + plate[0], x + plate[1]
        y0, x0, y1, x1 = self._taken[: len(self.plates)].T
        if ((y < y1) & (y0 < bottom) & (x < x1) & (x0 < right)).any():
            return None
        return y, x, bottom, right


def find_boxes(index: np.ndarray, num: int) -> list[tuple[int, int, int, int]]:
    """Finds the smallest box (y0, x0, y1, x1), ends exclusive, around each of `num` segments.

    Args:
      index: i32[H, W], the segment of each pixel.
      num: number of segments; those without a pixel have an empty box.
    """
    height, width = index.shape
    rows = np.repeat(np.arange(height), width)
    columns = np.tile(np.arange(width), height)
    flat = index.ravel()
    lows, highs = [], []
    for places, size in ((rows, height), (columns, width)):
        low, high = np.full(num, size), np.zeros(num, int)
        np.minimum.at(low, flat, places)
        np.maximum.at(high, flat, places + 1)
        lows.append(np.minimum(low, high))
        highs.append(high)
    return list(zip(*(a.tolist() for a in (*lows, *highs)), strict=True))


def measure_room(border: np.ndarray) -> np.ndarray:
    """Measures the distance to the nearest border or edge; vertical steps cost more.

    Args:
      border: bool[H, W].

    Returns:
      f32[H, W], in horizontal pixels.
    """
    room = np.where(border, np.float32(0), np.float32(1e6))
    for cost in (1.0, _VERTICAL_COST):
        ramp = cost * np.arange(1, room.shape[1] + 1, dtype=np.float32)
        # The edges of the picture are borders too.
        room = np.minimum(room, np.minimum(ramp, ramp[::-1]))
        for _ in range(2):
            # min over j <= i of room[j] + cost (i - j), as a running minimum; then mirrored.
            room = np.minimum.accumulate(room - ramp, axis=1) + ramp
            room = room[:, ::-1]
        room = room.T
    return room
