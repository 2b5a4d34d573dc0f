"""Probabilities of given classes in bilinearly upsampled logits, without the full-size logits.

Two implementations give the same: gathers, and on TPU, where they are slow, sums over all classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.logit_blocks import match_labels, run_blocks, weigh_window
from pdl_jax.ops.resize import find_neighbours
from pdl_jax.ops.row_blocks import Rows, map_row_blocks
from pdl_jax.typing import Array


def probability_of_labels(
    logits: Array, semantic: Array, probability: Array, labels: Array, mode: str
) -> Array:
    """Computes the probability of given classes per pixel of upsampled logits.

    It is probability * exp(logit of the label - highest logit), so that the softmax need not be
    normalised again, and exactly `probability` where the label is the most likely class.

    Args:
      logits: f32[B, h, w, C].
      semantic, probability: i32 and f32[B, height, width], the result of `classify_pixels`.
      labels: i32[B, height, width], classes in [0, C).
      mode: see `resize.resize_bilinear`.

    Returns:
      f32[B, height, width].
    """
    size = (labels.shape[1], labels.shape[2])
    if logits.shape[1:3] == size:
        difference = lax.platform_dependent(
            logits, labels, semantic, tpu=_compare_by_selection, default=_compare_by_gathers
        )
        return probability * jnp.exp(difference)

    def work(
        compare: Callable[..., Array],
        window: Array,
        rows: Rows,
        semantic: Array,
        probability: Array,
        labels: Array,
    ) -> Array:
        # The vote overrules few pixels, and none at all in many blocks.
        return lax.cond(
            jnp.any(labels != semantic),
            lambda: probability * jnp.exp(compare(window, rows, labels, semantic, mode)),
            lambda: probability,
        )

    maps = semantic, probability, labels
    functions = _compare_upsampled_by_gathers, _compare_upsampled_by_selection
    return run_blocks(
        map_row_blocks, work, *functions, logits, maps, size, mode, gpu_function=functions[0]
    )


def _compare_by_gathers(logits: Array, labels: Array, others: Array) -> Array:
    """Returns the logit of each pixel's label minus that of its other label."""

    def pick(classes: Array) -> Array:
        return jnp.take_along_axis(logits, classes[..., None], axis=-1)[..., 0]

    return pick(labels) - pick(others)


def _compare_by_selection(logits: Array, labels: Array, others: Array) -> Array:
    """Equals `_compare_by_gathers`."""
    classes = jnp.arange(logits.shape[-1])

    def pick(wanted: Array) -> Array:
        return jnp.sum(logits, axis=-1, where=wanted[..., None] == classes)

    return pick(labels) - pick(others)


def _compare_upsampled_by_gathers(
    window: Array, rows: Rows, labels: Array, others: Array, mode: str
) -> Array:
    """Compares two logits per pixel of a block."""
    _, height, width, num_classes = window.shape
    low, high, fraction = find_neighbours(width, labels.shape[2], mode)
    flat = window.reshape(window.shape[0], -1)

    def pick(classes: Array) -> Array:
        def blend(row: Array) -> Array:
            below, above = (
                jax.vmap(jnp.take)(flat, (row[:, None] * width + column) * num_classes + classes)
                for column in (low, high)
            )
            return below + (above - below) * fraction

        below, above = blend(rows['low']), blend(rows['high'])
        return below + (above - below) * rows['fraction'][:, None]

    return pick(labels) - pick(others)


def _compare_upsampled_by_selection(
    window: Array, rows: Rows, labels: Array, others: Array, mode: str
) -> Array:
    """Equals `_compare_upsampled_by_gathers`."""
    values = weigh_window(window, rows['weights'], labels.shape[2], mode)

    def pick(classes: Array) -> Array:
        return jnp.sum(values, axis=1, where=match_labels(classes, 0, values.shape[1]))

    return pick(labels) - pick(others)
