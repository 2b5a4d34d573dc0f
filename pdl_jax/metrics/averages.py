"""Averages over classes of per-class sums, counted on the device or from files; NumPy only."""

from collections.abc import Iterable, Mapping, Sequence
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
    """Averages panoptic quality over classes.

    Args:
      iou_sum: f64[C], sum of the IoU of matched segments per class.
      tp, fp, fn: i64[C], matched pairs, unmatched predictions and unmatched labels.
      thing_classes, stuff_classes: class indices of the two groups.

    Returns:
      'All', 'Things', 'Stuff': {'pq', 'sq', 'rq': mean over the classes with a count, None if there
        is none; 'n': the number of these classes}.
      'per_class': arrays [C] 'pq', 'sq', 'rq' (0 where undefined), 'tp', 'fp', 'fn' and 'valid',
        true for classes with a count.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019; panopticapi, evaluation.py.
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
    """Averages parsing covering over classes.

    Args:
      weighted_iou: f64[C], sum over labelled segments of their area times their best IoU.
      area: f64[C], sum of these areas.
      thing_classes, stuff_classes: class indices of the two groups.

    Returns:
      'All', 'Things', 'Stuff': {'pc': mean over the classes with labelled pixels, None if there is
        none; 'n': the number of these classes}.
      'per_class': arrays [C] 'pc' (0 where undefined) and 'valid', true for those classes.

    Source: Yang et al., DeeperLab, 2019.
    """
    valid = area > 0
    per_class = {'pc': weighted_iou / np.where(valid, area, 1)}
    groups = _average_groups(per_class, valid, thing_classes, stuff_classes)
    return {**groups, 'per_class': {**per_class, 'valid': valid}}


def average_iou(right: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Averages intersection over union over classes.

    Args:
      right: i64[C], pixels that are labelled and predicted as the class.
      labelled: i64[C], pixels labelled as the class; 0 for a class to leave out of the average.
      predicted: i64[C], labelled pixels predicted as the class; 0 for a class to leave out.

    Returns:
      'miou': mean over the classes with labelled or predicted pixels; None if there is none.
      'n': the number of these classes.
      'num_labelled': the number of classes with labelled pixels.
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
        'num_labelled': int((labelled > 0).sum()),
        'pixel_accuracy': float(right.sum() / total) if total else None,
        'per_class': {'iou': iou, 'valid': valid},
    }


def _average_groups(
    per_class: Mapping[str, np.ndarray],
    valid: np.ndarray,
    thing_classes: Sequence[int],
    stuff_classes: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Averages arrays [C] over all valid classes, over the things and over the stuff among them."""

    def average(classes: Iterable[int]) -> dict[str, Any]:
        chosen = [c for c in classes if valid[c]]
        means = {k: float(v[chosen].mean()) if chosen else None for k, v in per_class.items()}
        return {**means, 'n': len(chosen)}

    return {
        'All': average(range(len(valid))),
        'Things': average(thing_classes),
        'Stuff': average(stuff_classes),
    }
