"""Causes of lost panoptic quality: one for each segment that is not matched; NumPy only.

With n = TP + FP/2 + FN/2, a class loses

    1 - PQ = sum over matches of (1 - IoU) / n  +  FP / (2 n)  +  FN / (2 n)

so the loss is the sum of what matches lose by inexact outlines and of 1 / (2 n) for each prediction
that is false and each label that is missed. Each of these gets the first cause that applies:

  wrong_class   it has IoU > 0.5 with a segment of another class;
  merged        a label: a prediction of its class covers more than half of it, and more than half
                of another label of the class; a prediction: it covers two labels so;
  split         a label: two predictions of its class or more have most of their labelled pixels in
                it, and each covers at least a tenth of it; a prediction: it has most of its
                labelled pixels in a label of its class that has another such piece;
  poor_outline  it has 0.1 < IoU <= 0.5 with a segment of its class;
  missed, false else, a label and a prediction.

IoU is that of the metric: the union leaves out predicted pixels on void. Crowds are no label here,
and predictions that void or a crowd excuses lose nothing.

Source of the idea: Bolya et al., TIDE, ECCV 2020; the parts of TIDE do not add up, these do.
"""

from typing import NamedTuple

import numpy as np

from pdl_jax.evaluation.analysis.segments import ImageSegments

CAUSES = ('inexact', 'wrong_class', 'merged', 'split', 'poor_outline', 'missed', 'false')
INEXACT, WRONG_CLASS, MERGED, SPLIT, POOR_OUTLINE, MISSED, FALSE = range(len(CAUSES))
# Crowds and excused predictions.
UNCOUNTED = -1
_MIN_PIECE = 0.1
_MIN_IOU = 0.1


class JudgedSegments(NamedTuple):
    """The labels G that count and the predictions D of an image, with their causes.

    Attributes:
      label_class, label_area: i64[G], class and area in pixels.
      label_cause: i64[G], an index of `CAUSES`; INEXACT for matches.
      iou: f64[G], IoU of the match, 0 without one.
      mistaken_class: i64[G], class of the prediction in the place of a label of WRONG_CLASS, or -1.
      predicted_class, area: i64[D], class and area in pixels; excused predictions are left out.
      score: f64[D], confidence, NaN where it is unknown.
      predicted_cause: i64[D], an index of `CAUSES`; INEXACT for matches.
    """

    label_class: np.ndarray
    label_area: np.ndarray
    label_cause: np.ndarray
    iou: np.ndarray
    mistaken_class: np.ndarray
    predicted_class: np.ndarray
    area: np.ndarray
    score: np.ndarray
    predicted_cause: np.ndarray


def judge_segments(image: ImageSegments) -> JudgedSegments:
    """Matches the segments of an image by the rules of panoptic quality, and finds causes."""
    num_labels, num_predictions = len(image.label_class), len(image.predicted_class)
    is_kept = ~image.is_crowd[image.row]
    row, column, shared = (x[is_kept] for x in (image.row, image.column, image.shared))
    agrees = image.label_class[row] == image.predicted_class[column]
    labelled_px = image.area - image.void_px
    union = image.label_area[row] + labelled_px[column] - shared
    # Integers decide, as on the device: a half is no match.
    is_close = 2 * shared > union
    is_match = agrees & is_close
    iou = np.zeros(num_labels)
    iou[row[is_match]] = shared[is_match] / union[is_match]

    def mark(count: int, index: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        marked = np.zeros(count, bool)
        marked[index[chosen]] = True
        return marked

    def count(size: int, index: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.bincount(index[chosen], minlength=size)

    covers = agrees & (2 * shared > image.label_area[row])
    is_merger = count(num_predictions, column, covers) >= 2
    lies_in = agrees & (2 * shared > labelled_px[column])
    is_piece = lies_in & (shared >= _MIN_PIECE * image.label_area[row])
    num_pieces = count(num_labels, row, is_piece)
    num_others = num_pieces[row] - is_piece
    is_near = agrees & (shared > _MIN_IOU * union)

    label_rules = (
        (INEXACT, mark(num_labels, row, is_match)),
        (WRONG_CLASS, mark(num_labels, row, is_close & ~agrees)),
        (MERGED, mark(num_labels, row, covers & is_merger[column])),
        (SPLIT, num_pieces >= 2),
        (POOR_OUTLINE, mark(num_labels, row, is_near)),
    )
    rules = (
        (INEXACT, mark(num_predictions, column, is_match)),
        (UNCOUNTED, 2 * (image.void_px + image.crowd_px) > image.area),
        (WRONG_CLASS, mark(num_predictions, column, is_close & ~agrees)),
        (MERGED, is_merger),
        (SPLIT, mark(num_predictions, column, lies_in & (num_others > 0))),
        (POOR_OUTLINE, mark(num_predictions, column, is_near)),
    )
    mistaken_class = np.full(num_labels, -1)
    is_mistaken = is_close & ~agrees
    mistaken_class[row[is_mistaken]] = image.predicted_class[column[is_mistaken]]
    label_cause = np.select([x for _, x in label_rules], [c for c, _ in label_rules], MISSED)
    cause = np.select([x for _, x in rules], [c for c, _ in rules], FALSE)
    counts, is_counted = ~image.is_crowd, cause != UNCOUNTED
    return JudgedSegments(
        label_class=image.label_class[counts],
        label_area=image.label_area[counts],
        label_cause=label_cause[counts],
        iou=iou[counts],
        mistaken_class=mistaken_class[counts],
        predicted_class=image.predicted_class[is_counted],
        area=image.area[is_counted],
        score=image.score[is_counted],
        predicted_cause=cause[is_counted],
    )


def join_images(images: list[JudgedSegments]) -> JudgedSegments:
    """Concatenates the segments of several images."""
    if not images:
        empty = np.zeros(0, np.int64)
        return JudgedSegments(*(empty for _ in JudgedSegments._fields))
    return JudgedSegments(*(np.concatenate(arrays) for arrays in zip(*images, strict=True)))


def split_loss(segments: JudgedSegments, *, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides the lost quality of each class among the causes.

    Returns:
      f64[C, len(CAUSES)], parts of 1 - PQ, 0 for classes without a segment; f64[C], TP + FP/2 +
      FN/2.
    """
    matched = segments.label_cause == INEXACT
    missed, false = ~matched, segments.predicted_cause != INEXACT
    lost = np.zeros((num_classes, len(CAUSES)))
    at = segments.label_class[matched], np.full(int(matched.sum()), INEXACT)
    np.add.at(lost, at, 1 - segments.iou[matched])
    np.add.at(lost, (segments.label_class[missed], segments.label_cause[missed]), 0.5)
    np.add.at(lost, (segments.predicted_class[false], segments.predicted_cause[false]), 0.5)
    size = (
        np.bincount(segments.label_class, minlength=num_classes)
        - 0.5 * np.bincount(segments.label_class[missed], minlength=num_classes)
        + 0.5 * np.bincount(segments.predicted_class[false], minlength=num_classes)
    )
    return lost / np.where(size > 0, size, 1)[:, None], size
