"""Pixels that the segments of a label file and of a prediction share, counted by NumPy.

Each pixel of a PNG holds a segment id, R + 256 G + 65536 B; the JSON names the category of each
segment. What contradicts itself is refused.
"""

from typing import NamedTuple

import numpy as np

from pdl_jax.data import images
from pdl_jax.data.json_fields import get_field
from pdl_jax.evaluation.files.panoptic_files import (
    FilePair,
    PanopticFiles,
    get_file_name,
)

# What a PNG holds where nothing is annotated or predicted.
_VOID_ID = 0
# JSON as Python reads it has NaN, Infinity and integers that no float holds.
_MAX_SCORE = 1e300


class FileOverlap(NamedTuple):
    """The labelled segments G and predicted segments D of one image, and the pixels they share.

    Attributes:
      label_class: i64[G], row of the category.
      label_area: i64[G], in pixels.
      stated_area: f64[G], as the label file states it.
      is_crowd: bool[G].
      predicted_class, area: i64[D].
      score: f64[D], 1 where the file states none.
      row, column, shared: i64[N], pixels that label `row` and prediction `column` share, N pairs
        with at least one; row G and column D are void.
      num_pixels: of the image.
      num_scored: thing predictions for which the file states a score.
    """

    label_class: np.ndarray
    label_area: np.ndarray
    stated_area: np.ndarray
    is_crowd: np.ndarray
    predicted_class: np.ndarray
    area: np.ndarray
    score: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shared: np.ndarray
    num_pixels: int
    num_scored: int


def load_overlap(files: PanopticFiles, pair: FilePair) -> FileOverlap:
    """Reads the two PNGs of an image and counts the pixels that segments share.

    Raises:
      FileNotFoundError: a PNG is missing.
      ValueError: a file is damaged, or PNG and JSON contradict each other.
    """
    class_of_category = {category: i for i, category in enumerate(files.categories.ids)}
    label = _Segmentation('label', files.label_dir, pair.label, class_of_category)
    prediction = _Segmentation(
        'prediction', files.prediction_dir, pair.prediction, class_of_category
    )
    label_ids, ids = label.decode(), prediction.decode()
    if label_ids.shape != ids.shape:
        raise ValueError(
            f'{prediction.where} has {ids.shape[0]}x{ids.shape[1]} pixels (height x width), its '
            f'label {label_ids.shape[0]}x{label_ids.shape[1]}: predict at the size of the label'
        )
    label_runs, runs, lengths = _find_runs(label_ids.ravel(), ids.ravel())
    row, column = label.find_rows(label_runs), prediction.find_rows(runs)

    num_labels, num_predictions = len(label.ids), len(prediction.ids)
    pairs, index = np.unique(row * (num_predictions + 1) + column, return_inverse=True)
    # Whole numbers below 2**53, so the sums in f64 are exact.
    shared = np.bincount(index, lengths, minlength=len(pairs)).astype(np.int64)
    row, column = np.divmod(pairs, num_predictions + 1)
    label_area = _add(row, shared, num_labels)
    area = _add(column, shared, num_predictions)
    label.check_areas(label_area)
    prediction.check_areas(area)

    is_thing = files.categories.is_thing
    stated_area = np.array([label.get_area(s) for s in label.segments], np.float64)
    is_crowd = np.array([label.get_crowd(s) for s in label.segments], bool)
    score = np.array([prediction.get_score(s) for s in prediction.segments], np.float64)
    is_scored = np.array(['score' in s for s in prediction.segments], bool)
    return FileOverlap(
        label_class=label.classes,
        label_area=label_area,
        stated_area=stated_area,
        is_crowd=is_crowd,
        predicted_class=prediction.classes,
        area=area,
        score=score,
        row=row,
        column=column,
        shared=shared,
        num_pixels=label_ids.size,
        num_scored=int(np.sum(is_scored & is_thing[prediction.classes])),
    )


