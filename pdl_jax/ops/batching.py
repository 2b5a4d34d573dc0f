"""Batch-wide reductions under vmap, for loop bounds and branches."""

import jax
import jax.numpy as jnp

from pdl_jax.typing import Array


@jax.custom_batching.custom_vmap
def max_of_batch(x: Array) -> Array:
    """Returns the maximum of a vmapped batch (of booleans: any), and `x` itself outside of vmap.

    With a condition per image vmap would run both branches. With a loop bound per image it would
    test after every step if any image continues, which is a collective if the batch is sharded, and
    select between old and new state.
    """
    return x


@max_of_batch.def_vmap
def _max_of_batch_rule(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
    del axis_size
    return jnp.max(x, 0) if in_batched[0] else x, False
