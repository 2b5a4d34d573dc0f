"""The report of score files, by category id as the official programs have it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdl_jax.evaluation.files.panoptic_files import Categories
from pdl_jax.evaluation.report import convert_metrics
from pdl_jax.metrics import averages

# Values of categories that are not averaged: zeros in panopticapi, null elsewhere.
_UNDEFINED = {
    'pq': {'pq': 0.0, 'sq': 0.0, 'rq': 0.0, 'tp': 0, 'fp': 0, 'fn': 0},
    'pc': {'pc': None},
    'ap': {'ap': None, 'ap50': None},
}


def average_sums(
    metric: str, sums: Mapping[str, np.ndarray], categories: Categories
) -> dict[str, Any]:
    """Averages over categories what `file_counts` counted.

    Args:
      metric: 'pq', 'miou' or 'pc'.
      sums: sums over images of what `count_quality`, `count_pixels` or `count_covering` returns.
      categories: categories of the label file.

    Returns:
      The result of `averages.average_quality`, `average_iou` or `average_covering`.
    """
    if metric == 'miou':
        return averages.average_iou(**sums)
    average = averages.average_quality if metric == 'pq' else averages.average_covering
    return average(
        **sums, thing_classes=categories.thing_classes, stuff_classes=categories.stuff_classes
    )


def make_file_report(
    values: Mapping[str, Any], categories: Categories, *, num_images: int, notes: Sequence[str]
) -> dict[str, Any]:
    """Makes the report of score files.

    Args:
      values: any of 'pq', 'miou', 'pc' and 'ap', see `report.convert_metrics`.
      categories: categories of the label file.
      num_images: number of images scored.
      notes: remarks for readers of the numbers.

    Returns:
      The values of `report.convert_metrics` by category id; all categories are listed, in 'ap' all
      things. 'num_images' and 'notes' as given.
    """
    report = convert_metrics(values, categories.keys)
    things = [categories.keys[c] for c in categories.thing_classes]
    for metric, undefined in _UNDEFINED.items():
        if metric in report:
            rows = report[metric]['per_class']
            listed = things if metric == 'ap' else categories.keys
            report[metric]['per_class'] = {key: rows.get(key, dict(undefined)) for key in listed}
    if 'iou_per_class' in report:
        iou = report['iou_per_class']
        report['iou_per_class'] = {key: iou.get(key) for key in categories.keys}
    return {**report, 'num_images': num_images, 'notes': list(notes)}
