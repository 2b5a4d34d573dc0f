"""Feature maps whose rows are split over devices."""

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from pdl_jax.typing import Array

# With one row a device XLA's partitioner computes wrong gradients of 3x3 convolutions, or stops the process.
_MIN_ROWS_PER_DEVICE = 4


def are_rows_split() -> bool:
    """Inside jit, whether the mesh has several devices along 'space'."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape['space'] > 1


def gather_small_map(x: Array) -> Array:
    """Of [B, H, W, C] with few rows a device every device along 'space' gets all; other maps stay as they are."""
    if not are_rows_split():
        return x
    mesh = jax.sharding.get_abstract_mesh()
    if x.shape[1] >= _MIN_ROWS_PER_DEVICE * mesh.shape['space'] or x.shape[0] % mesh.shape['data']:
        return x
    return lax.with_sharding_constraint(x, P('data'))


def split_map(x: Array) -> Array:
    """Of [B, H, W, C] every device along 'space' gets its rows, however few."""
    mesh = jax.sharding.get_abstract_mesh()
    if not are_rows_split() or x.shape[0] % mesh.shape['data']:
        return x
    return lax.with_sharding_constraint(x, P('data', 'space'))
