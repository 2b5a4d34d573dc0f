"""The report of a file evaluation: a dict of fractions for JSON, and the table that is printed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdl_jax.evaluation.files.panoptic_files import Categories
from pdl_jax.metrics import averages

GROUPS = ('All', 'Things', 'Stuff')
_QUALITY = ('pq', 'sq', 'rq')


def report_quality(sums: Mapping[str, np.ndarray], categories: Categories) -> dict[str, Any]:
    """Panoptic quality of the sums that `file_counts.count_quality` names."""
    result = averages.average_quality(**sums, **_group(categories))
    per_class = by_category(result['per_class'], (*_QUALITY, 'tp', 'fp', 'fn'), categories)
    return {'pq': {**result, 'per_class': per_class}}


def report_iou(sums: Mapping[str, np.ndarray], categories: Categories) -> dict[str, Any]:
    """Mean IoU of the sums that `file_counts.count_pixels` names."""
    result = averages.average_iou(**sums)
    rows = by_category(result['per_class'], ('iou',), categories, is_undefined_none=True)
    return {
        'miou': result['miou'],
        'pixel_accuracy': result['pixel_accuracy'],
        'iou_per_class': {category: row['iou'] for category, row in rows.items()},
    }


def report_covering(sums: Mapping[str, np.ndarray], categories: Categories) -> dict[str, Any]:
    """Parsing covering of the sums that `file_counts.count_covering` names."""
    result = averages.average_covering(**sums, **_group(categories))
    per_class = by_category(result['per_class'], ('pc',), categories, is_undefined_none=True)
    return {'pc': {**result, 'per_class': per_class}}


def report_precision(precision: Mapping[str, Any], categories: Categories) -> dict[str, Any]:
    """Average precision as `coco_ap` or `cityscapes_ap` computed it; things only."""
    keys = ('ap', 'ap50')
    rows = by_category(precision['per_class'], keys, categories, is_undefined_none=True)
    things = [str(categories.ids[c]) for c in categories.thing_classes]
    return {'ap': {**precision, 'per_class': {category: rows[category] for category in things}}}


def by_category(
    arrays: Mapping[str, np.ndarray],
    keys: Sequence[str],
    categories: Categories,
    *,
    is_undefined_none: bool = False,
) -> dict[str, dict[str, Any]]:
    """Turns arrays [C] into a dict of Python numbers for each category id, which JSON spells as text.

    Args:
      arrays: `keys` and 'valid', false where a class is not averaged.
      keys: what to keep.
      categories: the classes.
      is_undefined_none: whether classes that are not averaged get None; panopticapi gives them 0.
    """
    return {
        str(category): {
            key: None if is_undefined_none and not arrays['valid'][c] else arrays[key][c].item()
            for key in keys
        }
        for c, category in enumerate(categories.ids)
    }


def format_table(report: Mapping[str, Any], categories: Categories) -> str:
    """The report in percent, as papers print it."""
    lines = []
    if 'pq' in report:
        lines.append(f'{"":24} |     PQ     SQ     RQ |      n')
        for group in GROUPS:
            row = report['pq'][group]
            lines.append(f'{group:24} | {_percents(row, _QUALITY)} | {row["n"]:6d}')
    if 'miou' in report:
        lines.append(f'{"mIoU":24} | {_percents(report, ("miou",))}')
    if 'pc' in report:
        lines += [f'PC {g:21} | {_percents(report["pc"][g], ("pc",))}' for g in GROUPS]
    if 'ap' in report:
        names = [key for key in report['ap'] if key != 'per_class']
        lines += [f'{name.upper():24} | {_percents(report["ap"], (name,))}' for name in names]
    columns = [
        (title, rows, key)
        for title, rows, key in (
            ('PQ', report.get('pq', {}).get('per_class'), 'pq'),
            ('SQ', report.get('pq', {}).get('per_class'), 'sq'),
            ('RQ', report.get('pq', {}).get('per_class'), 'rq'),
            ('AP', report.get('ap', {}).get('per_class'), 'ap'),
            ('PC', report.get('pc', {}).get('per_class'), 'pc'),
        )
        if rows is not None
    ]
    if 'iou_per_class' in report:
        iou = {category: {'iou': value} for category, value in report['iou_per_class'].items()}
        columns.append(('IoU', iou, 'iou'))
    lines.append(f'{"":24} | ' + ' '.join(f'{title:>6}' for title, _, _ in columns))
    for category, name in zip(categories.ids, categories.names, strict=True):
        cells = ' '.join(_percents(rows.get(str(category), {}), (key,)) for _, rows, key in columns)
        lines.append(f'{name[:24]:24} | {cells}')
    return '\n'.join(lines)


def _group(categories):
    return {
        'thing_classes': categories.thing_classes,
        'stuff_classes': categories.stuff_classes,
    }


def _percents(row, keys):
    values = (row.get(key) for key in keys)
    return ' '.join('     -' if value is None else f'{100 * value:6.1f}' for value in values)
