"""The segments of tiles, joined to those of the whole image."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.windows import Window
from pdl_jax.prediction.linking import choose_links, count_overlaps
from pdl_jax.prediction.result import Box, PanopticResult, Point, Segment
from pdl_jax.prediction.tiles import Tile

# Two tiles see an object where they overlap: as the same one if these hold.
_MIN_IOU = 0.5
_MIN_CONTAINMENT = 0.8


class _Parts(NamedTuple):
    """The parts of segments in the core of a tile, one row each.

    Attributes:
      piece: i64[N], the piece that a part belongs to.
      area: i64[N], pixels.
      sums: f64[N, 2], sums of their rows and of their columns.
      box: i64[N, 4], y0, x0, y1, x1.
      weighted: f64[N], area times score.
    """

    piece: np.ndarray
    area: np.ndarray
    sums: np.ndarray
    box: np.ndarray
    weighted: np.ndarray


@dataclasses.dataclass(frozen=True)
class Stitched:
    """The segments of the whole image.

    Attributes:
      segments: with their ids, 1, 2, ..., as labels.
      id_of_piece: i32[P], the id of each piece; 0 is void.
    """

    segments: tuple[Segment, ...]
    id_of_piece: np.ndarray


class Stitcher:
    """Joins the segments of tiles, which come row by row.

    A stuff class is one piece everywhere. Each object of a tile is a piece of its own at first.
    Where two tiles overlap, in the middle half of their common strip, both see the same pixels far
    from their borders: pieces that agree there are linked, and linked ones are one object. Its
    class is that of most of its pixels, its score the mean of its parts' by area.

    Args:
      spec: the classes.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        # Piece 0 is void, and piece c + 1 stuff of the class c.
        self._num_stuff = spec.num_classes + 1
        self._class_of_piece = list(range(-1, spec.num_classes))
        self._parents = list(range(self._num_stuff))
        self._parts: list[_Parts] = []
        # The tiles that the next ones overlap: the one before, and the last one of each column.
        self._left: _Pieces | None = None
        self._above: dict[int, _Pieces] = {}

    def add(self, tile: Tile, result: PanopticResult) -> np.ndarray:
        """Adds a tile.

        Args:
          tile: the next one.
          result: the labels of its window, without thresholds on segments, which hold for whole
            ones.

        Returns:
          i32[h, w], the pieces in its window.
        """
        rows, piece_of_row = self._number(result)
        scores = np.array([0.0, *(segment.score for segment in result.segments)])
        self._parts.append(_measure_parts(tile, rows, piece_of_row, scores))
        pieces = _Pieces(tile.window, piece_of_row[rows])
        if tile.column and self._left is not None:
            self._link(self._left, pieces, axis=1)
        if tile.row:
            self._link(self._above[tile.column], pieces, axis=0)
        self._left = self._above[tile.column] = pieces
        return piece_of_row[rows]

    def finish(self, limits: Mapping[str, Any]) -> Stitched:
        """Joins the pieces.

        Args:
          limits: 'min_score', 'min_area_px' and 'stuff_area_limit_px', as far as there are any:
            segments below them become void.
        """
        roots = np.array([self._find_root(i) for i in range(len(self._parents))])
        parts = _Parts(*map(np.concatenate, zip(*self._parts, strict=True)))
        found, rows = np.unique(roots[parts.piece], return_inverse=True)
        area = np.bincount(rows, parts.area, len(found))
        score = np.bincount(rows, parts.weighted, len(found)) / area
        sums = [np.bincount(rows, axis, len(found)) for axis in parts.sums.T]
        boxes = np.tile([2**62, 2**62, 0, 0], (len(found), 1))
        np.minimum.at(boxes[:, :2], rows, parts.box[:, :2])
        np.maximum.at(boxes[:, 2:], rows, parts.box[:, 2:])
        classes = _vote(rows, np.array(self._class_of_piece)[parts.piece], parts.area)
        is_thing = found >= self._num_stuff
        is_kept = np.where(
            is_thing,
            (score >= limits.get('min_score', 0)) & (area >= limits.get('min_area_px', 0)),
            area >= limits.get('stuff_area_limit_px', 0),
        )
        segments: list[Segment] = []
        id_of_root = np.zeros(len(roots), np.int32)
        for i in np.lexsort((found, classes)):
            if is_kept[i]:
                id_of_root[found[i]] = len(segments) + 1
                center = Point(*(float(axis[i] / area[i]) for axis in sums))
                segment = self._describe(int(classes[i]), bool(is_thing[i]), center, boxes[i])
                segments.append(
                    dataclasses.replace(
                        segment,
                        label=len(segments) + 1,
                        score=float(np.clip(score[i], 0, 1)),
                        area_px=int(area[i]),
                    )
                )
        return Stitched(tuple(segments), id_of_root[roots])

    def _number(self, result: PanopticResult) -> tuple[np.ndarray, np.ndarray]:
        """Numbers the segments of a tile.

        Returns:
          i32[h, w], 1-based row in the list of segments of each pixel, 0 for void; and i32[S + 1],
          the piece of each row.
        """
        pieces = [0]
        for segment in result.segments:
            if segment.is_thing:
                pieces.append(len(self._parents))
                self._parents.append(len(self._parents))
                self._class_of_piece.append(segment.class_id)
            else:
                pieces.append(segment.class_id + 1)
        table = np.zeros(int(result.panoptic.max()) + 1, np.int32)
        table[[segment.label for segment in result.segments]] = np.arange(1, len(pieces))
        return table[result.panoptic], np.array(pieces, np.int32)

    def _link(self, first: '_Pieces', second: '_Pieces', *, axis: int) -> None:
        """Links the objects of two tiles, the second of which is right of the first or below it."""
        bounds = [list(pair) for pair in _bounds(first.window.intersect(second.window))]
        margin = (bounds[axis][1] - bounds[axis][0]) // 4
        bounds[axis] = [bounds[axis][0] + margin, bounds[axis][1] - margin]
        (y0, y1), (x0, x1) = bounds
        band = Window(y0, x0, y1, x1)
        overlaps = count_overlaps(first.read(band), second.read(band))
        objects = (o for o in overlaps if min(o.first, o.second) >= self._num_stuff)
        for link in choose_links(objects, min_iou=_MIN_IOU, min_containment=_MIN_CONTAINMENT):
            one, other = self._find_root(link.first), self._find_root(link.second)
            self._parents[max(one, other)] = min(one, other)

    def _find_root(self, piece: int) -> int:
        while self._parents[piece] != piece:
            # Halving the path keeps it short.
            self._parents[piece] = self._parents[self._parents[piece]]
            piece = self._parents[piece]
        return piece

    def _describe(self, class_id: int, is_thing: bool, center: Point, box: np.ndarray) -> Segment:
        category = self._spec.category_of_class[class_id]
        return Segment(
            label=0,
            class_id=class_id,
            class_name=category.name,
            category_id=category.id,
            is_thing=is_thing,
            score=0.0,
            area_px=0,
            centroid=center,
            box=Box(*map(int, box)),
        )


