"""Average precision of instance masks by the rules of Cityscapes; NumPy only.

Source: cityscapesscripts, evalInstanceLevelSemanticLabeling.py, for masks that do not overlap.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.metrics.instances import Instances

# As in cityscapesscripts: multiples of 0.05 added up are not the nearest floats to 0.55, 0.6, ...
IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MIN_AREA_PX = 100


class Matches(NamedTuple):
    """Detections D after matching.

    Attributes:
      detected_class: i64[D], class of the detection.
      score: f64[D], confidence of the detection.
      iou: f64[D], highest IoU with a label of the class, 0 if none exceeds 0.5.
      is_object: bool[D], true if that label counts: neither a group nor small.
      excused: f64[D], share of the detection's pixels on void, on groups and on small labels.
      num_labels: i64[C], labels that count.
    """

    detected_class: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    is_object: np.ndarray
    excused: np.ndarray
    num_labels: np.ndarray


def match(image: Instances, *, num_classes: int) -> Matches:
    """Matches the detections of one image; at most one has an IoU above 0.5 with a given label."""
    is_object = ~image.is_crowd & (image.label_area_px >= MIN_AREA_PX)
    union = image.area_px[image.column] + image.label_area_px[image.row] - image.overlap_px
    ratio = image.overlap_px / union
    pair = np.flatnonzero(ratio > IOU_THRESHOLDS[0])
    iou = np.zeros(len(image.score))
    iou[image.column[pair]] = ratio[pair]
    meets_object = np.zeros(len(image.score), bool)
    meets_object[image.column[pair]] = is_object[image.row[pair]]

    on_crowd = image.overlap_px * image.is_crowd[image.row]
    # A small group is counted twice, as in cityscapesscripts.
    excused_px = image.void_px + image.small_px
    excused_px = excused_px + np.bincount(image.column, on_crowd, minlength=len(image.score))
    return Matches(
        image.detected_class,
        image.score,
        iou,
        meets_object,
        excused_px / image.area_px,
        np.bincount(image.label_class[is_object], minlength=num_classes),
    )


def concatenate(images: Sequence[Matches], *, num_classes: int) -> Matches:
    """Concatenates the matches of images."""
    nothing = Matches(
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros(0),
        np.zeros(0, bool),
        np.zeros(0),
        np.zeros(num_classes, np.int64),
    )
    *per_detection, num_labels = zip(nothing, *images, strict=True)
    return Matches(*map(np.concatenate, per_detection), num_labels=np.sum(num_labels, axis=0))


def average_precision(matches: Matches) -> dict[str, Any]:
    """Averages over thresholds and classes.

    Returns:
      'ap', 'ap50': mean over the classes with labels that count; None if there is none.
      'per_class': arrays [C] 'ap', 'ap50' (0 where undefined) and 'valid', true for those classes.
    """
    valid = matches.num_labels > 0
    precision = np.zeros((len(valid), len(IOU_THRESHOLDS)))
    for c in np.flatnonzero(valid):
        rows = matches.detected_class == c
        score, iou, is_object = matches.score[rows], matches.iou[rows], matches.is_object[rows]
        for t, threshold in enumerate(IOU_THRESHOLDS):
            is_right = (iou > threshold) & is_object
            is_wrong = (iou <= threshold) & (matches.excused[rows] <= threshold)
            precision[c, t] = _area_under_curve(
                score[is_right], score[is_wrong], matches.num_labels[c]
            )
    chosen = precision[valid]
    return {
        'ap': float(chosen.mean()) if chosen.size else None,
        'ap50': float(chosen[:, 0].mean()) if chosen.size else None,
        'per_class': {'ap': precision.mean(1), 'ap50': precision[:, 0], 'valid': valid},
    }


def _area_under_curve(right: np.ndarray, wrong: np.ndarray, num_labels: int) -> float:
    """Integrates precision over recall; each point weighs half the distance between its neighbours.

    Args:
      right: f64[M], scores of right detections.
      wrong: f64[N], scores of wrong detections.
      num_labels: number of labels that count.
    """
    limits = np.unique(np.concatenate([right, wrong]))
    num_right = len(right) - np.searchsorted(np.sort(right), limits)
    num_wrong = len(wrong) - np.searchsorted(np.sort(wrong), limits)
    precision = np.append(num_right / (num_right + num_wrong), 1.0)
    recall = np.append(num_right / num_labels, 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:]) / 2)
