"""A checkpoint without the state of its training."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.trained import read_trained
from pdl_jax.prediction.tuned import copy_tuned
from pdl_jax.storage.checkpoint import FOLDER, check_output, find_checkpoint, make_absolute
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.integrity import read_score
from pdl_jax.storage.metrics import find_metrics
from pdl_jax.storage.scores import SCORES
from pdl_jax.storage.variables import restore_variables


def pack(
    path: str, output: str, *, step: int | str | None = None, dtype: str = 'float32'
) -> epath.Path:
    """Writes the variables of a checkpoint as one of the same step.

    Args:
      path: a workdir or one step of it; local or gs://.
      output: the workdir to write.
      step: see `find_checkpoint`.
      dtype: type of arrays with more than one axis. Scales, biases and statistics take little
        space, and variances may leave the range of float16.

    Returns:
      The folder of the new checkpoint.

    Raises:
      FileExistsError: `output` holds checkpoints already.
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint is damaged, needs code of the user's own, or has a kernel that
        `dtype` cannot hold; or `output` is an address that cannot be written.
      OSError: the checkpoint could not be written.
    """
    check_output(output)
    checkpoint = find_checkpoint(path, step)
    trained = read_trained(checkpoint)
    system = trained.experiment.make_system(trained.spec.label_format)
    variables = restore_variables(checkpoint, abstract_variables(system))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: _cast(jax.tree_util.keystr(path), x, dtype), variables
    )
    metrics = find_metrics(checkpoint)
    score = read_score(checkpoint)
    if score is None:
        # It was evaluated after it was saved.
        score = next((metrics[name] for name in SCORES if name in metrics), None)
    checkpointer = Checkpointer(output, keep=1)
    number = int(checkpoint.name)
    checkpointer.save(
        variables,
        step=number,
        input_position={},
        description=_without_paths(trained.description),
        score=score,
        metrics=metrics,
    )
    checkpointer.close()
    packed = make_absolute(output) / FOLDER / str(number)
    copy_tuned(checkpoint, packed)
    return packed


def _without_paths(description: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out folders of this machine: of the data, the initial weights and the teacher."""
    config = dict(description['config'])
    name = os.path.basename(config['data']['path'].rstrip('/'))
    config['data'] = {**config['data'], 'path': f'data/{name}'}
    config['model'] = {**config['model'], 'init_checkpoint': ''}
    if 'distill' in config:
        config['distill'] = {**config['distill'], 'teacher': ''}
    return {**description, 'config': config}


def _cast(name: str, x: np.ndarray, dtype: str) -> Any:
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    with np.errstate(over='ignore'):
        cast = x.astype(jnp.dtype(dtype))
    if not np.isfinite(cast.astype(np.float32)).all():
        raise ValueError(f'{name} has values that {dtype} cannot hold: choose --dtype=bfloat16')
    return cast
