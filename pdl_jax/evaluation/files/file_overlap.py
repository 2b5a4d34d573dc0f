"""Segments of a label file and of a prediction, and the pixels that they share; NumPy only.

Each pixel of a PNG holds a segment id, R + 256 G + 65536 B; the JSON file gives the category of
each segment. Files that contradict each other are refused.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.data.json_fields import get_field, to_integer
from pdl_jax.data.notices import Notices
from pdl_jax.data.segment_ids import decode_segment_ids
from pdl_jax.data.segments_info import list_segments, parse_segments
from pdl_jax.evaluation.files.panoptic_files import FileEntry, FilePair, FilePath, PanopticFiles
from pdl_jax.storage.json_files import describe_value
from pdl_jax.storage.outside_files import read_outside_file

# Segment id of pixels without annotation or prediction.
_VOID_ID = 0
# Python's JSON parser accepts integers that no float holds.
_MAX_SCORE = 1e300


class FileOverlap(NamedTuple):
    """Labelled segments G and predicted segments D of one image, and the N pairs that overlap.

    Attributes:
      label_class: i64[G], class of the label, the row of its category.
      label_area: i64[G], area of the label in pixels.
      is_crowd: bool[G], true for crowd regions.
      predicted_class: i64[D], class of the prediction.
      area: i64[D], area of the prediction in pixels.
      score: f64[D], confidence of the prediction; 1 if the file states none.
      is_scored: bool[D], true if the file states one.
      row, column, shared: i64[N], label, prediction and the pixels that they share; row G and
        column D are void.
      num_pixels: number of pixels of the image.
    """

    label_class: np.ndarray
    label_area: np.ndarray
    is_crowd: np.ndarray
    predicted_class: np.ndarray
    area: np.ndarray
    score: np.ndarray
    is_scored: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shared: np.ndarray
    num_pixels: int


def load_overlap(files: PanopticFiles, pair: FilePair, notices: Notices) -> FileOverlap:
    """Reads the two PNGs of an image and counts the pixels that segments share.

    Args:
      files: folders and categories.
      pair: the image.
      notices: collection of remarks about what was derived or repaired.

    Raises:
      FileNotFoundError: a PNG is missing.
      ValueError: a file is damaged, or PNG and JSON contradict each other.
    """
    label = Segmentation('label', files.label_dir, pair.label, files, notices)
    prediction = Segmentation('prediction', files.prediction_dir, pair.prediction, files, notices)
    label_ids, ids = label.decode(), prediction.decode()
    if label_ids.shape != ids.shape:
        raise ValueError(
            f'{prediction.where} has {ids.shape[0]}x{ids.shape[1]} pixels (height x width), its '
            f'label {label_ids.shape[0]}x{label_ids.shape[1]}: predict at the size of the label'
        )
    label_runs, runs, lengths = _find_runs(label_ids.ravel(), ids.ravel())
    label.drop_covered(label_runs)
    prediction.drop_covered(runs)
    row, column = label.find_rows(label_runs), prediction.find_rows(runs)

    num_labels, num_predictions = len(label.segments), len(prediction.segments)
    pairs, index = np.unique(row * (num_predictions + 1) + column, return_inverse=True)
    # The sums in f64 are exact: they are integers below 2**53.
    shared = np.bincount(index, lengths, minlength=len(pairs)).astype(np.int64)
    row, column = np.divmod(pairs, num_predictions + 1)
    label_area = _add(row, shared, num_labels)
    label.tell_of_other_areas(label_area)

    scores = prediction.read_scores()
    return FileOverlap(
        label_class=label.get_classes(),
        label_area=label_area,
        is_crowd=np.array([s.is_crowd for s in label.segments], bool),
        predicted_class=prediction.get_classes(),
        area=_add(column, shared, num_predictions),
        score=np.array([scores.get(s.id, 1.0) for s in prediction.segments], np.float64),
        is_scored=np.array([s.id in scores for s in prediction.segments], bool),
        row=row,
        column=column,
        shared=shared,
        num_pixels=label_ids.size,
    )


class Segmentation:
    """PNG of an image and the segments that the JSON file lists for it.

    Args:
      kind: 'label' or 'prediction'.
      folder: folder of the PNGs.
      entry: the image.
      files: gives the categories.
      notices: collection of remarks about what was derived or repaired.

    Attributes:
      where: name of the PNG in error messages.
      segments: the segments, with unique ids.

    Raises:
      ValueError: a segment is malformed or contradicts another one.
    """

    def __init__(
        self,
        kind: str,
        folder: FilePath,
        entry: FileEntry,
        files: PanopticFiles,
        notices: Notices,
    ) -> None:
        self.where = f'{kind} PNG {folder / entry.png}'
        self._kind = kind
        self._path = folder / entry.png
        self._described = f'segments_info of the {kind} {entry.png}'
        self._annotations = entry.annotations
        self._notices = notices
        self._class_of_category = {c: i for i, c in enumerate(files.categories.ids)}
        self.segments = parse_segments(
            entry.annotations,
            self._class_of_category,
            origin='the label file',
            needs_area=kind == 'label',
            needs_crowd=kind == 'label',
            notices=notices,
        )
        self._tell_of_divided_stuff(files)

    def decode(self) -> np.ndarray:
        """Decodes the PNG to segment ids i32[H, W]."""
        try:
            data = read_outside_file(self._path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'{self.where} does not exist: check that the folder belongs to the JSON file'
            ) from error
        known = [segment.id for segment in self.segments]
        ids, wording = decode_segment_ids(data, known=known, name=self.where)
        if wording:
            self._notices.add(f'{self._kind} PNGs {wording}', self._path.name)
        return ids

    def drop_covered(self, ids: np.ndarray) -> None:
        """Leaves out the segments that have no pixel among the ids [N] of the PNG."""
        present = set(np.unique(ids).tolist())
        covered = [s.id for s in self.segments if s.id not in present]
        if covered and len(covered) == len(self.segments):
            raise ValueError(
                f'{self._described}: none of the {len(covered)} segments has a pixel in '
                f'{self.where}, first id {covered[0]}: check that the folder belongs to the JSON '
                f'file'
            )
        if covered:
            text = f'segments of {self._kind}s have no pixel in their PNG: left out'
            self._notices.add(text, f'id {covered[0]} in {self._path.name}', len(covered))
            self.segments = tuple(s for s in self.segments if s.id in present)

    def find_rows(self, ids: np.ndarray) -> np.ndarray:
        """Finds the row of each id [N] among the segments: i64[N], S for void."""
        known = np.array([s.id for s in self.segments] + [_VOID_ID], np.int64)
        # The sort is stable, so that a segment of id 0 comes before void.
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

    def get_classes(self) -> np.ndarray:
        """Returns the classes of the segments, i64[S]."""
        classes = [self._class_of_category[s.category_id] for s in self.segments]
        return np.array(classes, np.int64)

    def tell_of_other_areas(self, areas: np.ndarray) -> None:
        """Tells of segments that state another area than their number of pixels, i64[S]."""
        for segment, area in zip(self.segments, areas.tolist(), strict=True):
            if segment.area_px is not None and segment.area_px != area:
                text = (
                    'labelled segments state an area that is not their number of pixels: the '
                    'pixels count'
                )
                example = f'id {segment.id} in {self._path.name}, {segment.area_px} for {area}'
                self._notices.add(text, example)

    def read_scores(self) -> dict[int, float]:
        """Reads the scores of predicted segments by id, as far as there are any."""
        scores: dict[int, float] = {}
        listed = [item for where, v in self._annotations for item in list_segments(v, where)]
        for item in listed:
            segment_id = to_integer(item['id'])
            if segment_id is not None and item.get('score') is not None:
                scores.setdefault(segment_id, self._get_score(item))
        return scores

    def _get_score(self, item: Mapping[str, Any]) -> float:
        score = get_field(item, 'score', (int, float), self._described)
        # Python's integers may exceed all floats.
        if not (abs(score) < _MAX_SCORE and math.isfinite(score)):
            raise ValueError(
                f'{self._described}: score {describe_value(score)} of segment id {item["id"]} must '
                f'be finite'
            )
        return score

    def _tell_of_divided_stuff(self, files: PanopticFiles) -> None:
        is_thing = files.categories.is_thing
        counts = collections.Counter(s.category_id for s in self.segments if not s.is_crowd)
        for category, count in counts.items():
            row = self._class_of_category[category]
            if count > 1 and not is_thing[row]:
                text = (
                    f'times a {self._kind} has several segments of one stuff class: each counts, '
                    f'as in panopticapi; give them one id to join them'
                )
                example = f'{files.categories.names[row]!r} in {self._path.name}'
                self._notices.add(text, example)


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
