"""Scores of predictions in the COCO panoptic format against labels in the same format.

Panoptic quality is that of panopticapi and of cityscapesscripts, average precision that of
pycocotools or of cityscapesscripts. Nothing here imports JAX.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pdl_jax.data.notices import Notices
from pdl_jax.evaluation.analysis.causes import JudgedSegments, judge_segments
from pdl_jax.evaluation.files import file_counts
from pdl_jax.evaluation.files.file_analysis import FileAnalysis
from pdl_jax.evaluation.files.file_overlap import FileOverlap, load_overlap
from pdl_jax.evaluation.files.file_report import average_sums, make_file_report
from pdl_jax.evaluation.files.panoptic_files import (
    Categories,
    FilePair,
    PanopticFiles,
    read_annotations,
)
from pdl_jax.metrics import cityscapes_ap, coco_ap
from pdl_jax.runtime import process_map

METRICS = ('pq', 'miou', 'ap', 'pc')
# Metrics that are sums over images, with the function that counts an image.
_COUNT: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    'pq': file_counts.count_quality,
    'miou': file_counts.count_pixels,
    'pc': file_counts.count_covering,
}
_AP_RULES = {'coco': coco_ap, 'cityscapes': cityscapes_ap}
DATASETS = tuple(_AP_RULES)

# Fewer images do not repay the start of a process.
_IMAGES_PER_PROCESS = 16
_IMAGES_PER_TASK = 16

# (metric, 'notes' or 'analysis', name) -> sum over images.
_Sums = dict[tuple[str, str], Any]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Options that every image is scored with.

    Attributes:
      files: locations and categories of the images.
      metrics: some of `METRICS`.
      dataset: one of `DATASETS`, whose rules average precision follows.
      has_analysis: count also what the analysis needs.
    """

    files: PanopticFiles
    metrics: tuple[str, ...]
    dataset: str
    has_analysis: bool = False


def evaluate_files(
    *,
    gt_json: str | os.PathLike,
    gt_folder: str | os.PathLike,
    pred_json: str | os.PathLike,
    pred_folder: str | os.PathLike,
    metrics: Sequence[str] = METRICS,
    dataset: str = 'coco',
    num_processes: int | None = None,
    analysis: FileAnalysis | None = None,
) -> tuple[dict[str, Any], Categories]:
    """Scores predictions.

    Args:
      gt_json, gt_folder: JSON file and folder of PNGs of the labels.
      pred_json, pred_folder: the same for predictions, which must cover every labelled image.
      metrics: some of `METRICS`.
      dataset: one of `DATASETS`, whose rules average precision follows.
      num_processes: upper bound of the number of processes; None for one per CPU core.
      analysis: gets the segments of all images; None for none.

    Returns:
      The report, and the categories of the labels. The report has fractions, None where nothing is
      averaged:
      'pq': {'All', 'Things', 'Stuff': {'pq', 'sq', 'rq', 'n' classes averaged}, 'per_class':
        {category id: {'pq', 'sq', 'rq', 'tp', 'fp', 'fn'}}};
      'miou', 'pixel_accuracy' and 'iou_per_class';
      'ap': see `coco_ap.average_precision` or `cityscapes_ap.average_precision`;
      'pc': {'All', 'Things', 'Stuff': {'pc', 'n'}, 'per_class'};
      'num_images'; 'notes', a list of remarks for readers of the numbers.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: an option is unknown, or files are damaged or contradict each other; the message
        names file, field, value and remedy.
      RuntimeError: a process was killed.
    """
    if not metrics or not set(metrics) <= set(METRICS):
        raise ValueError(f'metrics {",".join(metrics)!r} must be some of {",".join(METRICS)}')
    if dataset not in DATASETS:
        raise ValueError(f'dataset {dataset!r} must be one of {",".join(DATASETS)}')
    notices = Notices()
    files, pairs = read_annotations(
        label_json=gt_json,
        label_dir=gt_folder,
        prediction_json=pred_json,
        prediction_dir=pred_folder,
        notices=notices,
    )
    scoring = Scoring(files, tuple(metrics), dataset, analysis is not None)
    sums, matches, segments = _count_all(scoring, pairs, num_processes, notices)
    categories, rules = files.categories, _AP_RULES[dataset]
    values = {}
    for metric in metrics:
        if metric in _COUNT:
            values[metric] = average_sums(metric, _select(sums, metric), categories)
        else:
            joined = rules.concatenate(matches, num_classes=len(categories.ids))
            values[metric] = rules.average_precision(joined)
    notes = [*notices.to_lines()]
    if 'ap' in metrics:
        notes += _make_notes(_select(sums, 'notes'))
    report = make_file_report(values, categories, num_images=len(pairs), notes=notes)
    if analysis is not None:
        analysis.finish(files, pairs, segments, sums['analysis', 'confusion'])
    return report, categories


