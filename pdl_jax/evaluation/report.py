"""The report of an evaluation: JSON values, a table, one number to compare checkpoints by."""

import json
from typing import Any

import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.storage.paths import make_path, write_whole

_GROUPS = ('All', 'Things', 'Stuff')


def make_report(values: dict[str, Any], spec: DatasetSpec, *, num_images: int) -> dict[str, Any]:
    """Brings computed metrics into JSON values.

    Args:
      values: 'miou' and, of a network with instances, 'pq' and perhaps 'pc' and 'ap': what the metrics' `compute` returned.
      spec: names of the classes.
      num_images: that were scored.

    Returns:
      'pq': {'All', 'Things', 'Stuff': {'pq', 'sq', 'rq' in [0, 1], 'n' classes averaged}, 'per_class': {class name: ...}},
      None of a semantic network; 'miou' and 'pixel_accuracy' in [0, 1], 'iou_per_class', 'num_images'; where they are among the
      values 'pc' as 'pq', and 'ap' with the averages of `coco_ap` or `cityscapes_ap`. None where nothing is averaged.
    """
    names = spec.class_names
    quality = None
    if 'pq' in values:
        quality = {group: _to_json(values['pq'][group]) for group in _GROUPS}
        quality['per_class'] = _list_classes(values['pq']['per_class'], names)
    extra = {}
    for key in ('pc', 'ap'):
        if key in values:
            averages = {
                name: _to_json(value) for name, value in values[key].items() if name != 'per_class'
            }
            extra[key] = {**averages, 'per_class': _list_classes(values[key]['per_class'], names)}
    iou = values['miou']['per_class']
    return {
        'pq': quality,
        'miou': _to_json(values['miou']['miou']),
        'pixel_accuracy': _to_json(values['miou']['pixel_accuracy']),
        'iou_per_class': {names[i]: _to_json(iou['iou'][i]) for i in np.flatnonzero(iou['valid'])},
        **extra,
        'num_images': num_images,
    }


def find_score(report: dict[str, Any]) -> float:
    """What checkpoints are compared by: PQ, or mIoU of a semantic network; 0 where nothing is averaged."""
    quality = report['pq']
    return (report['miou'] if quality is None else quality['All']['pq']) or 0.0


def format_report(report: dict[str, Any]) -> str:
    """The report as a table, in percent as papers print it."""

    def percent(value):
        return '     -' if value is None else f'{100 * value:6.1f}'

    quality = report['pq']
    overall = [
        f'{"mIoU":24} | {percent(report["miou"])}',
        f'{"pixel accuracy":24} | {percent(report["pixel_accuracy"])}',
    ]
    if 'pc' in report:
        overall += [
            f'{"PC " + group:24} | {percent(report["pc"][group]["pc"])}' for group in _GROUPS
        ]
    if 'ap' in report:
        overall += [
            f'{key.upper():24} | {percent(value)}'
            for key, value in report['ap'].items()
            if key != 'per_class'
        ]
    if quality is None:
        lines = [f'{"class":24} |    IoU']
        lines += [
            f'{name[:24]:24} | {percent(iou)}' for name, iou in report['iou_per_class'].items()
        ]
        return '\n'.join([*overall, *lines])
    lines = [f'{"":24} |     PQ     SQ     RQ |      n']
    for group in _GROUPS:
        row = ' '.join(percent(quality[group][key]) for key in ('pq', 'sq', 'rq'))
        lines.append(f'{group:24} | {row} | {quality[group]["n"]:6d}')
    lines += overall
    lines.append(f'{"":24} |     PQ     SQ     RQ |     TP     FP     FN |    IoU')
    for name, row in quality['per_class'].items():
        rates = ' '.join(percent(row[key]) for key in ('pq', 'sq', 'rq'))
        counts = ' '.join(f'{row[key]:6d}' for key in ('tp', 'fp', 'fn'))
        iou = percent(report['iou_per_class'].get(name))
        lines.append(f'{name[:24]:24} | {rates} | {counts} | {iou}')
    return '\n'.join(lines)


def write_report(report: dict[str, Any], path: str) -> None:
    """Writes the report as JSON, replacing an older one at once."""
    path = make_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f'{json.dumps(report, indent=2)}\n'.encode())


def _list_classes(arrays, names):
    """Arrays [C] as a dict of numbers for each class that is averaged."""
    return {
        names[i]: {key: _to_json(array[i]) for key, array in arrays.items() if key != 'valid'}
        for i in np.flatnonzero(arrays['valid'])
    }


def _to_json(value):
    """NumPy numbers to Python's, NaN to None, through dicts."""
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    value = value.item() if hasattr(value, 'item') else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
