"""The report of an evaluation: JSON values, a table, and the score that ranks checkpoints.

Runs and score files share it. Nothing here imports JAX, so that scoring files starts at once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pdl_jax.data.catalog import DatasetSpec

_GROUPS = ('All', 'Things', 'Stuff')
QUALITY = ('pq', 'sq', 'rq')
COUNTS = ('tp', 'fp', 'fn')
# Columns of the table of classes: (metric, key of its rows), in groups divided by a bar.
CLASS_COLUMNS = (
    tuple(('pq', key) for key in QUALITY),
    tuple(('pq', key) for key in COUNTS),
    (('ap', 'ap'), ('pc', 'pc'), ('iou', 'iou'), ('accuracy', 'accuracy')),
)
# Their titles, where they are not the keys in capitals.
CLASS_TITLES = {'iou': 'IoU', 'accuracy': 'top-1'}


def make_report(
    values: Mapping[str, Any],
    spec: 'DatasetSpec',
    *,
    num_images: int,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes the report of a run's evaluation.

    Args:
      values: results of the metrics' `compute`: 'miou', 'pq' if the network has instances, or
        'accuracy' if it labels whole images, and optionally 'pc', 'ap', 'loss' and 'computation'.
      spec: description of the dataset, for the names of the classes.
      num_images: number of images scored.
      warnings: what a reader must know of the labels, see `data.statistics.find_warnings`.

    Returns:
      The values of `convert_metrics` by class name, with 'pq' None without instances, 'loss'
      with its 'total' and its terms if it was computed, 'computation' of an adaptive network (see
      `ComputationMean.compute`), 'num_images' and 'warnings'. Where one
      class has all labelled pixels, a constant answer is right everywhere, so 'miou' and
      'pixel_accuracy' are None.
    """
    scores = dict(values)
    terms = {key: _to_json(value) for key, value in scores.pop('loss', {}).items()}
    # A system that does not tell has the total of no terms.
    losses = {'loss': terms} if len(terms) > 1 else {}
    spent = {'computation': _to_json(scores.pop('computation'))} if 'computation' in scores else {}
    metrics = convert_metrics(scores, spec.class_names)
    if 'miou' in scores and scores['miou']['num_labelled'] < 2:
        metrics |= {'miou': None, 'pixel_accuracy': None, 'iou_per_class': {}}
    return {
        'pq': None,
        **metrics,
        **losses,
        **spent,
        'num_images': num_images,
        'warnings': list(warnings),
    }


def convert_metrics(values: Mapping[str, Any], class_keys: Sequence[str]) -> dict[str, Any]:
    """Converts computed metrics to JSON values; None where nothing is averaged.

    Args:
      values: any of 'pq', 'miou', 'pc', 'ap' and 'accuracy', as `averages`, `coco_ap`,
        `cityscapes_ap` or `ClassAccuracy` returns it: arrays [C] in 'per_class', averages beside
        it.
      class_keys: key of each class.

    Returns:
      'pq': {'All', 'Things', 'Stuff': {'pq', 'sq', 'rq' in [0, 1], 'n' classes averaged},
        'per_class': {key: {'pq', 'sq', 'rq', 'tp', 'fp', 'fn'}}}; 'pc' likewise;
      'miou', 'pixel_accuracy' in [0, 1] and 'iou_per_class';
      'ap': averages of `coco_ap` or `cityscapes_ap`, and 'per_class';
      'top1', 'top5' in [0, 1] and 'accuracy_per_class'.
      Only the classes that are averaged are listed.
    """
    report = {}
    for metric, value in values.items():
        per_class = _list_classes(value['per_class'], class_keys)
        if metric == 'miou':
            report['miou'] = _to_json(value['miou'])
            report['pixel_accuracy'] = _to_json(value['pixel_accuracy'])
            report['iou_per_class'] = {key: row['iou'] for key, row in per_class.items()}
        elif metric == 'accuracy':
            report |= {key: _to_json(value[key]) for key in ('top1', 'top5')}
            report['accuracy_per_class'] = {k: row['accuracy'] for k, row in per_class.items()}
        else:
            averages = {key: _to_json(item) for key, item in value.items() if key != 'per_class'}
            report[metric] = {**averages, 'per_class': per_class}
    return report


def find_score(report: Mapping[str, Any]) -> float:
    """Returns the score that ranks checkpoints, 0 if undefined.

    That is PQ, mIoU without instances, or top-1 accuracy of whole images.
    """
    quality = report['pq']
    score = report.get('top1', report.get('miou')) if quality is None else quality['All']['pq']
    return score or 0.0


def format_report(report: Mapping[str, Any], class_names: Mapping[str, str] | None = None) -> str:
    """Formats a report as a table, in percent as papers print it.

    Classes without any value are left out.

    Args:
      report: any part of what `convert_metrics` returns; classes that are not averaged may have
        values of None, or 'tp', 'fp' and 'fn' of 0.
      class_names: name of each class by its key in the report; None if the keys are names.
    """
    warnings = [f'warning: {text}' for text in report.get('warnings', ())]
    return '\n'.join([*_format_averages(report), *_format_classes(report, class_names), *warnings])


