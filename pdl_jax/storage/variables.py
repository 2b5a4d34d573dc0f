"""The variables of a checkpoint, without the rest of the training state."""

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pdl_jax.storage.checkpoint import check_structure, read_structure
from pdl_jax.storage.integrity import explain_damage
from pdl_jax.typing import PyTree


def restore_variables(
    checkpoint: epath.Path,
    abstract_variables: PyTree,
    sharding: jax.sharding.Sharding | None = None,
) -> PyTree:
    """Reads variables: the averaged ones if the run kept them, else those of the newest step.

    Args:
      checkpoint: the folder of one checkpoint, see `find_checkpoint`.
      abstract_variables: {'params', 'batch_stats'} of ShapeDtypeStructs, or a part of that tree;
        nothing else is read.
      sharding: placement of the arrays on devices; None returns NumPy arrays.

    Returns:
      The same tree of arrays.

    Raises:
      ValueError: the checkpoint belongs to another architecture or class count, or is damaged.
    """
    structure = read_structure(checkpoint)
    has_average = any(name.startswith('ema_variables/') for name in structure)
    wanted = {'ema_variables': abstract_variables} if has_average else abstract_variables
    check_structure(wanted, structure, checkpoint, is_partial=True)
    if sharding is None:
        arguments = jax.tree.map(
            lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), wanted
        )
    else:
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted
        )
        arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    with explain_damage(checkpoint / 'state'):
        restored = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
            checkpoint / 'state',
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True),
        )
    return restored['ema_variables'] if has_average else restored
