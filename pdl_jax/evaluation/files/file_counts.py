"""Counts of one image read from files for each metric, by the rules of `metrics/`; NumPy only."""

import numpy as np

from pdl_jax.evaluation.files.file_overlap import FileOverlap
from pdl_jax.metrics import cityscapes_ap
from pdl_jax.metrics.instances import Instances


def count_quality(image: FileOverlap, *, num_classes: int) -> dict[str, np.ndarray]:
    """Matches the segments; see `panoptic_quality.count_matches`.

    As in panopticapi, only the last of several crowds of a class excuses predictions. Areas are
    numbers of pixels; panopticapi trusts those that the label file states, which are the same in
    consistent files.

    Returns:
      'iou_sum': f64[C], 'tp', 'fp', 'fn': i64[C].
    """
    row, column, shared = _list_agreeing(image)
    void_px = _sum_by_prediction(image, image.column, _on_void(image))
    union = image.area[column] + image.label_area[row] - shared - void_px[column]
    iou = shared / union
    is_match = (iou > 0.5) & ~image.is_crowd[row]
    is_found = np.zeros(len(image.label_class), bool)
    is_found[row[is_match]] = True
    is_matched = np.zeros(len(image.area), bool)
    is_matched[column[is_match]] = True

    last_crowd = np.full(num_classes, -1)
    crowds = np.flatnonzero(image.is_crowd)
    last_crowd[image.label_class[crowds]] = crowds
    on_crowd = shared * (row == last_crowd[image.predicted_class[column]])
    excused_px = void_px + _sum_by_prediction(image, column, on_crowd)
    is_false = ~is_matched & (excused_px / image.area <= 0.5)
    is_missed = ~is_found & ~image.is_crowd

    matched_class = image.label_class[row[is_match]]
    return {
        'iou_sum': np.bincount(matched_class, iou[is_match], num_classes),
        'tp': np.bincount(matched_class, minlength=num_classes),
        'fp': np.bincount(image.predicted_class[is_false], minlength=num_classes),
        'fn': np.bincount(image.label_class[is_missed], minlength=num_classes),
    }


def count_pixels(image: FileOverlap, *, num_classes: int) -> dict[str, np.ndarray]:
    """Counts pixels per class; see `semantic_iou.SemanticIoU`.

    Returns:
      'right', 'labelled', 'predicted': i64[C], see `averages.average_iou`.
    """
    # Void is one class beyond the last.
    row_class = np.append(image.label_class, num_classes)
    column_class = np.append(image.predicted_class, num_classes)
    labelled, predicted = row_class[image.row], column_class[image.column]
    shared = image.shared * (labelled < num_classes)

    def add(classes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        return np.bincount(classes, pixels, num_classes + 1)[:num_classes].astype(np.int64)

    return {
        'right': add(labelled, shared * (labelled == predicted)),
        'labelled': add(labelled, shared),
        'predicted': add(predicted, shared),
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
