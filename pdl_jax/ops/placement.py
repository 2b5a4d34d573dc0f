"""Placement of arrays on the mesh from inside jit: replicated, per device, rows split over 'space'.

The mesh is the one of `jax.set_mesh`; without one every function here leaves arrays as they are.
"""

from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from pdl_jax.typing import Array, PyTree

# With one row per device XLA's partitioner computes wrong gradients of 3x3 convolutions or aborts.
_MIN_ROWS_PER_DEVICE = 4


def replicate(x: PyTree) -> PyTree:
    """Replicates whole arrays on every device, such as parameters that are stored in pieces."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return lax.with_sharding_constraint(x, P())


def map_per_device(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Makes each device run a function of batches on its own images, without communication.

    Otherwise a loop whose length depends on the data would reduce over all devices before every
    pass. Devices along 'space' repeat each other's work.

    Args:
      function: maps pytrees of arrays [B, ...] to a pytree of arrays [B, ...], image by image.

    Returns:
      A function of the same arguments and result. It calls `function` on the whole batch if there
      is no mesh or the devices along 'data' do not divide B.
    """

    def run(*batches: PyTree) -> PyTree:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or jax.tree.leaves(batches)[0].shape[0] % mesh.shape['data']:
            return function(*batches)
        return jax.shard_map(function, in_specs=P('data'), out_specs=P('data'), check_vma=False)(
            *batches
        )

    return run


def split_rows(x: PyTree) -> PyTree:
    """Splits the batch of arrays [B, H, ...] over 'data' and their image rows over 'space'."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, P('data', 'space')), x)


def are_rows_split() -> bool:
    """Tells if the mesh has several devices along 'space'."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape['space'] > 1


def gather_small_map(x: Array) -> Array:
    """Replicates [B, H, W, C] over 'space' if it has too few rows per device; else returns it."""
    if not are_rows_split():
        return x
    mesh = jax.sharding.get_abstract_mesh()
    if x.shape[1] >= _MIN_ROWS_PER_DEVICE * mesh.shape['space'] or x.shape[0] % mesh.shape['data']:
        return x
    return lax.with_sharding_constraint(x, P('data'))


def split_map(x: Array) -> Array:
    """Splits the rows of [B, H, W, C] over 'space', however few, if there are several devices.

    Unlike `split_rows` it adds no constraint to a program without row splitting, nor to a batch
    that the devices along 'data' do not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not are_rows_split() or x.shape[0] % mesh.shape['data']:
        return x
    return lax.with_sharding_constraint(x, P('data', 'space'))
