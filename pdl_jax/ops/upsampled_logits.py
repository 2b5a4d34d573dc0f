"""Argmax and cross entropy of bilinearly upsampled logits, without the full-size logits in memory.

Both are computed block by block of output rows, in two implementations. On CPU each output row
blends its two neighbouring rows, and classes are reduced in chunks that fit in registers. On other
platforms each output row is a weighted sum of all rows of the block's window, because gathers are
slow on a TPU, and XLA reduces over all classes at once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.logit_blocks import match_labels, run_blocks, weigh_window
from pdl_jax.ops.platforms import by_platform, is_portable
from pdl_jax.ops.resize import find_neighbours, interpolation_matrix, resize_bilinear
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.ops.row_blocks import Rows, add_row_blocks, map_row_blocks
from pdl_jax.typing import Array

# Pixels, in whole rows, whose classes are all read at once if logits already have the output size.
_PIXELS_PER_COPY = 2**13
# Number of values per pixel that the registers of a CPU hold.
_CLASSES_PER_CHUNK = 20
# Finite padding below any logit: interpolating -inf with -inf would give NaN.
_LOWEST = -1e38

# Per pixel: the highest logit so far, its class, the sum of exp(logit - highest) and the label's
# logit (None without labels).
_Reduction = tuple[Array, Array, Array, Array | None]


class PixelClasses(NamedTuple):
    """The most likely class per pixel.

    Attributes:
      semantic: i32[B, height, width], the smallest class on ties.
      probability: f32[B, height, width].
      logit: f32[B, height, width].
    """

    semantic: Array
    probability: Array
    logit: Array


def classify_pixels(logits: Array, size: tuple[int, int], mode: str) -> PixelClasses:
    """Finds the most likely class per pixel of upsampled logits, its probability and its logit.

    The probability is exp(max - logsumexp): reductions only, so that no second map of all classes
    is written.

    Args:
      logits: f32[B, h, w, C].
      size: (height, width) to upsample to, in pixels.
      mode: see `resize.resize_bilinear`.
    """
    if is_portable():
        logits = resize_bilinear(logits, size, mode)
    if logits.shape[1:3] == tuple(size):
        return by_platform(logits, cpu=_classify_by_chunks, default=_classify_at_once)

    def work(reduce: Callable[..., _Reduction], window: Array, rows: Rows) -> PixelClasses:
        highest, semantic, total, _ = reduce(window, rows, size[1], mode)
        return PixelClasses(semantic, 1 / total, highest)

    return run_blocks(
        map_row_blocks, work, _reduce_by_chunks, _reduce_at_once, logits, (), size, mode
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cross_entropy_upsampled(logits: Array, labels: Array, mode: str) -> Array:
    """Computes the softmax cross entropy per pixel of upsampled logits.

    The backward pass upsamples them a second time instead of storing them.

    Args:
      logits: f32[B, h, w, C].
      labels: i32[B, height, width]; where it is no class the result is finite but meaningless.
      mode: see `resize.resize_bilinear`.

    Returns:
      f32[B, height, width].
    """
    return _forward(logits, labels, mode)[0]


def _forward(logits: Array, labels: Array, mode: str) -> tuple[Array, tuple[Array, Array, Array]]:
    def work(
        reduce: Callable[..., tuple[Array, Array, Array, Array]],
        window: Array,
        rows: Rows,
        labels: Array,
    ) -> tuple[Array, Array]:
        highest, _, total, picked = reduce(window, rows, labels.shape[2], mode, labels)
        log_total = jnp.log(total)
        # Not normalizer - picked: beside large logits a small loss would be rounded away, and
        # DeepLab2 averages over the losses that are not zero.
        return log_total + (highest - picked), highest + log_total

    size = (labels.shape[1], labels.shape[2])
    loss, normalizer = run_blocks(
        map_row_blocks, work, _reduce_by_chunks, _reduce_at_once, logits, (labels,), size, mode
    )
    return loss, (logits, labels, normalizer)


def _backward(
    mode: str, residual: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, None]:
    logits, labels, normalizer = residual

    def work(differentiate: Callable[..., Array], window: Array, rows: Rows, *maps: Array) -> Array:
        return differentiate(window, rows, *maps, mode)

    maps, size = (labels, normalizer, gradient), (labels.shape[1], labels.shape[2])
    functions = _differentiate_by_chunks, _differentiate_at_once
    return run_blocks(add_row_blocks, work, *functions, logits, maps, size, mode), None


cross_entropy_upsampled.defvjp(_forward, _backward)


def _classify_at_once(logits: Array) -> PixelClasses:
    highest = jnp.max(logits, axis=-1)
    total = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
    return PixelClasses(jnp.argmax(logits, axis=-1).astype(jnp.int32), 1 / total, highest)


def _classify_by_chunks(logits: Array) -> PixelClasses:
    """Equals `_classify_at_once`; on CPU reducing over the last axis is up to ten times slower."""
    batch, height, width, num_classes = logits.shape
    rows = min(height, max(1, _PIXELS_PER_COPY // (batch * width)))
    chunk = min(num_classes, _CLASSES_PER_CHUNK)
    rest = num_classes % chunk

    def classify(number: Array, maps: PixelClasses) -> PixelClasses:
        # The last block may overlap the one before.
        start = jnp.minimum(number * rows, height - rows)
        block = lax.dynamic_slice_in_dim(logits, start, rows, 1)

        def add(number: Array | int, state: _Reduction, size: int = chunk) -> _Reduction:
            first = jnp.int32(number * chunk)
            values = lax.dynamic_slice_in_dim(block, first, size, 3)
            return _add_classes(state, first, [values[..., i] for i in range(size)])

        state = lax.fori_loop(0, num_classes // chunk, add, _no_classes((batch, rows, width)))
        if rest:
            state = add(num_classes // chunk, state, rest)
        highest, semantic, total, _ = state
        update = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
        return jax.tree.map(update, maps, PixelClasses(semantic, 1 / total, highest))

    zeros = jnp.zeros(logits.shape[:3], jnp.float32)
    maps = PixelClasses(zeros.astype(jnp.int32), zeros, zeros)
    return lax.fori_loop(0, ceil_div(height, rows), classify, maps)


def _reduce_at_once(
    window: Array, rows: Rows, width: int, mode: str, labels: Array | None = None
) -> _Reduction:
    """Reduces over all classes per pixel of a block."""
    values = weigh_window(window, rows['weights'], width, mode)
    highest = jnp.max(values, axis=1)
    total = jnp.sum(jnp.exp(values - highest[:, None]), axis=1)
    # A comparison instead of a gather, because it fuses.
    picked = (
        None
        if labels is None
        else jnp.sum(values, axis=1, where=match_labels(labels, 0, values.shape[1]))
    )
    return highest, jnp.argmax(values, axis=1).astype(jnp.int32), total, picked


def _differentiate_at_once(
    window: Array, rows: Rows, labels: Array, normalizer: Array, gradient: Array, mode: str
) -> Array:
    """Returns the gradient f32[B, k, w, C] with respect to a block's window."""
    weigh = functools.partial(
        weigh_window, weights=rows['weights'], width=labels.shape[2], mode=mode
    )
    values, transpose = jax.vjp(weigh, window)
    is_label = match_labels(labels, 0, values.shape[1])
    return transpose(_softmax_gradient(values, is_label, normalizer, gradient))[0]


