"""Panoptic maps of a label file and of a prediction, for pictures."""

from typing import NamedTuple

import numpy as np

from pdl_jax.data.notices import Notices
from pdl_jax.evaluation.files.file_overlap import Segmentation
from pdl_jax.evaluation.files.panoptic_files import FilePair, PanopticFiles


class FileMaps(NamedTuple):
    """The maps of an image.

    Attributes:
      label, prediction: i32[H, W], class * label_divisor + instance; 0 is the instance of stuff and
        of crowds, and the class beyond the last is void.
      scores: confidence by predicted label, as far as the file states one.
      label_divisor: exclusive upper bound of instances.
    """

    label: np.ndarray
    prediction: np.ndarray
    scores: dict[int, float]
    label_divisor: int


def read_maps(files: PanopticFiles, pair: FilePair) -> FileMaps:
    """Reads the maps of an image whose files were scored before.

    Raises:
      ValueError: a file has changed since.
    """
    notices = Notices()
    label = Segmentation('label', files.label_dir, pair.label, files, notices)
    prediction = Segmentation('prediction', files.prediction_dir, pair.prediction, files, notices)
    divisor = 1 + max(len(label.segments), len(prediction.segments), 1)
    maps, labels = [], []
    for segmentation in (label, prediction):
        ids = segmentation.decode()
        is_countable = files.categories.is_thing[segmentation.get_classes()]
        is_countable &= ~np.array([s.is_crowd for s in segmentation.segments], bool)
        instances = np.where(is_countable, 1 + np.arange(len(is_countable)), 0)
        values = segmentation.get_classes() * divisor + instances
        void = len(files.categories.ids) * divisor
        rows = segmentation.find_rows(ids.ravel())
        maps.append(np.append(values, void)[rows].reshape(ids.shape).astype(np.int32))
        labels.append(values.tolist())
    scores = prediction.read_scores()
    by_label = {
        value: scores[segment.id]
        for value, segment in zip(labels[1], prediction.segments, strict=True)
        if segment.id in scores
    }
    return FileMaps(maps[0], maps[1], by_label, divisor)
