"""Segments of one image and their overlaps, the input of all analyses; NumPy only."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class ImageSegments(NamedTuple):
    """Labelled segments G and predicted segments D of one image, and N pairs that overlap.

    Attributes:
      label_class: i64[G], class of the label.
      label_area: i64[G], area of the label in pixels.
      is_crowd: bool[G], true for crowd regions.
      predicted_class: i64[D], class of the prediction.
      area: i64[D], area of the prediction in pixels.
      score: f64[D], confidence of the prediction, NaN where it is unknown.
      void_px: i64[D], pixels of the prediction where nothing is labelled.
      crowd_px: i64[D], pixels of the prediction on the crowds that excuse it.
      row, column, shared: i64[N], label, prediction of any class and the pixels that they share;
        all pairs in which one covers at least a tenth of the other.
    """

    label_class: np.ndarray
    label_area: np.ndarray
    is_crowd: np.ndarray
    predicted_class: np.ndarray
    area: np.ndarray
    score: np.ndarray
    void_px: np.ndarray
    crowd_px: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shared: np.ndarray


def read_table(
    table: Mapping[str, np.ndarray], *, is_thing: np.ndarray, label_divisor: int
) -> ImageSegments:
    """Extracts the segments from the table of one image.

    Args:
      table: arrays [S, ...], see `metrics.image_tables.describe_pairs`.
      is_thing: bool[N], true for semantic values with instances; surplus rows have the class N.
      label_divisor: exclusive upper bound of instance ids.
    """
    label_class, instance = np.divmod(table['label_id'].astype(np.int64), label_divisor)
    predicted_class = table['id'].astype(np.int64) // label_divisor
    # Rows with a segment come first, since surplus rows hold the largest label.
    num_labels = int(np.sum(label_class < len(is_thing)))
    num_predictions = int(np.sum(predicted_class < len(is_thing)))
    label_class, instance = label_class[:num_labels], instance[:num_labels]

    pairs, shared = [], []
    for side, overlap, is_label in (
        ('label_partner', 'label_overlap', True),
        ('partner', 'overlap', False),
    ):
        own, position = np.nonzero(table[overlap])
        other = table[side][own, position].astype(np.int64)
        row, column = (own, other) if is_label else (other, own)
        pairs.append(row * (num_predictions + 1) + column)
        shared.append(table[overlap][own, position])
    # A pair is in the table of its label, of its prediction, or of both.
    pairs, first = np.unique(np.concatenate(pairs), return_index=True)
    row, column = np.divmod(pairs, num_predictions + 1)

    def cut(key: str) -> np.ndarray:
        return table[key][:num_predictions].astype(np.int64)

    return ImageSegments(
        label_class=label_class,
        label_area=table['label_area'][:num_labels].astype(np.int64),
        is_crowd=is_thing[label_class] & (instance == 0),
        predicted_class=predicted_class[:num_predictions],
        area=cut('area'),
        score=table['score'][:num_predictions].astype(np.float64),
        void_px=cut('on_void'),
        crowd_px=cut('on_crowd'),
        row=row,
        column=column,
        shared=np.concatenate(shared)[first].astype(np.int64),
    )
