"""Instances of one image as average precision sees them; NumPy, for devices and files alike."""

from typing import NamedTuple

import numpy as np


class Instances(NamedTuple):
    """Labelled objects and detections of one image, and the pixels that they share.

    Labels do not overlap each other, nor do detections.

    Attributes:
      label_class: i64[G].
      label_area_px: i64[G], in pixels.
      stated_area: f64[G], the area that the annotation states, by which COCO sorts into sizes.
      is_crowd: bool[G], true for a region of many objects ('group' in Cityscapes).
      detected_class: i64[D].
      area_px: i64[D], in pixels.
      score: f64[D].
      void_px: i64[D], pixels of a detection where nothing is labelled.
      small_px: i64[D], pixels on labels of its own class that have fewer than
        `cityscapes_ap.MIN_AREA_PX` pixels.
      row, column, overlap_px: i64[N], pixels that label `row` shares with detection `column` of the
        same class: for every detection at least its crowds and the two labels that cover most of it.
    """

    label_class: np.ndarray
    label_area_px: np.ndarray
    stated_area: np.ndarray
    is_crowd: np.ndarray
    detected_class: np.ndarray
    area_px: np.ndarray
    score: np.ndarray
    void_px: np.ndarray
    small_px: np.ndarray
    row: np.ndarray
    column: np.ndarray
    overlap_px: np.ndarray
