"""The numbers of an evaluation that a checkpoint carries, so that it tells its quality itself."""

import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from pdl_jax.storage.integrity import METRICS_FILE, read_json
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES
from pdl_jax.storage.json_files import read_json as read_json_file
from pdl_jax.storage.paths import explain_bucket_errors

_GROUPS = {'All': '', 'Things': '_things', 'Stuff': '_stuff'}


def summarize_report(report: Mapping[str, Any]) -> dict[str, float]:
    """Lists the averages of an evaluation's report.

    Args:
      report: see `evaluation.report.make_report`; any JSON object is taken.

    Returns:
      Those that are there of 'pq', 'sq', 'rq' and 'pc' of all classes, of '..._things' and of
      '..._stuff', 'ap', 'ap50', 'miou', 'pixel_accuracy', 'top1', 'top5', each in [0, 1], and
      'num_images'.
    """
    own = ('miou', 'pixel_accuracy', 'top1', 'top5', 'num_images')
    found: dict[str, Any] = {name: report.get(name) for name in own}
    for metric, keys in (('pq', ('pq', 'sq', 'rq')), ('pc', ('pc',))):
        groups = _get_object(report, metric)
        for group, suffix in _GROUPS.items():
            row = _get_object(groups, group)
            found |= {f'{key}{suffix}': row.get(key) for key in keys}
    averages = _get_object(report, 'ap')
    found |= {name: averages.get(name) for name in ('ap', 'ap50')}
    return {name: value for name, value in found.items() if _is_number(value)}


def read_metrics(checkpoint: epath.Path) -> dict[str, float]:
    """Reads the numbers of a checkpoint, see `summarize_report`; empty where it has none.

    Raises:
      ValueError: they are damaged.
      OSError: they cannot be read now.
    """
    with explain_bucket_errors(checkpoint):
        if not (checkpoint / METRICS_FILE / METRICS_FILE).exists():
            return {}
    values = _get_object(read_json(checkpoint, METRICS_FILE, METRICS_FILE), 'metrics')
    return {str(name): value for name, value in values.items() if _is_number(value)}


def find_metrics(checkpoint: epath.Path) -> dict[str, float]:
    """Finds the numbers of a checkpoint: its own, or those that `evaluate` wrote to its workdir.

    Raises:
      ValueError, OSError: see `read_metrics`.
    """
    if metrics := read_metrics(checkpoint):
        return metrics
    file = checkpoint.parent.parent / f'report_{checkpoint.name}.json'
    with explain_bucket_errors(file):
        if not file.exists():
            return {}
    return summarize_report(read_json_file(file, max_bytes=MAX_DESCRIPTION_BYTES))


def _get_object(values: Any, key: str) -> Mapping[str, Any]:
    value = values.get(key) if isinstance(values, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