class _Pieces:
    """The pieces in the window of a tile, i32[h, w]; compressed, since a row of tiles is kept."""

    def __init__(self, window: Window, ids: np.ndarray) -> None:
        self.window = window
        self._content = zlib.compress(ids.tobytes(), 1)

    def read(self, part: Window) -> np.ndarray:
        """Returns the pieces in a part of the window."""
        ids = np.frombuffer(zlib.decompress(self._content), np.int32)
        return ids.reshape(self.window.size)[part.within(self.window).slices]


def _bounds(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.y0, window.y1), (window.x0, window.x1)


def _measure_parts(
    tile: Tile, rows: np.ndarray, piece_of_row: np.ndarray, scores: np.ndarray
) -> _Parts:
    """Measures the segments of a tile in its core.

    Args:
      tile: the tile.
      rows: i32[h, w], the segment of each pixel of its window; 0 is void.
      piece_of_row, scores: [S + 1], by segment.
    """
    core = tile.core
    inside = rows[core.within(tile.window).slices].astype(np.int64)
    num = len(scores)
    # Pixels by row of the image and segment, and by column and segment.
    tables = [
        np.bincount((np.arange(n).reshape(shape) * num + inside).ravel(), minlength=n * num)
        for n, shape in zip(inside.shape, ((-1, 1), (1, -1)), strict=True)
    ]
    down, across = (table.reshape(-1, num) for table in tables)
    area = down.sum(axis=0)
    present = [i for i in np.flatnonzero(area) if i > 0]
    sums, box = [], []
    for i in present:
        y, x = np.flatnonzero(down[:, i]), np.flatnonzero(across[:, i])
        sums.append(
            ((y + core.y0) @ down[y, i].astype(float), (x + core.x0) @ across[x, i].astype(float))
        )
        box.append((y[0] + core.y0, x[0] + core.x0, y[-1] + core.y0 + 1, x[-1] + core.x0 + 1))
    return _Parts(
        piece_of_row[present],
        area[present],
        np.array(sums, float).reshape(-1, 2),
        np.array(box, np.int64).reshape(-1, 4),
        area[present] * scores[present],
    )


def _vote(rows: np.ndarray, classes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Returns the class of most pixels of each object, i64[S]; the smaller one on ties.

    Args:
      rows: i64[N], the object of each part, 0 .. S - 1.
      classes: i64[N], class of each part.
      areas: i64[N], pixels of each part.
    """
    num = int(classes.max(initial=0)) + 1
    votes = np.bincount(rows * num + classes, areas)
    votes = np.pad(votes, (0, -len(votes) % num))
    return votes.reshape(-1, num).argmax(axis=1)
