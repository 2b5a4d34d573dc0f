"""Segments of two label maps, linked by the pixels that they share."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
    """Two segments that share pixels.

    Attributes:
      first, second: their ids in the two maps.
      shared_px: pixels that they share.
      first_px, second_px: their areas in pixels.
    """

    first: int
    second: int
    shared_px: int
    first_px: int
    second_px: int

    @property
    def iou(self) -> float:
        """Shared pixels per pixel of either, in (0, 1]."""
        return self.shared_px / (self.first_px + self.second_px - self.shared_px)

    @property
    def containment(self) -> float:
        """Shared pixels per pixel of the smaller one, in (0, 1]."""
        return self.shared_px / min(self.first_px, self.second_px)


def count_overlaps(first: np.ndarray, second: np.ndarray) -> list[Overlap]:
    """Counts the pixels that the segments of two maps share.

    Args:
      first, second: i32[H, W], ids of segments; 0 is none.

    Returns:
      Every pair that shares a pixel, ascending by ids.
    """
    first_ids, first_rows, first_px = np.unique(first, return_inverse=True, return_counts=True)
    second_ids, second_rows, second_px = np.unique(second, return_inverse=True, return_counts=True)
    pairs = first_rows.ravel().astype(np.int64) * len(second_ids) + second_rows.ravel()
    found, shared_px = np.unique(pairs, return_counts=True)
    overlaps = []
    for pair, shared in zip(found.tolist(), shared_px.tolist(), strict=True):
        i, j = divmod(pair, len(second_ids))
        if first_ids[i] and second_ids[j]:
            ids = int(first_ids[i]), int(second_ids[j])
            overlaps.append(Overlap(*ids, shared, int(first_px[i]), int(second_px[j])))
    return overlaps


def choose_links(
    overlaps: Iterable[Overlap], *, min_iou: float, min_containment: float = 1.0
) -> list[Overlap]:
    """Chooses pairs of segments that are parts or views of one object, each segment at most once.

    The pairs of the highest IoU come first. Segments that are left over, as of an object that is
    half hidden or ends, are linked by containment.

    Args:
      overlaps: pairs that may be linked.
      min_iou: smallest IoU of a pair, exclusive.
      min_containment: smallest share of the smaller segment, exclusive; 1 for no such links.

    Returns:
      The links.
    """
    overlaps = list(overlaps)
    by_iou = sorted((o for o in overlaps if o.iou > min_iou), key=lambda o: -o.iou)
    by_share = sorted(
        (o for o in overlaps if o.containment > min_containment), key=lambda o: -o.shared_px
    )
    links, taken_first, taken_second = [], set(), set()
    for overlap in [*by_iou, *by_share]:
        if overlap.first not in taken_first and overlap.second not in taken_second:
            links.append(overlap)
            taken_first.add(overlap.first)
            taken_second.add(overlap.second)
    return links
