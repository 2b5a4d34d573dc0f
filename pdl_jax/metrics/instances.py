"""Labelled objects and detections of one image, the input of average precision; NumPy only."""

from typing import NamedTuple

import numpy as np


class Instances(NamedTuple):
    """Labels G and detections D of one image, and the N pairs that overlap.

    Labels do not overlap each other, nor do detections.

    Attributes:
      label_class: i64[G], class of the label.
      label_area_px: i64[G], area of the label in pixels.
      stated_area: f64[G], area stated in the annotation, by which COCO assigns area ranges.
      is_crowd: bool[G], true for a region of many objects ('group' in Cityscapes).
      detected_class: i64[D], class of the detection.
      area_px: i64[D], area of the detection in pixels.
      score: f64[D], confidence of the detection.
      void_px: i64[D], pixels of the detection where nothing is labelled.
      small_px: i64[D], pixels of the detection on labels of its class that have fewer than
        `cityscapes_ap.MIN_AREA_PX` pixels.
      row, column, overlap_px: i64[N], label, detection of the same class and the pixels they share;
        for each detection at least its crowds and the two labels that cover most of it.
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
