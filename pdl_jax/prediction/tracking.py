"""One number per object through the frames of a video or the slices of a stack."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from pdl_jax.prediction.linking import Overlap, choose_links
from pdl_jax.prediction.result import PanopticResult, Segment


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """The rules of tracking.

    Attributes:
      min_iou: smallest IoU of an object and its predicted mask, exclusive.
      min_containment: where that fails, as for an object that is half hidden, smallest share of the
        smaller of the two masks, exclusive; 1 for no such links.
      max_gap: frames that an object may be missing and keep its number.
      is_moving: whether masks are predicted by the objects' motion, not by their last place alone.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    min_iou: float = 0.3
    min_containment: float = 0.6
    max_gap: int = 5
    is_moving: bool = True

    def __post_init__(self) -> None:
        for field in ('min_iou', 'min_containment'):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f'{field} (={getattr(self, field)}) must lie in [0, 1]')
        if self.max_gap < 0:
            raise ValueError(f'max_gap (={self.max_gap}) must not be negative')


# An object of whose predicted mask other objects cover a larger share is half hidden.
_MAX_HIDDEN = 0.02
# After so many frames of that what is seen of it counts as all of it.
_PATIENCE = 20
# Smallest IoU, exclusive, of an object that seems to be of another class than before.
_MIN_IOU_OF_OTHER_CLASS = 0.5
# Share of the newest step in the motion.
_MOTION_RATE = 0.5


@dataclasses.dataclass
class _Track:
    """An object.

    Attributes:
      number: its number.
      class_id: its class.
      corner: f64[2], (y, x) of the mask's first pixel, in pixels.
      mask: bool[h, w], of the last frame that showed it as a whole.
      frame: number of the frame that has the mask at the corner.
      last_seen: number of the last frame that shows any of it.
      motion: f64[2], (dy, dx) in pixels per frame.
      has_motion: whether it was seen twice.
      num_hidden: frames since it was last seen as a whole that show a part of it.
    """

    number: int
    class_id: int
    corner: np.ndarray
    mask: np.ndarray
    frame: int
    last_seen: int
    motion: np.ndarray
    has_motion: bool = False
    num_hidden: int = 0

    def predict_corner(self, frame: int) -> np.ndarray:
        """Returns where the mask's corner should be in a frame, i64[2]."""
        return np.rint(self.corner + self.motion * (frame - self.frame)).astype(np.int64)

    def is_uncertain(self, frame: int) -> bool:
        """Returns whether the prediction for a frame is a rough one."""
        return not self.has_motion or self.num_hidden > 0 or self.last_seen < frame - 1


