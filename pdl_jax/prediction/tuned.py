"""Options that `pdl_jax evaluate --tune` found for a checkpoint, in a file of its own beside it.

    CHECKPOINT/tuned.json    {"values": {"center_threshold": 0.3}, "split": "val", ...}

The file is written in one step and is no part of the checkpoint's checksums, so neither a search
that is cut short nor a second one can damage the checkpoint.
"""

import json
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from pdl_jax.experiment import Experiment
from pdl_jax.storage.json_files import parse_json
from pdl_jax.storage.paths import explain_bucket_errors, write_whole

_NAME = 'tuned.json'


def write_tuned(checkpoint: epath.Path, values: Mapping[str, Any], **origin: Any) -> epath.Path:
    """Writes the options found for a checkpoint; replaces those of an earlier search.

    Args:
      checkpoint: the folder of one step.
      values: see `SystemOptions.with_inference`.
      **origin: where they come from, as JSON values.

    Returns:
      The file.

    Raises:
      OSError: the file cannot be written.
    """
    path = checkpoint / _NAME
    write_whole(path, f'{json.dumps({"values": dict(values), **origin}, indent=1)}\n'.encode())
    return path


def copy_tuned(checkpoint: epath.Path, target: epath.Path) -> None:
    """Copies the options found for a checkpoint, if any, to another one of the same variables.

    Raises:
      OSError: the file cannot be read or written.
    """
    path = checkpoint / _NAME
    if path.exists():
        write_whole(target / _NAME, path.read_bytes())


def use_tuned(experiment: Experiment, checkpoint: epath.Path) -> Experiment:
    """Sets the options that were found for a checkpoint, if any, and says so.

    Raises:
      ValueError: the file holds something else; the message names it.
    """
    path = checkpoint / _NAME
    with explain_bucket_errors(path):
        if not path.exists():
            return experiment
        content = path.read_bytes()
    try:
        tuned = parse_json(content, source=_NAME)
        values = dict(tuned['values'])
        experiment = experiment.with_inference(values)
        origin = f'{tuned["metric"]} {tuned["before"]:.1%} -> {tuned["after"]:.1%}'
        split = str(tuned['split'])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{path} does not hold options of this network: {type(error).__name__}: {error}; '
            f'delete it, or write it anew with `pdl_jax evaluate --tune`'
        ) from error
    logging.info('%s, tuned on %s (%s)', format_values(values), split, origin)
    return experiment


def format_values(values: Mapping[str, Any]) -> str:
    """Writes options as words, such as 'center_threshold 0.3, nms_kernel_px 7'."""
    return ', '.join(f'{name} {value}' for name, value in values.items())
