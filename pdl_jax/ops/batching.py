"""What vmap shall decide for a batch as a whole."""

import jax
import jax.numpy as jnp

from pdl_jax.typing import Array


@jax.custom_batching.custom_vmap
def max_of_batch(x: Array) -> Array:
    """The largest value of a vmapped batch, or whether one is true, for all its images; outside of vmap the value itself.

    With a loop bound or a condition per image vmap would run both branches of a condition, and ask after every step of a loop
    whether any image goes on, which is a collective where the batch is sharded, and select between old and new state.
    """
    return x


@max_of_batch.def_vmap
def _max_of_batch_rule(axis_size, in_batched, x):
    del axis_size
    return jnp.max(x, 0) if in_batched[0] else x, False
