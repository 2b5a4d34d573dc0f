"""The runs below a folder and what became of them, from their logs and checkpoints.

Nothing here needs JAX, and nothing in a workdir is trusted or changed.
"""

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from pdl_jax.storage.config_changes import flatten
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, read_json
from pdl_jax.storage.paths import explain_bucket_errors, make_path
from pdl_jax.storage.scores import SCORES
from pdl_jax.training.log_file import LOG_NAME, read_log

_CHECKPOINTS = 'checkpoints'
# Levels of folders below the given one that are looked into.
_MAX_DEPTH = 3
# Fields that say where a run's files are, or how much it prints.
_UNTOLD = re.compile(r'data\.(path|num_workers)|train\.(log|picture)_every_steps')
_FIELD_NAME = re.compile(r'\w+(\.\w+)*')
_MAX_SHOWN_FIELDS = 6


@dataclasses.dataclass(frozen=True)
class PastRun:
    """A run.

    Attributes:
      name: its folder, relative to the one that was listed; '.' for this one itself.
      step: its last logged or saved step; None if it got nowhere.
      num_steps: steps that its configuration asks for; None without a checkpoint.
      best_step, pq, top1, miou: the evaluation with the best PQ, or top-1 accuracy of a classifier,
        or mIoU of a semantic network; scores in [0, 1].
      loss: the last logged one of training.
      age_seconds: time since its log or its newest checkpoint was written.
      fields: the fields of its configuration, such as 'train.num_steps'.
      damage: the reason if a part of it cannot be read; '' otherwise.
    """

    name: str
    step: int | None = None
    num_steps: int | None = None
    best_step: int | None = None
    pq: float | None = None
    top1: float | None = None
    miou: float | None = None
    loss: float | None = None
    age_seconds: float | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    damage: str = ''

    @property
    def score(self) -> float | None:
        """PQ, or without it top-1 accuracy or mIoU."""
        return next((x for x in (self.pq, self.top1, self.miou) if x is not None), None)


def list_runs(folder: str | os.PathLike) -> list[PastRun]:
    """Lists the runs in a folder and in the folders below it, the best score first.

    Args:
      folder: local or gs://; itself a run, or up to three levels above some.

    Raises:
      FileNotFoundError: there is no such folder, or no run in it.
    """
    root = make_path(folder)
    with explain_bucket_errors(root):
        if not root.is_dir():
            raise FileNotFoundError(f'{root} is no folder: give the folder that holds the runs')
        runs = [_read_run(path, name) for path, name in _find_workdirs(root, '', 0)]
    if not runs:
        raise FileNotFoundError(
            f'no run in {root}: a run is a folder with {LOG_NAME} or {_CHECKPOINTS}/'
        )
    return sorted(runs, key=lambda run: (-1.0 if run.score is None else -run.score - 1, run.name))


def find_differences(runs: Sequence[PastRun]) -> list[dict[str, Any]]:
    """Lists for each run its fields that not all runs with a configuration share."""
    configs = [run.fields for run in runs if run.fields]
    names = sorted({name for config in configs for name in config if not _UNTOLD.fullmatch(name)})
    different = [n for n in names if any(c.get(n) != configs[0].get(n) for c in configs)]
    return [{n: run.fields[n] for n in different if n in run.fields} for run in runs]