def _reduce_by_chunks(
    window: Array, rows: Rows, width: int, mode: str, labels: Array | None = None
) -> _Reduction:
    """Equals `_reduce_at_once`, one chunk of classes after the other."""
    chunks = _upsample_columns(window, width, mode)

    def add(number: Array, state: _Reduction) -> _Reduction:
        values = _blend_rows(chunks[number], rows)
        size = values.shape[1]
        return _add_classes(
            state, jnp.int32(number * size), [values[:, i] for i in range(size)], labels
        )

    state = _no_classes((window.shape[0], rows['low'].shape[0], width), labels is not None)
    return lax.fori_loop(0, chunks.shape[0], add, state)


def _no_classes(shape: tuple[int, ...], has_labels: bool = False) -> _Reduction:
    """Returns the reduction over no class."""
    zeros = jnp.zeros(shape, jnp.float32)
    return (
        jnp.full(shape, _LOWEST, jnp.float32),
        jnp.zeros(shape, jnp.int32),
        zeros,
        zeros if has_labels else None,
    )


def _add_classes(
    state: _Reduction, first: Array, values: Sequence[Array], labels: Array | None = None
) -> _Reduction:
    """Adds the logits of the classes from `first` on, one map per class, to a reduction."""
    highest, semantic, total, picked = state
    higher = highest
    for i, value in enumerate(values):
        is_higher = value > higher
        semantic = jnp.where(is_higher, first + i, semantic)
        higher = jnp.where(is_higher, value, higher)
    total = total * jnp.exp(highest - higher) + sum(jnp.exp(value - higher) for value in values)
    if labels is not None and picked is not None:
        picked = sum(
            (jnp.where(labels == first + i, value, 0) for i, value in enumerate(values)), picked
        )
    return higher, semantic, total, picked