class Tracker:
    """Numbers objects; give it the results of frames in order.

    An object of a frame gets the number of the object whose predicted mask it overlaps most, one of
    its class first. The prediction is the mask of the last frame that showed the object as a whole,
    moved on by its motion, so that objects that cross keep their numbers.

    Args:
      options: the rules.
    """

    def __init__(self, options: TrackOptions = TrackOptions()) -> None:  # noqa: B008 - it is immutable.
        self._options = options
        self._tracks: list[_Track] = []
        self._frame = -1
        self._count = 0
        self._divisor = 1

    @property
    def num_objects(self) -> int:
        """Objects so far."""
        return self._count

    def update(self, result: PanopticResult) -> dict[int, int]:
        """Numbers the objects of the next frame.

        Args:
          result: its labels and segments; all frames have one size.

        Returns:
          The number, 1, 2, ..., of each thing by its label.
        """
        self._frame += 1
        self._divisor = result.spec.label_divisor
        things = [segment for segment in result.segments if segment.is_thing]
        links = self._link(result.panoptic, things)
        numbers = {}
        for row, segment in enumerate(things):
            track = links.get(row)
            if track is None:
                self._count += 1
                track = self._start(result.panoptic, segment)
            else:
                self._follow(track, result.panoptic, segment)
            numbers[segment.label] = track.number
        limit = self._frame - self._options.max_gap
        self._tracks = [track for track in self._tracks if track.last_seen >= limit]
        return numbers

    def _link(self, panoptic: np.ndarray, things: Sequence[Segment]) -> dict[int, _Track]:
        """Finds the track of each thing, by its row in the list."""
        row_of_label = {segment.label: row for row, segment in enumerate(things)}
        overlaps = []
        for index, track in enumerate(self._tracks):
            corner = track.predict_corner(self._frame)
            part, mask = _crop(panoptic, corner, track.mask)
            labels, counts = np.unique(part[mask], return_counts=True)
            # What has left the image does not count against it.
            area = int(mask.sum())
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
                row = row_of_label.get(label)
                if row is not None:
                    overlaps.append(Overlap(index, row, count, area, things[row].area_px))

        def is_same_class(overlap: Overlap) -> bool:
            return self._tracks[overlap.first].class_id == things[overlap.second].class_id

        min_iou, min_containment = self._options.min_iou, self._options.min_containment
        same = [overlap for overlap in overlaps if is_same_class(overlap)]
        links = choose_links(same, min_iou=min_iou, min_containment=min_containment)
        # Networks change their minds on the class of an object.
        links += choose_links(_list_free(overlaps, links), min_iou=_MIN_IOU_OF_OTHER_CLASS)
        if self._options.is_moving:
            # An object that was seen once may have moved far, and of one that was hidden a narrow
            # part shows first.
            uncertain = (o for o in same if self._tracks[o.first].is_uncertain(self._frame))
            links += choose_links(
                _list_free(uncertain, links),
                min_iou=min_iou / 4,
                min_containment=min_containment if min_containment == 1 else min_containment / 2,
            )
        return {link.second: self._tracks[link.first] for link in links}

    def _start(self, panoptic: np.ndarray, segment: Segment) -> _Track:
        corner, mask = _cut(panoptic, segment)
        track = _Track(
            number=self._count,
            class_id=segment.class_id,
            corner=corner.astype(float),
            mask=mask,
            frame=self._frame,
            last_seen=self._frame,
            motion=np.zeros(2),
        )
        self._tracks.append(track)
        return track

    def _follow(self, track: _Track, panoptic: np.ndarray, segment: Segment) -> None:
        """Brings a track up to date with what the frame shows of it."""
        track.last_seen, track.class_id = self._frame, segment.class_id
        track.num_hidden += 1
        is_whole = True
        if self._options.is_moving:
            is_whole = self._move(track, panoptic, segment) or track.num_hidden > _PATIENCE
        if is_whole:
            corner, track.mask = _cut(panoptic, segment)
            track.corner, track.num_hidden = corner.astype(float), 0
        track.frame = self._frame

    def _move(self, track: _Track, panoptic: np.ndarray, segment: Segment) -> bool:
        """Corrects place and motion; returns whether the frame shows the object as a whole.

        What other objects cover is left out of the predicted mask too, so that its middle can be
        compared with that of the visible part.
        """
        steps = self._frame - track.frame
        predicted = track.corner + track.motion * steps
        corner = track.predict_corner(self._frame)
        part, mask = _crop(panoptic, corner, track.mask)
        is_covered = mask & (part % self._divisor > 0) & (part != segment.label)
        expected = np.argwhere(mask & ~is_covered)
        if not len(expected):
            track.corner = predicted
            return False
        middle = expected.mean(axis=0) + np.maximum(corner, 0)
        # The less is seen, the less it tells.
        share = len(expected) / mask.sum()
        change = share**2 * (np.array(segment.centroid) - middle + corner - predicted)
        track.corner = predicted + change
        rate = _MOTION_RATE if track.has_motion else 1.0
        track.motion = track.motion + rate * change / steps
        track.has_motion = True
        return share >= 1 - _MAX_HIDDEN


def _list_free(overlaps: Iterable[Overlap], links: Iterable[Overlap]) -> list[Overlap]:
    """Lists the pairs of which no segment is linked."""
    links = list(links)
    first, second = {link.first for link in links}, {link.second for link in links}
    return [o for o in overlaps if o.first not in first and o.second not in second]


def _cut(panoptic: np.ndarray, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the mask of a segment out: i64[2], its corner, and bool[h, w]."""
    y0, x0, y1, x1 = segment.box
    return np.array([y0, x0]), panoptic[y0:y1, x0:x1] == segment.label


def _crop(
    panoptic: np.ndarray, corner: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of a map under a mask at a corner, and the part of the mask within it."""
    first = np.maximum(corner, 0)
    end = np.maximum(np.minimum(corner + mask.shape, panoptic.shape), first)
    part = panoptic[first[0] : end[0], first[1] : end[1]]
    (y0, x0), (y1, x1) = first - corner, end - corner
    return part, mask[y0:y1, x0:x1]
