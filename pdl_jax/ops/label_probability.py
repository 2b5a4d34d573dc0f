"""Probabilities of given classes in bilinearly upsampled logits, without the full-size logits.

Two implementations give the same: gathers, and on TPU, where they are slow, sums over all classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.logit_blocks import match_labels, run_blocks, weigh_window
from pdl_jax.ops.platforms import by_platform, is_portable
from pdl_jax.ops.resize import find_neighbours, resize_bilinear
from pdl_jax.ops.row_blocks import Rows, map_row_blocks
from pdl_jax.ops.upsampled_logits import PixelClasses
from pdl_jax.typing import Array


def probability_of_labels(logits: Array, classes: PixelClasses, labels: Array, mode: str) -> Array:
    """Computes the probability of given classes per pixel of upsampled logits.

    It is probability * exp(logit of the label - highest logit), so that the softmax need not be
    normalised again, and exactly `classes.probability` where the label is the most likely class.

    Args:
      logits: f32[B, h, w, C].
      classes: the result of `classify_pixels`.
      labels: i32[B, height, width], classes in [0, C).
      mode: see `resize.resize_bilinear`.

    Returns:
      f32[B, height, width].
    """
    size = (labels.shape[1], labels.shape[2])
    if is_portable():
        logits = resize_bilinear(logits, size, mode)
    if logits.shape[1:3] == size:
        picked = by_platform(
            logits,
            labels,
            tpu=_pick_by_selection,
            default=_pick_by_gathers,
            # Image by image, so that the gather has the same form for a batch of one.
            portable=jax.vmap(_pick_by_gathers),
        )
        return _scale(classes, labels, picked)

    def work(
        pick: Callable[..., Array],
        window: Array,
        rows: Rows,
        classes: PixelClasses,
        labels: Array,
    ) -> Array:
        # The vote overrules few pixels, and none at all in many blocks.
        return lax.cond(
            jnp.any(labels != classes.semantic),
            lambda: _scale(classes, labels, pick(window, rows, labels, mode)),
            lambda: classes.probability,
        )

    maps = classes, labels
    functions = _pick_upsampled_by_gathers, _pick_upsampled_by_selection
    return run_blocks(
        map_row_blocks, work, *functions, logits, maps, size, mode, gpu_function=functions[0]
    )


def _scale(classes: PixelClasses, labels: Array, picked: Array) -> Array:
    """Returns the probability of the labels, whose logits are `picked`."""
    ratio = jnp.exp(picked - classes.logit)
    # The two logits of one class may differ in the last bit.
    return classes.probability * jnp.where(labels == classes.semantic, 1, ratio)


def _pick_by_gathers(logits: Array, labels: Array) -> Array:
    """Returns the logit of each pixel's label."""
    return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def _pick_by_selection(logits: Array, labels: Array) -> Array:
    """Equals `_pick_by_gathers`."""
    return jnp.sum(logits, axis=-1, where=labels[..., None] == jnp.arange(logits.shape[-1]))


def _pick_upsampled_by_gathers(window: Array, rows: Rows, labels: Array, mode: str) -> Array:
    """Returns the upsampled logit of the label per pixel of a block."""
    _, _, width, num_classes = window.shape
    low, high, fraction = find_neighbours(width, labels.shape[2], mode)
    flat = window.reshape(window.shape[0], -1)

    def blend(row: Array) -> Array:
        below, above = (
            jax.vmap(jnp.take)(flat, (row[:, None] * width + column) * num_classes + labels)
            for column in (low, high)
        )
        return below + (above - below) * fraction

    below, above = blend(rows['low']), blend(rows['high'])
    return below + (above - below) * rows['fraction'][:, None]


def _pick_upsampled_by_selection(window: Array, rows: Rows, labels: Array, mode: str) -> Array:
    """Equals `_pick_upsampled_by_gathers`."""
    values = weigh_window(window, rows['weights'], labels.shape[2], mode)
    return jnp.sum(values, axis=1, where=match_labels(labels, 0, values.shape[1]))
