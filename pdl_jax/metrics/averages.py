"""From counts per class to the numbers that papers print; NumPy, for devices and files alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def average_quality(
    iou_sum: np.ndarray,
    tp: np.ndarray,
    fp: np.ndarray,
    fn: np.ndarray,
    *,
    thing_classes: Sequence[int],
    stuff_classes: Sequence[int],
) -> dict[str, Any]:
    """Panoptic quality.

    Args:
      iou_sum: f64[C], sum of the IoU of matched segments per class.
      tp, fp, fn: i64[C], matched pairs, unmatched predictions and unmatched labels.
      thing_classes, stuff_classes: the classes of the two groups.

    Returns:
      'All', 'Things', 'Stuff': {'pq', 'sq', 'rq': mean over the classes with a count, None if there
        is none; 'n': the number of these classes}.
      'per_class': arrays [C] 'pq', 'sq', 'rq' (0 where undefined), 'tp', 'fp', 'fn' and 'valid',
        true for classes with a count.
    """
    size = tp + 0.5 * fp + 0.5 * fn
    valid = size > 0
    per_class = {
        'pq': iou_sum / np.where(valid, size, 1),
        'sq': iou_sum / np.maximum(tp, 1),
        'rq': tp / np.where(valid, size, 1),
    }
    groups = _average_groups(per_class, valid, thing_classes, stuff_classes)
    return {**groups, 'per_class': {**per_class, 'tp': tp, 'fp': fp, 'fn': fn, 'valid': valid}}


def average_covering(
    weighted_iou: np.ndarray,
    area: np.ndarray,
    *,
    thing_classes: Sequence[int],
    stuff_classes: Sequence[int],
) -> dict[str, Any]:
    """Parsing covering.

    Args:
      weighted_iou: f64[C], sum over labelled segments of their area times their best IoU.
      area: f64[C], sum of these areas.
      thing_classes, stuff_classes: the classes of the two groups.

    Returns:
      'All', 'Things', 'Stuff': {'pc': mean over the classes with labelled pixels, None if there is
        none; 'n': the number of these classes}.
      'per_class': arrays [C] 'pc' (0 where undefined) and 'valid', true for those classes.
    """
    valid = area > 0
    per_class = {'pc': weighted_iou / np.where(valid, area, 1)}
    groups = _average_groups(per_class, valid, thing_classes, stuff_classes)
    return {**groups, 'per_class': {**per_class, 'valid': valid}}


def average_iou(right: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Mean intersection over union.

    Args:
      right: i64[C], pixels per class where label and prediction are this class.
      labelled: i64[C], pixels per class of the label; all 0 for a class that is not to be averaged.
      predicted: i64[C], pixels per predicted class among the labelled ones; alike.

    Returns:
      'miou': mean over the classes that labelled pixels have or are predicted to have; None if
        there is none.
      'n': the number of these classes.
      'pixel_accuracy': share of labelled pixels whose class is right; None if there are none.
      'per_class': arrays [C] 'iou' (0 where undefined) and 'valid', true for those classes.
    """
    size = labelled + predicted - right
    valid = size > 0
    iou = right / np.maximum(size, 1)
    total = labelled.sum()
    return {
        'miou': float(iou[valid].mean()) if valid.any() else None,
        'n': int(valid.sum()),
        'pixel_accuracy': float(right.sum() / total) if total else None,
        'per_class': {'iou': iou, 'valid': valid},
    }


def _average_groups(per_class, valid, thing_classes, stuff_classes):
    def average(classes):
        chosen = [c for c in classes if valid[c]]
        means = {k: float(v[chosen].mean()) if chosen else None for k, v in per_class.items()}
        return {**means, 'n': len(chosen)}

    return {
        'All': average(range(len(valid))),
        'Things': average(thing_classes),
        'Stuff': average(stuff_classes),
    }
