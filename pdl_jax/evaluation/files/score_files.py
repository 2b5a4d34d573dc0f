"""Scores predictions in the COCO panoptic format against labels in the same format, from files.

    python -m pdl_jax.evaluation.files.score_files --gt_json=FILE --gt_folder=FOLDER \\
        --pred_json=FILE --pred_folder=FOLDER [--metrics=pq,miou,ap,pc] [--output=FILE.json]

Panoptic quality is that of panopticapi and of cityscapesscripts. --metrics chooses among

    pq    panoptic, segmentation and recognition quality
    miou  mean IoU of the classes; predicted void is a miss
    ap    average precision of things: of COCO, as pycocotools computes it, or of Cityscapes
          (--dataset=cityscapes); the score of a detection is the field 'score' of its entry in
          segments_info, 1 where there is none
    pc    parsing covering, areas taken as shares of the image

Prints a table in percent; --output writes fractions as JSON, null where nothing is averaged.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdl_jax.evaluation.files import file_counts, file_report
from pdl_jax.evaluation.files.file_overlap import FileOverlap, load_overlap
from pdl_jax.evaluation.files.panoptic_files import (
    Categories,
    FilePair,
    PanopticFiles,
    make_path,
    read_annotations,
)
from pdl_jax.metrics import cityscapes_ap, coco_ap
from pdl_jax.runtime import process_map

METRICS = ('pq', 'miou', 'ap', 'pc')
# Metrics that are sums over images: what counts an image and what reports the sums.
_SUMS = {
    'pq': (file_counts.count_quality, file_report.report_quality),
    'miou': (file_counts.count_pixels, file_report.report_iou),
    'pc': (file_counts.count_covering, file_report.report_covering),
}
_AP_RULES = {'coco': coco_ap, 'cityscapes': cityscapes_ap}
DATASETS = tuple(_AP_RULES)

# Fewer images are not worth the start of a process.
_IMAGES_PER_PROCESS = 16
_IMAGES_PER_TASK = 16


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What to do with every image.

    Attributes:
      files: where the images are.
      metrics: some of `METRICS`.
      dataset: one of `DATASETS`, whose rules average precision follows.
    """

    files: PanopticFiles
    metrics: tuple[str, ...]
    dataset: str


