"""Average precision and recall of instance masks by the rules of COCO; NumPy only.

Source: pycocotools, cocoeval.py, for masks that do not overlap.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.metrics.instances import Instances

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# In square pixels: all, small, medium, large; both ends inclusive.
AREA_RANGES = np.array([[0, 1e5], [0, 32], [32, 96], [96, 1e5]]) ** 2
# Recall is reported for this many best detections per class and image; the last limits precision.
MAX_DETECTIONS = (1, 10, 100)


class Matches(NamedTuple):
    """Detections D after matching, by area range A and IoU threshold T.

    Attributes:
      detected_class: i64[D], class of the detection.
      score: f64[D], confidence of the detection.
      rank: i64[D], rank by score among the detections of the class in the image, from 0.
      is_right: bool[D, A, T], true positives.
      is_wrong: bool[D, A, T], false positives; a detection on a crowd or out of the area range is
        neither right nor wrong.
      num_labels: i64[C, A], labels that count.
    """

    detected_class: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    is_right: np.ndarray
    is_wrong: np.ndarray
    num_labels: np.ndarray


def match(image: Instances, *, num_classes: int) -> Matches:
    """Matches the detections of one image, best score first.

    A detection takes the free label with the highest IoU, and an ignored label (a crowd, or one
    whose area is out of range) only if no other fits. A crowd can be taken many times, and its IoU
    is the share of the detection that it covers.
    """
    low, high = AREA_RANGES.T
    is_ignored = (image.stated_area[:, None] < low) | (image.stated_area[:, None] > high)
    is_ignored |= image.is_crowd[:, None]
    num_labels = np.stack(
        [np.bincount(image.label_class[~i], minlength=num_classes) for i in is_ignored.T], axis=-1
    )

    rank = _rank(image.detected_class, image.score)
    order = np.argsort(-image.score, kind='stable')
    order = order[rank[order] < MAX_DETECTIONS[-1]]

    area = image.area_px[image.column]
    union = area + image.label_area_px[image.row] - image.overlap_px
    iou = image.overlap_px / np.where(image.is_crowd[image.row], area, union)
    candidates = {}
    for i in np.flatnonzero(iou >= IOU_THRESHOLDS[0]):
        candidates.setdefault(int(image.column[i]), []).append((int(image.row[i]), iou[i]))

    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS))
    is_taken = np.zeros((len(image.label_class), *shape), bool)
    is_matched = np.zeros((len(image.score), *shape), bool)
    is_right = np.zeros_like(is_matched)
    for detection in order:
        found = sorted(candidates.get(int(detection), ()))
        choice, best = np.full(shape, -1), np.zeros(shape)
        for is_last_resort in (False, True):
            is_open = choice < 0
            for label, value in found:
                fits = is_open & (is_ignored[label] == is_last_resort)[:, None]
                fits &= (value >= IOU_THRESHOLDS) & (value >= best)
                if not image.is_crowd[label]:
                    fits &= ~is_taken[label]
                choice[fits], best[fits] = label, value
            if not is_last_resort:
                is_right[detection] = choice >= 0
        is_matched[detection] = choice >= 0
        for label, _ in found:
            is_taken[label] |= choice == label

    is_out_of_range = (image.area_px[:, None] < low) | (image.area_px[:, None] > high)
    is_wrong = ~is_matched & ~is_out_of_range[:, :, None]
    kept = np.sort(order)
    return Matches(
        image.detected_class[kept],
        image.score[kept],
        rank[kept],
        is_right[kept],
        is_wrong[kept],
        num_labels,
    )


def concatenate(images: Sequence[Matches], *, num_classes: int) -> Matches:
    """Concatenates the matches of images; equal scores are ranked in the order given."""
    shape = (0, len(AREA_RANGES), len(IOU_THRESHOLDS))
    nothing = Matches(
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros(0, np.int64),
        np.zeros(shape, bool),
        np.zeros(shape, bool),
        np.zeros((num_classes, len(AREA_RANGES)), np.int64),
    )
    *per_detection, num_labels = zip(nothing, *images, strict=True)
    return Matches(*map(np.concatenate, per_detection), num_labels=np.sum(num_labels, axis=0))


def average_precision(matches: Matches) -> dict[str, Any]:
    """Averages over thresholds, recalls and classes.

    Returns:
      'ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large': mean precision; 'ar1', 'ar10',
        'ar100', 'ar_small', 'ar_medium', 'ar_large': mean recall; None where no label counts (-1 in
        pycocotools).
      'per_class': arrays [C] 'ap', 'ap50' (0 where undefined) and 'valid', true for classes with
        labels that count.
    """
    valid = matches.num_labels > 0
    num_classes, num_ranges = valid.shape
    thresholds = len(IOU_THRESHOLDS)
    precision = np.zeros((num_classes, num_ranges, thresholds))
    recall = np.zeros((num_classes, num_ranges, thresholds))
    recall_of_first = np.zeros((len(MAX_DETECTIONS), num_classes, thresholds))
    # The sort is stable, so that ties keep the order of the images.
    order = np.lexsort((-matches.score, matches.detected_class))
    starts = np.searchsorted(matches.detected_class[order], np.arange(num_classes + 1))
    for c in np.flatnonzero(valid[:, 0]):
        rows = order[starts[c] : starts[c + 1]]
        is_right, is_wrong, rank = (
            matches.is_right[rows],
            matches.is_wrong[rows],
            matches.rank[rows],
        )
        total = matches.num_labels[c]
        for a in np.flatnonzero(valid[c]):
            precision[c, a] = _mean_precision(is_right[:, a], is_wrong[:, a], total[a])
        recall[c] = is_right.sum(0) / np.maximum(total, 1)[:, None]
        for m, limit in enumerate(MAX_DETECTIONS):
            recall_of_first[m, c] = is_right[rank < limit, 0].sum(0) / total[0]

    def average(values: np.ndarray, area: int = 0) -> float | None:
        chosen = values[valid[:, area]]
        return float(chosen.mean()) if chosen.size else None

    everything = precision[:, 0]
    result = {'ap': average(everything), 'ap50': average(everything[:, 0])}
    result['ap75'] = average(everything[:, 5])
    sizes = ('small', 'medium', 'large')
    for a, size in enumerate(sizes, 1):
        result[f'ap_{size}'] = average(precision[:, a], a)
    for limit, values in zip(MAX_DETECTIONS, recall_of_first, strict=True):
        result[f'ar{limit}'] = average(values)
    for a, size in enumerate(sizes, 1):
        result[f'ar_{size}'] = average(recall[:, a], a)
    per_class = {'ap': everything.mean(-1), 'ap50': everything[:, 0], 'valid': valid[:, 0]}
    return {**result, 'per_class': per_class}


def _rank(detected_class: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Ranks the detections of each class by score, from 0: i64[D]."""
    order = np.lexsort((-score, detected_class))
    ordered = detected_class[order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return rank


def _mean_precision(is_right: np.ndarray, is_wrong: np.ndarray, num_labels: int) -> np.ndarray:
    """Averages precision over `RECALLS`, made non-increasing in recall: f64[T]."""
    right, wrong = np.cumsum(is_right, axis=0), np.cumsum(is_wrong, axis=0)
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # Precision is 0 at recalls that are never reached.
    precision = np.concatenate([precision, np.zeros((1, precision.shape[1]))])
    recall = right / num_labels
    return np.array(
        [
            precision[np.searchsorted(recall[:, t], RECALLS), t].mean()
            for t in range(recall.shape[1])
        ]
    )
