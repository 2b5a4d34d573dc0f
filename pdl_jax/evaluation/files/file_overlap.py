"""Segments of a label file and of a prediction, and the pixels that they share; NumPy only.

Each pixel of a PNG holds a segment id, R + 256 G + 65536 B; the JSON file gives the category of
each segment. Files that contradict each other are refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.data import images
from pdl_jax.data.json_fields import get_field
from pdl_jax.evaluation.files.panoptic_files import (
    FilePair,
    FilePath,
    PanopticFiles,
    get_file_name,
)
from pdl_jax.storage.outside_files import read_outside_file

# Segment id of pixels without annotation or prediction.
_VOID_ID = 0
# Python's JSON parser accepts NaN, Infinity and integers that no float holds.
_MAX_SCORE = 1e300


class FileOverlap(NamedTuple):
    """Labelled segments G and predicted segments D of one image, and the N pairs that overlap.

    Attributes:
      label_class: i64[G], class of the label, the row of its category.
      label_area: i64[G], area of the label in pixels.
      stated_area: f64[G], area stated in the label file.
      is_crowd: bool[G], true for crowd regions.
      predicted_class: i64[D], class of the prediction.
      area: i64[D], area of the prediction in pixels.
      score: f64[D], confidence of the prediction; 1 if the file states none.
      row, column, shared: i64[N], label, prediction and the pixels that they share; row G and
        column D are void.
      num_pixels: number of pixels of the image.
      num_scored: number of predicted things with a score in the file.
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
    # The sums in f64 are exact: they are integers below 2**53.
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
    """PNG of an image and the segments that the JSON file lists for it.

    Args:
      kind: 'label' or 'prediction'.
      folder: folder of the PNGs.
      annotation: entry of the image in the JSON file.
      class_of_category: class of each category id.

    Attributes:
      where: name of the PNG in error messages.
      segments: entries of segments_info, not checked beyond id and category.
      ids: i64[S], ids of the segments.
      classes: i64[S], classes of the segments.

    Raises:
      ValueError: an id or a category is malformed, unknown or repeated.
    """

    def __init__(
        self,
        kind: str,
        folder: FilePath,
        annotation: Mapping[str, Any],
        class_of_category: Mapping[int, int],
    ) -> None:
        name = get_file_name(annotation, f'{kind} of image {annotation["image_id"]!r}')
        self.where = f'{kind} PNG {folder / name}'
        self._path = folder / name
        self._described = f'segments_info of the {kind} {name}'
        segments = get_field(annotation, 'segments_info', list, f'{kind} of {name}')
        self.segments = segments
        ids, classes = [], []
        # Id 0 is void in labels, but the id of a segment in the predictions of some programs.
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
                    f'{where} (id {segment_id}): category_id {category} is not among the '
                    f'categories of the label file: use the ids that it lists'
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

    def decode(self) -> np.ndarray:
        """Decodes the PNG to segment ids i32[H, W]."""
        try:
            data = read_outside_file(self._path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'{self.where} does not exist: check that the folder belongs to the JSON file'
            ) from error
        return images.decode_ids(data, name=self.where)

    def find_rows(self, ids: np.ndarray) -> np.ndarray:
        """Finds the row of each id [N] among the segments: i64[N], S for void."""
        known = np.append(self.ids, _VOID_ID)
        # The sort is stable, so that a predicted segment of id 0 comes before void.
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

    def check_areas(self, areas: np.ndarray) -> None:
        """Refuses segments without pixels, given areas i64[S]."""
        if not areas.all():
            segment_id = self.ids[np.argmin(areas)]
            raise ValueError(
                f'{self._described}: segment id {segment_id} has no pixel in {self.where}: remove '
                f'it from segments_info or repair the PNG'
            )

    def get_area(self, segment: Mapping[str, Any]) -> float:
        """Reads the stated area of a labelled segment, in pixels."""
        area = get_field(segment, 'area', (int, float), self._described)
        if not 0 < area <= images.MAX_PIXELS:
            raise ValueError(
                f'{self._described}: area {area} of segment id {segment["id"]} must be its number '
                f'of pixels, 1 .. {images.MAX_PIXELS}'
            )
        return area

    def get_crowd(self, segment: Mapping[str, Any]) -> int:
        """Reads the crowd flag of a labelled segment, 0 or 1."""
        is_crowd = get_field(segment, 'iscrowd', int, self._described)
        if is_crowd not in (0, 1):
            raise ValueError(
                f'{self._described}: iscrowd {is_crowd} of segment id {segment["id"]} must be 0 '
                f'or 1'
            )
        return is_crowd

    def get_score(self, segment: Mapping[str, Any]) -> float:
        """Reads the score of a predicted segment, 1 if none is stated."""
        if 'score' not in segment:
            return 1.0
        score = get_field(segment, 'score', (int, float), self._described)
        if not -_MAX_SCORE < score < _MAX_SCORE:
            raise ValueError(
                f'{self._described}: score {score} of segment id {segment["id"]} must be finite'
            )
        return score


def _find_runs(labels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides two flat maps into runs in which neither changes.

    A run averages dozens of pixels, so that sorting runs is much cheaper than sorting pixels.

    Returns:
      Label, id and number of pixels of each run.
    """
    is_start = np.ones(len(ids), bool)
    np.not_equal(labels[1:], labels[:-1], out=is_start[1:])
    is_start[1:] |= ids[1:] != ids[:-1]
    starts = np.flatnonzero(is_start)
    return labels[starts], ids[starts], np.diff(starts, append=len(ids))


def _add(index: np.ndarray, values: np.ndarray, num: int) -> np.ndarray:
    """Sums values by index: i64[num]; index `num`, void, is left out."""
    return np.bincount(index, values, minlength=num + 1)[:num].astype(np.int64)
