"""Counts of segments from which panoptic quality follows under any filter of scores and areas."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdl_jax.metrics.panoptic_quality import sum_digits
from pdl_jax.typing import LabelFormat

# Options that only remove segments: of things by score and area, of stuff by area.
FILTERS = ('min_score', 'min_area_px', 'stuff_area_limit_px')
# Columns of the histograms: matches, false positives, and the digits of the IoU.
_NUM_COUNTS = 5


class SegmentHistogram:
    """Counts segments by class and by the strictest filter that keeps them.

    Args:
      label_format: encoding of classes and instances.
      num_groupings: number of groupings G.
      candidates: values to try by option, ascending.
    """

    def __init__(
        self,
        label_format: LabelFormat,
        num_groupings: int,
        candidates: Mapping[str, tuple[Any, ...]],
    ) -> None:
        self._format = label_format
        bounds = (np.array(candidates.get(name, (0,)), np.float32) for name in FILTERS)
        self._min_scores, self._min_areas, self._stuff_limits = bounds
        sizes = [len(b) for b in (self._min_scores, self._min_areas, self._stuff_limits)]
        last = (label_format.num_classes, _NUM_COUNTS)
        self._things = np.zeros((num_groupings, *sizes[:2], *last), np.int64)
        self._stuff = np.zeros((num_groupings, sizes[2], *last), np.int64)
        self._num_labels = np.zeros(label_format.num_classes, np.int64)

    def add(self, first: int, segments: Mapping[str, np.ndarray], *, is_first: bool) -> None:
        """Adds a batch.

        Args:
          first: number of the first grouping that `segments` are of.
          segments: see `_Groupings.label`.
          is_first: whether these are the first segments of the batch, to count labels once.
        """
        if is_first:
            self._num_labels += segments['num_labels'][0]
        matched, false = segments['is_matched'], segments['is_false']
        grouping, image, row = np.nonzero(matched | false)
        at = grouping, image, row
        classes, area = segments['class'][at], segments['area'][at]
        digits = segments['iou_digits'][grouping, image, :, row]
        counts = np.concatenate([np.stack([matched[at], false[at]], -1), digits], -1)
        grouping = grouping + first
        is_thing = self._format.thing_table()[classes]
        score_bin = _find_bins(self._min_scores, segments['score'][at])
        bins = (score_bin, _find_bins(self._min_areas, area))
        chosen = is_thing & (bins[0] >= 0) & (bins[1] >= 0)
        index = tuple(x[chosen] for x in (grouping, *bins, classes))
        np.add.at(self._things, index, counts[chosen])
        limit_bin = _find_bins(self._stuff_limits, area)
        chosen = ~is_thing & (limit_bin >= 0)
        index = tuple(x[chosen] for x in (grouping, limit_bin, classes))
        np.add.at(self._stuff, index, counts[chosen])

    def find_qualities(self, metric: str) -> np.ndarray:
        """Returns the metric f64[G, scores, areas, limits] under each combination."""
        # A filter keeps the segments of its own bin and of all stricter ones.
        things, stuff = self._things, self._stuff
        for axis in (1, 2):
            things = np.flip(np.flip(things, axis).cumsum(axis), axis)
        stuff = np.flip(np.flip(stuff, 1).cumsum(1), 1)
        sums = [
            self._add_classes(counts, classes)
            for counts, classes in (
                (things, self._format.thing_classes),
                (stuff, self._format.stuff_classes),
            )
        ]
        weights = {'pq': (1, 1), 'pq_things': (1, 0), 'pq_stuff': (0, 1)}[metric]
        total, count = (
            weights[0] * sums[0][i][..., None] + weights[1] * sums[1][i][:, None, None]
            for i in range(2)
        )
        return total / np.maximum(count, 1)

    def _add_classes(
        self, counts: np.ndarray, classes: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums quality over classes, and counts the classes that have one."""
        counts = counts[..., list(classes), :]
        tp, fp = counts[..., 0], counts[..., 1]
        size = tp + 0.5 * fp + 0.5 * (self._num_labels[list(classes)] - tp)
        quality = sum_digits(counts[..., 2:]) / np.where(size > 0, size, 1)
        return quality.sum(-1), (size > 0).sum(-1)


def _find_bins(bounds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the index of the highest bound that each value reaches, -1 for none."""
    return np.searchsorted(bounds, values, side='right') - 1