class _Segmentation:
    """A PNG and the segments that the JSON lists for it."""

    def __init__(self, kind, folder, annotation, class_of_category):
        name = get_file_name(annotation, f'{kind} of image {annotation["image_id"]!r}')
        self.where = f'{kind} PNG {folder / name}'
        self._path = folder / name
        self._described = f'segments_info of the {kind} {name}'
        segments = get_field(annotation, 'segments_info', list, f'{kind} of {name}')
        self.segments = segments
        ids, classes = [], []
        # 0 is void in every label; some predictions use it as the id of a segment.
        lowest = 1 if kind == 'label' else 0
        for i, segment in enumerate(segments):
            where = f'{self._described}, segment {i}'
            segment_id = get_field(segment, 'id', int, where)
            if not lowest <= segment_id < images.MAX_IDS:
                raise ValueError(
                    f'{where}: id {segment_id} must lie in {lowest} .. {images.MAX_IDS - 1}, as 24 '
                    f'bits of colour hold' + ' and 0 means void' * lowest
                )
            category = get_field(segment, 'category_id', int, where)
            if category not in class_of_category:
                raise ValueError(
                    f'{where} (id {segment_id}): category_id {category} is not among the categories '
                    f'of the label file: use the ids that it lists'
                )
            ids.append(segment_id)
            classes.append(class_of_category[category])
        self.ids = np.array(ids, np.int64)
        self.classes = np.array(classes, np.int64)
        values, counts = np.unique(self.ids, return_counts=True)
        if np.any(counts > 1):
            raise ValueError(
                f'{self._described}: id {values[counts > 1][0]} is given {counts.max()} times: ids '
                f'must be unique in an image'
            )

    def decode(self):
        """i32[H, W], the segment ids."""
        try:
            data = self._path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'{self.where} does not exist: check that the folder belongs to the JSON file'
            ) from error
        return images.decode_ids(data, name=self.where)

    def find_rows(self, ids):
        """i64[N], the row of every id among the segments; one beyond the last for void."""
        known = np.append(self.ids, _VOID_ID)
        # Stable, so that a predicted segment of id 0 comes before void.
        order = np.argsort(known, kind='stable')
        position = np.searchsorted(known, ids, sorter=order)
        row = order[np.minimum(position, len(order) - 1)]
        is_unknown = known[row] != ids
        if is_unknown.any():
            raise ValueError(
                f'{self.where} holds segment id {ids[is_unknown][0]}, which {self._described} does '
                f'not list: list it there or paint it {_VOID_ID} (void)'
            )
        return row

    def check_areas(self, areas):
        """Refuses segments without pixels."""
        if not areas.all():
            segment_id = self.ids[np.argmin(areas)]
            raise ValueError(
                f'{self._described}: segment id {segment_id} has no pixel in {self.where}: remove '
                f'it from segments_info or repair the PNG'
            )

    def get_area(self, segment):
        """The stated area of a labelled segment."""
        area = get_field(segment, 'area', (int, float), self._described)
        if not 0 < area <= images.MAX_PIXELS:
            raise ValueError(
                f'{self._described}: area {area} of segment id {segment["id"]} must be its number of '
                f'pixels, 1 .. {images.MAX_PIXELS}'
            )
        return area

    def get_crowd(self, segment):
        """Whether a labelled segment is a crowd."""
        is_crowd = get_field(segment, 'iscrowd', int, self._described)
        if is_crowd not in (0, 1):
            raise ValueError(
                f'{self._described}: iscrowd {is_crowd} of segment id {segment["id"]} must be 0 or 1'
            )
        return is_crowd

    def get_score(self, segment):
        """The score of a predicted segment, 1 if none is stated."""
        if 'score' not in segment:
            return 1.0
        score = get_field(segment, 'score', (int, float), self._described)
        if not -_MAX_SCORE < score < _MAX_SCORE:
            raise ValueError(
                f'{self._described}: score {score} of segment id {segment["id"]} must be finite'
            )
        return score


def _find_runs(labels, ids):
    """Cuts two maps at the pixels where either changes: the values of every run and its length.

    A run is dozens of pixels long on average, so that nothing has to be sorted pixel by pixel.
    """
    is_start = np.ones(len(ids), bool)
    np.not_equal(labels[1:], labels[:-1], out=is_start[1:])
    is_start[1:] |= ids[1:] != ids[:-1]
    starts = np.flatnonzero(is_start)
    return labels[starts], ids[starts], np.diff(starts, append=len(ids))


def _add(index, values, num):
    """Sums values over each of `num` indices; index `num`, void, is left out."""
    return np.bincount(index, values, minlength=num + 1)[:num].astype(np.int64)
