"""Gradients of a large batch from the gradients of its parts, one after the other, in the memory of one part."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pdl_jax.ops.placement import split_rows
from pdl_jax.typing import Array, PyTree


def accumulate_gradients(
    gradient: Callable[[PyTree, PyTree, PyTree, Array], Any], num_parts: int
) -> Callable[[PyTree, PyTree, PyTree, Array], Any]:
    """Makes a function that computes gradients in parts of the batch.

    Losses, terms and gradients are the means over the parts, so they are those of the whole batch where each image counts alike
    (LossOptions.scope 'image') and does not see the others: BatchNorm that is not frozen normalises each part by itself and
    updates its running statistics after each, and dropout draws anew for each.

    Args:
      gradient: (params, batch_stats, samples, dropout_key) -> ((loss, (terms, batch_stats)), gradients), as
        `jax.value_and_grad` makes it.
      num_parts: of equal size.

    Returns:
      A function like `gradient`.
    """

    def run(params, batch_stats, samples, dropout_key):
        def add_part(carry, part):
            batch_stats, totals = carry
            samples, key = part
            (loss, (terms, batch_stats)), gradients = gradient(
                params, batch_stats, split_rows(samples), key
            )
            return (batch_stats, jax.tree.map(jnp.add, totals, (loss, terms, gradients))), None

        parts = (
            jax.tree.map(lambda x: _split(x, num_parts), samples),
            jax.random.split(dropout_key, num_parts),
        )
        first = jax.tree.map(lambda x: x[0], parts)
        (loss, (terms, _)), gradients = jax.eval_shape(gradient, params, batch_stats, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, terms, gradients))
        (batch_stats, totals), _ = jax.lax.scan(add_part, (batch_stats, zeros), parts)
        loss, terms, gradients = jax.tree.map(lambda x: x / num_parts, totals)
        return (loss, (terms, batch_stats)), gradients

    return run


def _split(x, num_parts):
    """[B, ...] as [num_parts, B / num_parts, ...]: part i is every num_parts-th row from i, so that rows stay where they are."""
    return jnp.swapaxes(x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:]), 0, 1)