def write_report(report: Mapping[str, Any], path: str, *, indent: int | None = 2) -> None:
    """Writes the report as JSON; an existing file is replaced in one step.

    Args:
      report: the JSON values.
      path: path of the file, local or gs://; missing directories are made.
      indent: spaces per level; None writes one line.

    Raises:
      ImportError: a gs:// path without the package that reads buckets.
      OSError: the file cannot be written.
    """
    # etils is a good part of the start of `pdl_jax score`, which often writes no file.
    from pdl_jax.storage.paths import make_path, write_whole

    file = make_path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f'{json.dumps(report, indent=indent)}\n'.encode())


def _format_averages(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if report.get('pq') is not None:
        lines.append(f'{"":24} | {_join(key.upper() for key in QUALITY)} | {"n":>6}')
        for group in _GROUPS:
            row = report['pq'][group]
            lines.append(f'{group:24} | {_join(_percent(row[k]) for k in QUALITY)} | {row["n"]:6d}')
    if 'miou' in report:
        lines.append(f'{"mIoU":24} | {_percent(report["miou"])}')
        lines.append(f'{"pixel accuracy":24} | {_percent(report["pixel_accuracy"])}')
    if 'top1' in report:
        for key, name in (('top1', 'top-1 accuracy'), ('top5', 'top-5 accuracy')):
            lines.append(f'{name:24} | {_percent(report[key])}')
    if 'loss' in report:
        words = {k: '-' if v is None else f'{v:.4g}' for k, v in report['loss'].items()}
        total = words.pop('total')
        terms = ', '.join(f'{name} {word}' for name, word in words.items())
        lines.append(f'{"loss":24} | {total:>6} = {terms}')
    if 'computation' in report:
        lines += _format_computation(report['computation'])
    if 'pc' in report:
        lines += [f'{"PC " + g:24} | {_percent(report["pc"][g]["pc"])}' for g in _GROUPS]
    if 'ap' in report:
        names = [key for key in report['ap'] if key != 'per_class']
        lines += [f'{name.upper():24} | {_percent(report["ap"][name])}' for name in names]
    return lines


def _format_computation(computation: Mapping[str, Any]) -> list[str]:
    flops, dense = (computation[key] / 1e9 for key in ('flops', 'dense_flops'))
    lines = [f'{"GFLOPs per image":24} | {flops:6.4g} of {dense:.4g}, {flops / dense:.1%}']
    for group, value in computation['ponder'].items():
        lines.append(f'{"ponder cost, " + group.lower():24} | {_number(value)}')
    return lines


def _number(value: float | None) -> str:
    return '     -' if value is None else f'{value:6.2f}'


def _format_classes(report: Mapping[str, Any], class_names: Mapping[str, str] | None) -> list[str]:
    tables = list_tables(report)
    groups = [[c for c in group if c[0] in tables] for group in CLASS_COLUMNS]
    groups = [group for group in groups if group]
    if not groups:
        return []
    titles = [_join(CLASS_TITLES.get(key, key.upper()) for _, key in g) for g in groups]
    lines = [' | '.join([f'{"class":24}', *titles])]
    for class_key in dict.fromkeys(key for rows in tables.values() for key in rows):
        cells = [
            _join(_format_cell(tables[metric].get(class_key, {}), key) for metric, key in group)
            for group in groups
        ]
        name = class_key if class_names is None else class_names[class_key]
        lines.append(' | '.join([f'{name[:24]:24}', *cells]))
    return lines


def list_tables(report: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Lists the rows of each metric by class, without the classes that are not averaged."""
    tables = {}
    # Mean IoU has most classes, so that it comes first and decides their order.
    if 'iou_per_class' in report:
        iou = report['iou_per_class']
        tables['iou'] = {key: {'iou': value} for key, value in iou.items() if value is not None}
    if 'accuracy_per_class' in report:
        accuracy = report['accuracy_per_class']
        tables['accuracy'] = {key: {'accuracy': value} for key, value in accuracy.items()}
    if report.get('pq') is not None:
        rows = report['pq']['per_class']
        tables['pq'] = {key: row for key, row in rows.items() if any(row[c] for c in COUNTS)}
    for metric in ('pc', 'ap'):
        if metric in report:
            rows = report[metric]['per_class']
            tables[metric] = {key: row for key, row in rows.items() if row[metric] is not None}
    return tables


def _format_cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return f'{value:6d}' if key in COUNTS and value is not None else _percent(value)


def _percent(value: float | None) -> str:
    return '     -' if value is None else f'{100 * value:6.1f}'


def _join(cells: Iterable[str]) -> str:
    return ' '.join(f'{cell:>6}' for cell in cells)


def _list_classes(
    arrays: Mapping[str, np.ndarray], class_keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Converts arrays [C] to a dict of numbers for each class that is averaged."""
    return {
        class_keys[i]: {key: _to_json(array[i]) for key, array in arrays.items() if key != 'valid'}
        for i in np.flatnonzero(arrays['valid']).tolist()
    }


def _to_json(value: Any) -> Any:
    """Converts NumPy numbers to Python's and NaN to None, also inside dicts."""
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    value = value.item() if hasattr(value, 'item') else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
