"""The analysis of a run's evaluation, collected while it goes on."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pdl_jax.data.images import show_channels
from pdl_jax.data.records import RecordSource
from pdl_jax.evaluation.analysis.analysis import (
    AnalyzedClasses,
    ImageScore,
    make_analysis,
    score_image,
)
from pdl_jax.evaluation.analysis.causes import JudgedSegments, judge_segments
from pdl_jax.evaluation.analysis.segments import read_table
from pdl_jax.evaluation.gallery import (
    Painter,
    Ranking,
    Shot,
    list_error_colors,
    list_pictures,
    make_shot,
)
from pdl_jax.runtime.processes import gather_bytes
from pdl_jax.typing import Array


class RunAnalysis:
    """Collects the images of one pass over a split; all processes see all tables.

    Args:
      source: the split.
      has_instances: false for a semantic network.
    """

    def __init__(self, source: RecordSource, *, has_instances: bool) -> None:
        spec = source.spec
        self._has_instances = has_instances
        self._format = spec.label_format
        self._is_thing = self._format.thing_table()
        self._classes = AnalyzedClasses(
            spec.class_names, spec.class_names, self._is_thing[: spec.num_classes]
        )
        self._painter = Painter(
            self._format, spec.class_names, spec.make_palette(), has_instances=has_instances
        )
        self._segments: dict[int, JudgedSegments] = {}
        self._scores: dict[int, ImageScore] = {}
        self._ranking = Ranking()
        self._shots: dict[int, Shot] = {}
        self._confusion = np.zeros((0, 0), np.int64)
        self._file_names: Mapping[int, str] = {}

    def add(
        self,
        tables: Mapping[str, np.ndarray],
        predictions: Array,
        batch: Mapping[str, np.ndarray],
    ) -> None:
        """Adds a batch.

        Args:
          tables: arrays [B, ...] of the global batch, see `metrics.image_tables.describe_images`,
            and 'record' i32[B], -1 for padding.
          predictions: i32[B, H, W], global; only what is shown is fetched.
          batch: the rows of this process, see `data.pipeline`.
        """
        rows = np.flatnonzero(tables['record'] >= 0)
        for row in rows.tolist():
            record = int(tables['record'][row])
            score = self._score({key: array[row] for key, array in tables.items()}, record)
            self._scores[record] = score
            if score.score is not None:
                self._ranking.offer(record, score.score)
        self._shots = {key: shot for key, shot in self._shots.items() if key in self._ranking}
        for row in rows.tolist():
            record = int(tables['record'][row])
            if record in self._ranking:
                self._take(record, row, tables, predictions, batch)

    def complete(self, confusion: np.ndarray, file_names: Mapping[int, str]) -> None:
        """Adds what is known at the end.

        Args:
          confusion: i64[C, C + 1], see `SemanticIoU`.
          file_names: names of the records that this process has read.
        """
        self._confusion, self._file_names = confusion, file_names

    def describe(self) -> dict[str, Any]:
        """Makes the analysis, see `make_analysis`, with the pictures of `gallery`.

        All processes must call this.
        """
        confusion, file_names = self._confusion, self._file_names
        chosen = [record for _, record, _ in self._ranking.list_chosen()]
        panels = {r: self._painter.draw(self._shots[r]) for r in chosen if r in self._shots}
        names: dict[int, str] = {}
        drawn: dict[int, dict[str, str]] = {}
        for data in gather_bytes(json.dumps([list(file_names.items()), list(panels.items())])):
            their_names, their_panels = json.loads(data)
            names |= dict(their_names)
            drawn |= dict(their_panels)
        records = sorted(self._scores)
        images = [self._scores[r]._replace(file_name=names[r]) for r in records]
        segments = [self._segments[r] for r in records] if self._has_instances else None
        analysis = make_analysis(self._classes, confusion, images, segments)
        pictures = list_pictures(self._ranking, drawn, names)
        return {**analysis, 'pictures': pictures, 'error_colors': list_error_colors()}

    def _score(self, table: Mapping[str, np.ndarray], record: int) -> ImageScore:
        """Scores the image of a table, arrays [S, ...], and keeps its segments."""
        if not self._has_instances:
            labelled, right = int(table['num_labelled']), int(table['num_right'])
            return ImageScore('', right / labelled if labelled else None, 0, 0, 0)
        divisor = self._format.label_divisor
        image = read_table(table, is_thing=self._is_thing, label_divisor=divisor)
        judged = self._segments[record] = judge_segments(image)
        return score_image('', judged, num_classes=self._format.num_classes)

    def _take(
        self,
        record: int,
        row: int,
        tables: Mapping[str, np.ndarray],
        predictions: Array,
        batch: Mapping[str, np.ndarray],
    ) -> None:
        """Keeps what is shown of an image, if its pixels are in this process."""
        own = np.flatnonzero(batch['record'] == record)
        prediction = _fetch_row(predictions, row)
        if not len(own) or prediction is None:
            return
        height, width = batch['size'][own[0]]
        scores = {}
        if self._has_instances:
            ids, values = tables['id'][row].tolist(), tables['score'][row].tolist()
            scores = {i: v for i, v in zip(ids, values, strict=True) if math.isfinite(v)}
        self._shots[record] = make_shot(
            show_channels(batch['image'][own[0], :height, :width]),
            batch['panoptic'][own[0], :height, :width],
            prediction[:height, :width],
            scores,
        )


def _fetch_row(array: Array, row: int) -> np.ndarray | None:
    """Fetches one row of a global array that is split along rows; None if it is elsewhere."""
    for shard in array.addressable_shards:
        start, stop, _ = shard.index[0].indices(array.shape[0])
        if start <= row < stop:
            # An index of a device array would be compiled.
            return np.asarray(shard.data)[row - start]
    return None