def count_images(
    scoring: Scoring, pairs: Sequence[FilePair]
) -> tuple[_Sums, Any, list[JudgedSegments], Notices]:
    """Counts some images.

    Returns:
      Sums over the images by (metric, name), the `Matches` of average precision or None, the
      segments of each image if there is an analysis, and remarks about what was derived or
      repaired.
    """
    notices = Notices()
    is_thing = scoring.files.categories.is_thing
    rules = _AP_RULES[scoring.dataset]
    num_classes = len(is_thing)
    sums, matches, segments = {}, [], []
    for pair in pairs:
        image = load_overlap(scoring.files, pair, notices)
        counts: _Sums = _count_detections(image, is_thing)
        for metric in scoring.metrics:
            if metric in _COUNT:
                values = _COUNT[metric](image, num_classes=num_classes)
                counts.update({(metric, key): value for key, value in values.items()})
            else:
                instances = file_counts.select_instances(image, is_thing)
                matches.append(rules.match(instances, num_classes=num_classes))
        if scoring.has_analysis:
            listed = file_counts.list_segments(image, num_classes=num_classes)
            segments.append(judge_segments(listed))
            confusion = file_counts.count_confusion(image, num_classes=num_classes)
            counts['analysis', 'confusion'] = confusion
        sums = _add(sums, counts)
    joined = rules.concatenate(matches, num_classes=num_classes) if matches else None
    return sums, joined, segments, notices


def _count_all(
    scoring: Scoring, pairs: Sequence[FilePair], num_processes: int | None, notices: Notices
) -> tuple[_Sums, list[Any], list[JudgedSegments]]:
    """Counts all images, over processes if there are many; see `count_images`."""
    tasks = [pairs[i : i + _IMAGES_PER_TASK] for i in range(0, len(pairs), _IMAGES_PER_TASK)]
    num_processes = min(num_processes or os.cpu_count() or 1, len(pairs) // _IMAGES_PER_PROCESS)
    # A single worker would only add its start.
    num_workers = num_processes if num_processes > 1 else 0
    # Forking takes no time, and is safe only as long as JAX has no threads: `pdl_jax score` itself
    # runs no JAX.
    is_forked = sys.platform == 'linux' and 'jax' not in sys.modules
    start_method = 'fork' if is_forked else 'spawn'
    count = functools.partial(count_images, scoring)
    sums, matches, segments = {}, [], []
    with process_map.map_ordered(count, tasks, num_workers, start_method=start_method) as results:
        for task_sums, task_matches, task_segments, task_notices in results:
            sums = _add(sums, task_sums)
            matches.append(task_matches)
            segments += task_segments
            notices.merge(task_notices)
    return sums, matches, segments


def _add(sums: _Sums, counts: _Sums) -> _Sums:
    return {key: sums.get(key, 0) + value for key, value in counts.items()}


def _select(sums: _Sums, metric: str) -> dict[str, Any]:
    return {key: value for (owner, key), value in sums.items() if owner == metric}


def _count_detections(image: FileOverlap, is_thing: np.ndarray) -> _Sums:
    """Counts what the notes about average precision mention."""
    is_detection = is_thing[image.predicted_class]
    return {
        ('notes', 'num_detections'): int(is_detection.sum()),
        ('notes', 'num_unscored'): int(np.sum(is_detection & ~image.is_scored)),
    }


def _make_notes(counts: Mapping[str, int]) -> list[str]:
    if not counts['num_unscored']:
        return []
    return [
        f'{counts["num_unscored"]} of {counts["num_detections"]} predicted things have no field '
        f'score in segments_info: they count as detections of score 1'
    ]
