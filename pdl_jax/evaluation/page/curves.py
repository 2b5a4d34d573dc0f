"""Learning curves of a run, from its metrics.jsonl."""

import json
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from pdl_jax.evaluation.page.charts import Curve, line_chart
from pdl_jax.evaluation.page.html import Html
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.paths import make_path

# More points than a chart has pixels make files large and lines no better.
_MAX_POINTS = 400
_MAX_BYTES = 2**28
# Name -> steps and values.
Scalars = dict[str, tuple[list[float], list[float]]]


def read_curves(workdir: str | os.PathLike) -> Scalars:
    """Reads the numbers that a run logged; none if it has no metrics.jsonl.

    Lines that cannot be read, such as one that a kill left half written, are skipped.

    Raises:
      ValueError: the file is no regular file, or too large.
    """
    path = make_path(workdir) / 'metrics.jsonl'
    if not path.exists():
        return {}
    scalars: Scalars = {}
    for line in read_outside_file(path, max_bytes=_MAX_BYTES).splitlines():
        values = _parse(line)
        step = values.pop('step', None)
        if not _is_number(step):
            continue
        for name, value in values.items():
            if isinstance(name, str) and _is_number(value):
                steps, numbers = scalars.setdefault(name, ([], []))
                steps.append(float(step))
                numbers.append(float(value))
    return scalars


def draw_curves(runs: Sequence[tuple[str, Scalars]]) -> list[Html]:
    """Draws the curves of one run, or of two, the second dashed: losses, scores, learning rate."""
    names = list(dict.fromkeys(name for _, scalars in runs for name in scalars))
    losses = [n for n in names if n.partition('_')[0] == 'loss']
    groups = (
        ('Loss of the training steps', sorted(losses, key=lambda n: (n != 'loss', n)), False),
        ('Loss of the eval split', [n for n in names if n.startswith('eval/loss')], False),
        (
            'Scores of the eval split (%)',
            [n for n in names if n.startswith('eval/') and not n.startswith('eval/loss')],
            True,
        ),
        ('Learning rate', ['learning_rate'], False),
    )
    charts = []
    for title, chosen, is_percent in groups:
        curves = [
            Curve(
                f'{name} of {run}' if len(runs) > 1 else name,
                *_thin(*scalars[name]),
                color=color,
                is_dashed=number > 0,
            )
            for color, name in enumerate(chosen)
            for number, (run, scalars) in enumerate(runs)
            if name in scalars
        ]
        if curves:
            is_loss = title.startswith('Loss')
            charts.append(line_chart(curves, title=title, is_percent=is_percent, is_loss=is_loss))
    return charts


def _thin(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """Averages neighbours until few enough points are left."""
    if len(steps) <= _MAX_POINTS:
        return steps, values
    parts = [np.array_split(np.asarray(x), _MAX_POINTS) for x in (steps, values)]
    last_steps = [float(part[-1]) for part in parts[0]]
    return last_steps, [float(part.mean()) for part in parts[1]]


def _parse(line: bytes) -> dict:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return dict(values) if isinstance(values, Mapping) else {}


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Python's integers may exceed all floats.
    return abs(value) < 1e300 and math.isfinite(value)
