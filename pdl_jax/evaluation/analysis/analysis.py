"""The analysis of an evaluation: everything that its report page shows besides the scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.evaluation.analysis.calibration import calibrate
from pdl_jax.evaluation.analysis.causes import (
    CAUSES,
    INEXACT,
    JudgedSegments,
    join_images,
    split_loss,
)
from pdl_jax.evaluation.analysis.object_sizes import score_sizes

# Changes with the meaning of a field.
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class AnalyzedClasses:
    """The classes of an analysis.

    Attributes:
      keys: key of each class in the report.
      names: name of each class.
      is_thing: bool[C], true for classes with instances.
    """

    keys: Sequence[str]
    names: Sequence[str]
    is_thing: np.ndarray


class ImageScore(NamedTuple):
    """Score of one image.

    Attributes:
      file_name: name of the image.
      score: mean of PQ over the classes of the image, or of a semantic network the share of pixels
        that are right, in [0, 1]; None if nothing is labelled or predicted.
      tp, fp, fn: matched, false and missed segments; 0 of a semantic network.
    """

    file_name: str
    score: float | None
    tp: int
    fp: int
    fn: int


def score_image(file_name: str, segments: JudgedSegments, *, num_classes: int) -> ImageScore:
    """Scores one image by its mean panoptic quality over the classes that it has."""
    parts, size = split_loss(segments, num_classes=num_classes)
    valid = size > 0
    tp = int(np.sum(segments.label_cause == INEXACT))
    return ImageScore(
        file_name=file_name,
        score=float(1 - parts[valid].sum(1).mean()) if valid.any() else None,
        tp=tp,
        fp=len(segments.predicted_cause) - tp,
        fn=len(segments.label_cause) - tp,
    )


def make_analysis(
    classes: AnalyzedClasses,
    confusion: np.ndarray,
    images: Sequence[ImageScore],
    segments: Sequence[JudgedSegments] | None,
) -> dict[str, Any]:
    """Makes the analysis of an evaluation, as JSON values.

    Args:
      classes: the classes.
      confusion: i64[C, C + 1], pixels by labelled (row) and predicted class (column); the last
        column counts void.
      images: score of each image.
      segments: those of each image; None for a semantic network.

    Returns:
      'version'; 'classes', a list of {'key', 'name', 'is_thing'}, which others name by index;
      'confusion', a list of [labelled class, predicted class, pixels], without zeros; the number of
      classes stands for predicted void;
      'images', lists 'file_name', 'score', 'tp', 'fp', 'fn', see `ImageScore`;
      with segments also 'loss': 'All', 'Things', 'Stuff' (None without a class) and 'per_class' by
      key, each {cause: part of 1 - PQ}, see `causes`; 'wrong_classes', a list of [labelled class,
      predicted class, segments], the most first; 'sizes', see `score_sizes`; 'calibration', see
      `calibrate`.
    """
    num_classes = len(classes.keys)
    row, column = np.nonzero(confusion)
    analysis = {
        'version': FORMAT_VERSION,
        'classes': [
            {'key': key, 'name': name, 'is_thing': bool(is_thing)}
            for key, name, is_thing in zip(
                classes.keys, classes.names, classes.is_thing, strict=True
            )
        ],
        'confusion': np.stack([row, column, confusion[row, column]], -1).tolist(),
        'images': {
            field: [getattr(image, field) for image in images] for field in ImageScore._fields
        },
    }
    if segments is None:
        return analysis
    joined = join_images(list(segments))
    parts, size = split_loss(joined, num_classes=num_classes)
    mistaken = joined.mistaken_class >= 0
    pairs, count = np.unique(
        np.stack([joined.label_class[mistaken], joined.mistaken_class[mistaken]], -1),
        axis=0,
        return_counts=True,
    )
    order = np.argsort(-count, kind='stable')
    wrong_classes = np.column_stack([pairs, count])[order]
    return {
        **analysis,
        'loss': _average_loss(parts, size > 0, classes),
        'wrong_classes': wrong_classes.tolist(),
        'sizes': score_sizes(joined, is_thing=classes.is_thing),
        'calibration': calibrate(joined, is_thing=classes.is_thing),
    }


def _average_loss(
    parts: np.ndarray, valid: np.ndarray, classes: AnalyzedClasses
) -> dict[str, Mapping[str, Any] | None]:
    """Averages parts f64[C, causes] over the classes with a segment, as PQ is averaged."""

    def average(chosen: np.ndarray) -> dict[str, float] | None:
        return _name_parts(parts[chosen].mean(0)) if chosen.any() else None

    return {
        'All': average(valid),
        'Things': average(valid & classes.is_thing),
        'Stuff': average(valid & ~classes.is_thing),
        'per_class': {
            classes.keys[c]: _name_parts(parts[c]) for c in np.flatnonzero(valid).tolist()
        },
    }


def _name_parts(parts: np.ndarray) -> dict[str, float]:
    return dict(zip(CAUSES, parts.tolist(), strict=True))