def evaluate_files(
    *,
    gt_json: str | os.PathLike,
    gt_folder: str | os.PathLike,
    pred_json: str | os.PathLike,
    pred_folder: str | os.PathLike,
    metrics: Sequence[str] = METRICS,
    dataset: str = 'coco',
    num_processes: int | None = None,
) -> tuple[dict[str, Any], Categories]:
    """Scores predictions.

    Args:
      gt_json, gt_folder: labels.
      pred_json, pred_folder: predictions, at least for every labelled image.
      metrics: some of `METRICS`.
      dataset: whose rules average precision follows, one of `DATASETS`.
      num_processes: at most so many; None for one a CPU core.

    Returns:
      The report, and the categories of the labels. The report holds 'num_images', 'notes' (texts
      on what readers of the numbers should know), and for each metric, in fractions, None where
      nothing is averaged:
      'pq': {'All', 'Things', 'Stuff': {'pq', 'sq', 'rq', 'n' classes averaged}, 'per_class':
        {category id: {'pq', 'sq', 'rq', 'tp', 'fp', 'fn'}}};
      'miou', 'pixel_accuracy' and 'iou_per_class';
      'ap': see `coco_ap.average_precision` or `cityscapes_ap.average_precision`;
      'pc': {'All', 'Things', 'Stuff': {'pc', 'n'}, 'per_class'}.

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
    files, pairs = read_annotations(
        label_json=gt_json,
        label_dir=gt_folder,
        prediction_json=pred_json,
        prediction_dir=pred_folder,
    )
    scoring = Scoring(files, tuple(metrics), dataset)
    tasks = [pairs[i : i + _IMAGES_PER_TASK] for i in range(0, len(pairs), _IMAGES_PER_TASK)]
    num_processes = min(num_processes or os.cpu_count() or 1, len(pairs) // _IMAGES_PER_PROCESS)
    # One worker alone would only add its start.
    num_workers = num_processes if num_processes > 1 else 0
    count = functools.partial(count_images, scoring)
    sums, matches = {}, []
    # The command itself runs no JAX, so its workers can be forked, which takes no time.
    is_forked = sys.platform == 'linux' and 'jax' not in sys.modules
    start_method = 'fork' if is_forked else 'spawn'
    with process_map.map_ordered(count, tasks, num_workers, start_method=start_method) as results:
        for task_sums, task_matches in results:
            sums = _add(sums, task_sums)
            matches.append(task_matches)

    categories = files.categories
    report = {}
    for metric in metrics:
        if metric in _SUMS:
            _, make_report = _SUMS[metric]
            report.update(make_report(_of(sums, metric), categories))
        else:
            rules = _AP_RULES[dataset]
            joined = rules.concatenate(matches, num_classes=len(categories.ids))
            precision = rules.average_precision(joined)
            report.update(file_report.report_precision(precision, categories))
    notes = _make_notes(_of(sums, 'notes'), has_scores='ap' in metrics)
    return {**report, 'num_images': len(pairs), 'notes': notes}, categories


def count_images(
    scoring: Scoring, pairs: Sequence[FilePair]
) -> tuple[dict[tuple[str, str], Any], Any]:
    """Counts some images.

    Returns:
      Sums over the images by (metric, name), and the `Matches` of average precision or None.
    """
    is_thing = scoring.files.categories.is_thing
    rules = _AP_RULES[scoring.dataset]
    num_classes = len(is_thing)
    sums, matches = {}, []
    for pair in pairs:
        image = load_overlap(scoring.files, pair)
        counts = _count_oddities(image, is_thing)
        for metric in scoring.metrics:
            if metric in _SUMS:
                count, _ = _SUMS[metric]
                values = count(image, num_classes=num_classes)
                counts.update({(metric, key): value for key, value in values.items()})
            else:
                instances = file_counts.select_instances(image, is_thing)
                matches.append(rules.match(instances, num_classes=num_classes))
        sums = _add(sums, counts)
    return sums, rules.concatenate(matches, num_classes=num_classes) if matches else None


def _add(sums, counts):
    return {key: sums.get(key, 0) + value for key, value in counts.items()}


def _of(sums, metric):
    return {key: value for (owner, key), value in sums.items() if owner == metric}


def _count_oddities(image: FileOverlap, is_thing: np.ndarray) -> dict[tuple[str, str], int]:
    is_detection = is_thing[image.predicted_class]
    return {
        ('notes', 'num_misstated'): int(np.sum(image.stated_area != image.label_area)),
        ('notes', 'num_detections'): int(is_detection.sum()),
        ('notes', 'num_unscored'): int(is_detection.sum()) - image.num_scored,
    }


def _make_notes(counts: dict[str, int], *, has_scores: bool) -> list[str]:
    notes = []
    if counts['num_misstated']:
        notes.append(
            f'{counts["num_misstated"]} labelled segments state an area that is not their number of '
            f'pixels: as in panopticapi the stated one counts'
        )
    if has_scores and counts['num_unscored']:
        notes.append(
            f'{counts["num_unscored"]} of {counts["num_detections"]} predicted things have no field '
            f'score in segments_info: they count as detections of score 1'
        )
    return notes


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `python -m pdl_jax.evaluation.files.score_files --help` lists the flags."""
    parser = argparse.ArgumentParser(
        prog='python -m pdl_jax.evaluation.files.score_files',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--gt_json', required=True, help='labels: the JSON file')
    parser.add_argument('--gt_folder', required=True, help='labels: the folder of PNGs')
    parser.add_argument('--pred_json', required=True, help='predictions: the JSON file')
    parser.add_argument('--pred_folder', required=True, help='predictions: the folder of PNGs')
    parser.add_argument(
        '--metrics',
        default=','.join(METRICS),
        help='separated by commas (default: %(default)s)',
    )
    parser.add_argument('--output', help='JSON file to write, local or gs://')
    parser.add_argument('--num_processes', type=int, help='default: one a CPU core')
    parser.add_argument(
        '--dataset',
        choices=DATASETS,
        default=DATASETS[0],
        help='whose average precision (default: %(default)s)',
    )
    flags = parser.parse_args(arguments)
    try:
        report, categories = evaluate_files(
            gt_json=flags.gt_json,
            gt_folder=flags.gt_folder,
            pred_json=flags.pred_json,
            pred_folder=flags.pred_folder,
            metrics=flags.metrics.split(','),
            dataset=flags.dataset,
            num_processes=flags.num_processes,
        )
        if flags.output:
            output = make_path(flags.output)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + '\n')
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f'error: {error}\n')
    print(file_report.format_table(report, categories))
    for note in report['notes']:
        print(f'note: {note}', file=sys.stderr)


if __name__ == '__main__':
    main()