def format_runs(runs: Sequence[PastRun]) -> str:
    """Formats runs as a table, scores in percent."""
    titles = {'pq': 'PQ', 'miou': 'mIoU'}
    if any(run.top1 is not None for run in runs):
        titles['top1'] = 'top-1'
    rows = [('run', 'step', 'best', *titles.values(), 'loss', 'age', 'differences')]
    for run, differences in zip(runs, find_differences(runs), strict=True):
        words = [f'{name}={json.dumps(value)}' for name, value in differences.items()]
        if len(words) > _MAX_SHOWN_FIELDS:
            words[_MAX_SHOWN_FIELDS:] = [f'and {len(words) - _MAX_SHOWN_FIELDS} more (--json)']
        steps = _format(run.step, 'd')
        scores = [getattr(run, name) for name in titles]
        rows.append((
            _make_printable(run.name),
            steps if run.num_steps is None else f'{steps}/{run.num_steps}',
            _format(run.best_step, 'd'),
            *(_format(None if score is None else 100 * score, '.1f') for score in scores),
            _format(run.loss, '.4g'),
            '-' if run.age_seconds is None else _format_age(run.age_seconds),
            f'damaged: {run.damage}' if run.damage else ' '.join(words),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [f'{row[0]:{widths[0]}}']
        cells += [f'{cell:>{width}}' for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        lines.append('  '.join([*cells, row[-1]]).rstrip())
    return '\n'.join(lines)


def to_json(runs: Sequence[PastRun]) -> list[dict[str, Any]]:
    """Lists runs as JSON values, with their differences in the place of all their fields."""
    return [
        {
            **{
                field.name: getattr(run, field.name)
                for field in dataclasses.fields(run)
                if field.name != 'fields'
            },
            'differences': differences,
        }
        for run, differences in zip(runs, find_differences(runs), strict=True)
    ]


def _find_workdirs(folder: epath.Path, name: str, depth: int) -> Iterator[tuple[epath.Path, str]]:
    try:
        children = sorted(folder.iterdir())
    except PermissionError:
        return
    names = {child.name for child in children}
    if LOG_NAME in names or _CHECKPOINTS in names:
        yield folder, name or '.'
    elif depth < _MAX_DEPTH:
        for child in children:
            if not child.name.startswith('.') and child.is_dir():
                yield from _find_workdirs(child, f'{name}/{child.name}'.lstrip('/'), depth + 1)


def _read_run(workdir: epath.Path, name: str) -> PastRun:
    values: dict[str, Any] = {}
    checkpoints: list[epath.Path] = []
    damage = []
    try:
        values |= _summarize_log(workdir)
    except (OSError, ValueError) as error:
        damage.append(error)
    try:
        checkpoints = _list_checkpoints(workdir)
        if checkpoints:
            values |= _summarize_checkpoints(checkpoints, values)
    except (OSError, ValueError) as error:
        damage.append(error)
    if not values and not damage:
        damage = ['neither a log nor a checkpoint can be read']
    reason = _make_printable(' '.join(str(error) for error in damage))
    newest = [workdir / LOG_NAME, *checkpoints[:1]]
    return PastRun(name, **values, age_seconds=_find_age(newest), damage=reason)


def _summarize_log(workdir: epath.Path) -> dict[str, Any]:
    """Reads the last step and loss, and the best evaluation."""
    found: dict[str, Any] = {}
    for step, values in read_log(workdir):
        found['step'] = max(step, found.get('step', 0))
        found |= {'loss': loss} if (loss := _get_number(values, 'loss')) is not None else {}
        scores = {name: _get_number(values, f'eval/{name}') for name in SCORES}
        # A network with instances is ranked by PQ, also where one of its evaluations has none.
        pairs = [(scores[name], found.get(name)) for name in SCORES]
        new, old = next((pair for pair in pairs if pair != (None, None)), (None, None))
        if new is not None and (old is None or new > old):
            found |= {'best_step': step, **scores}
    return found


def _list_checkpoints(workdir: epath.Path) -> list[epath.Path]:
    """Lists the folders of checkpoints, the newest first."""
    folder = workdir / _CHECKPOINTS
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in paths if p.name.isdecimal()), key=lambda p: -int(p.name))


def _summarize_checkpoints(
    checkpoints: Sequence[epath.Path], logged: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads the configuration, and the best score if the log has none, as of a packed network."""
    values = _read_object(checkpoints[0] / 'description' / 'metadata')
    config = values.get('config', {})
    fields = flatten(config) if isinstance(config, dict) else {}
    fields = {key: value for key, value in fields.items() if _FIELD_NAME.fullmatch(key)}
    steps = fields.get('train.num_steps')
    found: dict[str, Any] = {
        'fields': fields,
        'num_steps': steps if type(steps) is int else None,
        'step': max(int(checkpoints[0].name), logged.get('step', 0)),
    }
    if logged.get('best_step') is not None:
        return found
    scores = {}
    for checkpoint in checkpoints:
        path = checkpoint / 'metrics' / 'metrics'
        values = _read_object(path) if path.exists() else {}
        score = _get_number(values, 'score')
        if score is not None:
            metrics = values.get('metrics')
            scores[score] = int(checkpoint.name), metrics if isinstance(metrics, dict) else {}
    if scores:
        best, metrics = scores[max(scores)]
        key = 'miou' if fields.get('model.has_instances') is False else 'pq'
        key = next((name for name in SCORES if name in metrics), key)
        found |= {'best_step': best, key: max(scores)}
    return found


def _read_object(path: epath.Path) -> dict[str, Any]:
    values = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
    if not isinstance(values, dict):
        raise ValueError(f'{path} holds no JSON object')
    return values


def _get_number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        # An integer of hundreds of digits.
        return None


def _find_age(paths: Sequence[epath.Path]) -> float | None:
    times = [path.stat().mtime for path in paths if path.exists()]
    return max(time.time() - max(times), 0.0) if times else None


def _format(value: float | None, spec: str) -> str:
    return '-' if value is None else format(value, spec)


def _format_age(seconds: float) -> str:
    for unit, size in (('d', 86400), ('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds:.0f} s'


def _make_printable(text: str) -> str:
    words = ' '.join(text.split())
    return ''.join(c if c.isprintable() else '?' for c in words)[:200]
