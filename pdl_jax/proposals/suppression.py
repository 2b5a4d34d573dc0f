"""Greedy suppression of overlapping boxes with a fixed number of results."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array


def suppress_overlaps(
    boxes: Array,
    valid: Array,
    measure_iou: Callable[[Array, Array], Array],
    *,
    max_overlap: float,
    num_kept: int,
) -> tuple[Array, Array]:
    """Keeps the best boxes that do not overlap better ones.

    Args:
      boxes: f32[N, D], the best first.
      valid: bool[N].
      measure_iou: computes the IoU of f32[D] with f32[N, D].
      max_overlap: a box whose IoU with a better one that is kept exceeds this is dropped.
      num_kept: number of boxes at most.

    Returns:
      i32[num_kept], the rows that are kept, the best first; bool[num_kept], false for surplus rows.
    """

    def keep(step: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        left, rows, kept = state
        # Boxes are sorted, so the best one left is the first one.
        row = jnp.argmax(left)
        rows, kept = rows.at[step].set(row), kept.at[step].set(left[row])
        left = left & (measure_iou(boxes[row], boxes) <= max_overlap)
        # A box of no area overlaps not even itself.
        return left.at[row].set(False), rows, kept

    def is_unfinished(state: tuple[Array, tuple[Array, Array, Array]]) -> Array:
        step, (left, _, _) = state
        return (step < num_kept) & left.any()

    start = valid, jnp.zeros(num_kept, jnp.int32), jnp.zeros(num_kept, bool)
    _, (_, rows, kept) = lax.while_loop(
        is_unfinished, lambda state: (state[0] + 1, keep(*state)), (jnp.int32(0), start)
    )
    return rows, kept
