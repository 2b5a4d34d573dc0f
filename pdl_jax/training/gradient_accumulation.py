"""Gradients of a large batch, accumulated over its parts in the memory of one part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.typing import Array, PyTree

Gradient = Callable[[PyTree, PyTree, PyTree, Array], Any]


def accumulate_gradients(gradient: Gradient, num_parts: int) -> Gradient:
    """Makes a function that computes gradients in parts of the batch.

    Losses, terms and gradients are means over the parts. They equal those of the whole batch if
    each image counts alike (LossOptions.scope 'image') and does not depend on the others: BatchNorm
    that is not frozen normalises each part by itself and updates its running statistics after each,
    and dropout draws anew for each.

    Args:
      gradient: (params, batch_stats, samples, rng) -> ((loss, (terms, batch_stats)), gradients), as
        `jax.value_and_grad` makes it.
      num_parts: number of parts of equal size.

    Returns:
      A function like `gradient`.
    """

    def run(params: PyTree, batch_stats: PyTree, samples: PyTree, rng: Array) -> Any:
        def add_part(carry: PyTree, part: PyTree) -> tuple[PyTree, None]:
            batch_stats, totals = carry
            samples, key = part
            (loss, (terms, batch_stats)), gradients = gradient(
                params, batch_stats, split_rows(samples), key
            )
            return (batch_stats, jax.tree.map(jnp.add, totals, (loss, terms, gradients))), None

        parts = (
            jax.tree.map(lambda x: _split(x, num_parts), samples),
            jax.random.split(rng, num_parts),
        )
        first = jax.tree.map(lambda x: x[0], parts)
        (loss, (terms, _)), gradients = eval_shape(gradient, params, batch_stats, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, terms, gradients))
        (batch_stats, totals), _ = jax.lax.scan(add_part, (batch_stats, zeros), parts)
        loss, terms, gradients = jax.tree.map(lambda x: x / num_parts, totals)
        return (loss, (terms, batch_stats)), gradients

    return run


def _split(x: Array, num_parts: int) -> Array:
    """Reshapes [B, ...] to [num_parts, B / num_parts, ...].

    Part i is every num_parts-th row from i, so that rows stay on their devices.
    """
    return jnp.swapaxes(x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:]), 0, 1)
