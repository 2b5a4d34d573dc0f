"""Reading of metrics.jsonl, the log of a run; needs no JAX."""

import json
import os
from collections.abc import Iterator
from typing import Any

from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file
from pdl_jax.storage.paths import make_path

LOG_NAME = 'metrics.jsonl'


def read_log(workdir: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the steps and values of a run's log, in its order; nothing without a log.

    Lines that are no JSON objects with a step are left out: a killed run leaves half a line.

    Args:
      workdir: local or gs://.

    Raises:
      ValueError: the log is no regular file, or too large.
      OSError: it cannot be read.
    """
    path = make_path(workdir) / LOG_NAME
    if not path.exists():
        return
    text = read_outside_file(path, max_bytes=MAX_JSON_BYTES).decode(errors='replace')
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and type(values.get('step')) is int:
            yield values['step'], values