def _differentiate_by_chunks(
    window: Array, rows: Rows, labels: Array, normalizer: Array, gradient: Array, mode: str
) -> Array:
    """Equals `_differentiate_at_once`, one chunk of classes after the other."""
    chunks = _upsample_columns(window, labels.shape[2], mode)

    def differentiate(inputs: tuple[Array, Array]) -> Array:
        number, chunk = inputs
        values = _blend_rows(chunk, rows)
        is_label = match_labels(labels, number * values.shape[1], values.shape[1])
        values = _softmax_gradient(values, is_label, normalizer, gradient)
        return jnp.einsum('bcrv,rk->bckv', values, rows['weights'])

    chunks = lax.map(differentiate, (jnp.arange(chunks.shape[0]), chunks))
    chunks = jnp.moveaxis(chunks, 0, 1).reshape(window.shape[0], -1, *chunks.shape[3:])
    columns = interpolation_matrix(window.shape[2], labels.shape[2], mode)
    return jnp.einsum('bckv,vw->bkwc', chunks[:, : window.shape[3]], columns)


def _upsample_columns(window: Array, width: int, mode: str) -> Array:
    """Upsamples the columns of f32[B, k, w, C] and splits its classes into chunks.

    Returns:
      f32[chunks, B, classes of a chunk, k, width]; the last chunk is padded with `_LOWEST`.
    """
    low, high, fraction = find_neighbours(window.shape[2], width, mode)
    below, above = jnp.take(window, low, axis=2), jnp.take(window, high, axis=2)
    num_classes = window.shape[3]
    num_chunks = ceil_div(num_classes, _CLASSES_PER_CHUNK)
    missing = -num_classes % num_chunks
    window = jnp.pad(
        below + (above - below) * fraction[:, None],
        ((0, 0),) * 3 + ((0, missing),),
        constant_values=_LOWEST,
    )
    # The barrier keeps the blend in the layout with classes innermost, before the transpose.
    window = jnp.moveaxis(lax.optimization_barrier(window), -1, 0)
    return jnp.moveaxis(window.reshape(num_chunks, -1, *window.shape[1:]), 1, 2)


def _blend_rows(window: Array, rows: Rows) -> Array:
    """Upsamples the rows of f32[B, C, k, W] to f32[B, C, R, W]."""
    below, above = (jnp.take(window, rows[key], axis=2) for key in ('low', 'high'))
    return below + (above - below) * rows['fraction'][:, None]


def _softmax_gradient(values: Array, is_label: Array, normalizer: Array, gradient: Array) -> Array:
    return gradient[:, None] * (jnp.exp(values - normalizer[:, None]) - is_label)
