"""Counts of one image read from files for each metric, by the rules of `metrics/`; NumPy only."""

import numpy as np

from pdl_jax.evaluation.analysis.causes import INEXACT, judge_segments
from pdl_jax.evaluation.analysis.segments import ImageSegments
from pdl_jax.evaluation.files.file_overlap import FileOverlap
from pdl_jax.metrics import cityscapes_ap
from pdl_jax.metrics.instances import Instances


def count_quality(image: FileOverlap, *, num_classes: int) -> dict[str, np.ndarray]:
    """Matches the segments; see `panoptic_quality.count_matches`.

    Areas are numbers of pixels; panopticapi trusts those that the label file states, which are the
    same in consistent files.

    Returns:
      'iou_sum': f64[C], 'tp', 'fp', 'fn': i64[C].
    """
    segments = judge_segments(list_segments(image, num_classes=num_classes))
    is_matched = segments.label_cause == INEXACT
    is_false = segments.predicted_cause != INEXACT
    matched_class = segments.label_class[is_matched]
    return {
        'iou_sum': np.bincount(matched_class, segments.iou[is_matched], num_classes),
        'tp': np.bincount(matched_class, minlength=num_classes),
        'fp': np.bincount(segments.predicted_class[is_false], minlength=num_classes),
        'fn': np.bincount(segments.label_class[~is_matched], minlength=num_classes),
    }


def list_segments(image: FileOverlap, *, num_classes: int) -> ImageSegments:
    """Lists the segments of an image with all their overlaps.

    As in panopticapi, only the last of several crowds of a class excuses predictions.
    """
    row, column, shared = _list_agreeing(image)
    last_crowd = np.full(num_classes, -1)
    crowds = np.flatnonzero(image.is_crowd)
    last_crowd[image.label_class[crowds]] = crowds
    on_crowd = shared * (row == last_crowd[image.predicted_class[column]])
    is_pair = (image.row < len(image.label_class)) & (image.column < len(image.area))
    return ImageSegments(
        label_class=image.label_class,
        label_area=image.label_area,
        is_crowd=image.is_crowd,
        predicted_class=image.predicted_class,
        area=image.area,
        score=np.where(image.is_scored, image.score, np.nan),
        void_px=_sum_by_prediction(image, image.column, _on_void(image)),
        crowd_px=_sum_by_prediction(image, column, on_crowd),
        row=image.row[is_pair],
        column=image.column[is_pair],
        shared=image.shared[is_pair],
    )


def count_confusion(image: FileOverlap, *, num_classes: int) -> np.ndarray:
    """Counts pixels by labelled and predicted class, void last: i64[C, C + 1]."""
    labelled = np.append(image.label_class, num_classes)[image.row]
    predicted = np.append(image.predicted_class, num_classes)[image.column]
    size = num_classes + 1
    counts = np.bincount(labelled * size + predicted, image.shared, size * size)
    return counts.astype(np.int64).reshape(size, size)[:num_classes]


def count_pixels(image: FileOverlap, *, num_classes: int) -> dict[str, np.ndarray]:
    """Counts pixels per class; see `semantic_iou.SemanticIoU`.

    Returns:
      'right', 'labelled', 'predicted': i64[C], see `averages.average_iou`.
    """
    confusion = count_confusion(image, num_classes=num_classes)
    return {
        'right': np.diagonal(confusion).copy(),
        'labelled': confusion.sum(1),
        'predicted': confusion[:, :-1].sum(0),
    }


def count_covering(image: FileOverlap, *, num_classes: int) -> dict[str, np.ndarray]:
    """Sums the best IoU of labels, weighted by area; see `parsing_covering.ParsingCovering`.

    Returns:
      'weighted_iou', 'area': f64[C], areas as shares of the image.
    """
    is_left_out = np.append(image.is_crowd, True)
    left_out_px = image.shared * is_left_out[image.row]
    area = image.area - _sum_by_prediction(image, image.column, left_out_px)
    row, column, shared = _list_agreeing(image)
    is_kept = ~is_left_out[row]
    row, column, shared = row[is_kept], column[is_kept], shared[is_kept]
    best = np.zeros(len(image.label_class))
    np.maximum.at(best, row, shared / (area[column] + image.label_area[row] - shared))
    label_area = image.label_area * ~image.is_crowd / image.num_pixels
    return {
        'weighted_iou': np.bincount(image.label_class, label_area * best, num_classes),
        'area': np.bincount(image.label_class, label_area, num_classes),
    }


def select_instances(image: FileOverlap, is_thing: np.ndarray) -> Instances:
    """Selects the things of an image, for average precision.

    Args:
      image: the segments of the image.
      is_thing: bool[C], true for classes with instances.
    """
    row, column, shared = _list_agreeing(image)
    is_small = image.label_area[row] < cityscapes_ap.MIN_AREA_PX
    void_px = _sum_by_prediction(image, image.column, _on_void(image))
    small_px = _sum_by_prediction(image, column, shared * is_small)
    labels = np.flatnonzero(is_thing[image.label_class])
    detections = np.flatnonzero(is_thing[image.predicted_class])
    pairs = np.flatnonzero(is_thing[image.predicted_class[column]])
    return Instances(
        label_class=image.label_class[labels],
        label_area_px=image.label_area[labels],
        stated_area=image.label_area[labels],
        is_crowd=image.is_crowd[labels],
        detected_class=image.predicted_class[detections],
        area_px=image.area[detections],
        score=image.score[detections],
        void_px=void_px[detections],
        small_px=small_px[detections],
        row=np.searchsorted(labels, row[pairs]),
        column=np.searchsorted(detections, column[pairs]),
        overlap_px=shared[pairs],
    )


def _list_agreeing(image: FileOverlap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Selects row, column and shared pixels of the pairs of equal class; void equals nothing."""
    row_class, column_class = np.append(image.label_class, -1), np.append(image.predicted_class, -2)
    agrees = row_class[image.row] == column_class[image.column]
    return image.row[agrees], image.column[agrees], image.shared[agrees]


def _on_void(image: FileOverlap) -> np.ndarray:
    """Returns the pixels of the pairs whose label is void, 0 for other pairs: i64[N]."""
    return image.shared * (image.row == len(image.label_class))


def _sum_by_prediction(image: FileOverlap, column: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Sums pixels of pairs by prediction: i64[D]; void, column D, is left out."""
    num = len(image.area)
    return np.bincount(column, pixels, num + 1)[:num].astype(np.int64)
