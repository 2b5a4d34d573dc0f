"""Classes and cross entropy of logits that are enlarged on the way, without a full-size map of all classes.

Both are worked off in blocks of rows, in two formulations: a CPU reads the two rows that a row lies between and keeps some
classes of a pixel in registers; elsewhere all rows of a block's window are weighed, because a TPU does not gather fast, and XLA
reduces over all classes at once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.resize import find_neighbours, interpolation_matrix
from pdl_jax.ops.row_blocks import add_row_blocks, map_row_blocks
from pdl_jax.typing import Array

# What a block needs shall stay in a core's cache or on the TPU chip; a GPU starts several kernels for every block.
_PIXELS_PER_BLOCK = 2**15
_PIXELS_PER_GPU_BLOCK = 2**19
# Of which all classes are read at once; whole rows.
_PIXELS_PER_COPY = 2**13
# A CPU's registers hold so many values of a pixel.
_CLASSES_PER_CHUNK = 20
# Below all logits, and its blend with itself is no NaN.
_LOWEST = -1e38


def classify_pixels(logits: Array, size: tuple[int, int], mode: str) -> tuple[Array, Array]:
    """Takes the most likely class of every pixel of enlarged logits, and its probability.

    The probability is exp(max - logsumexp): reductions only, so that no second map of all classes is written.

    Args:
      logits: f32[B, h, w, C].
      size: (height, width) to enlarge to, in pixels.
      mode: see `resize.resize_bilinear`.

    Returns:
      semantic: i32[B, height, width], the smallest class on ties.
      probability: f32[B, height, width].
    """
    if logits.shape[1:3] == tuple(size):
        return lax.platform_dependent(logits, cpu=_classify_by_chunks, default=_classify_at_once)

    def work(reduce, window, rows):
        _, semantic, total, _ = reduce(window, rows, size[1], mode)
        return semantic, 1 / total

    return _run_blocks(
        map_row_blocks, work, _reduce_by_chunks, _reduce_at_once, logits, (), size, mode
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cross_entropy_enlarged(logits: Array, labels: Array, mode: str) -> Array:
    """Softmax cross entropy of every pixel of enlarged logits; for the gradient they are enlarged a second time.

    Args:
      logits: f32[B, h, w, C].
      labels: i32[B, height, width]; where it is no class the result means nothing but is finite.
      mode: see `resize.resize_bilinear`.

    Returns:
      f32[B, height, width].
    """
    return _forward(logits, labels, mode)[0]


def _forward(logits, labels, mode):
    def work(reduce, window, rows, labels):
        highest, _, total, picked = reduce(window, rows, labels.shape[2], mode, labels)
        normalizer = highest + jnp.log(total)
        return normalizer - picked, normalizer

    size = labels.shape[1:]
    loss, normalizer = _run_blocks(
        map_row_blocks, work, _reduce_by_chunks, _reduce_at_once, logits, (labels,), size, mode
    )
    return loss, (logits, labels, normalizer)


def _backward(mode, residual, gradient):
    logits, labels, normalizer = residual

    def work(differentiate, window, rows, *maps):
        return differentiate(window, rows, *maps, mode)

    maps, size = (labels, normalizer, gradient), labels.shape[1:]
    functions = _differentiate_by_chunks, _differentiate_at_once
    return _run_blocks(add_row_blocks, work, *functions, logits, maps, size, mode), None


cross_entropy_enlarged.defvjp(_forward, _backward)


def _run_blocks(fold, work, cpu_function, function, logits, maps, size, mode):
    """Runs work(function of the platform, ...) on all blocks."""

    def run(function, pixels_per_block):
        work_block = functools.partial(work, function)
        return lambda x, maps: fold(
            work_block, x, maps, size=size, mode=mode, pixels_per_block=pixels_per_block
        )

    return lax.platform_dependent(
        logits,
        maps,
        cpu=run(cpu_function, _PIXELS_PER_BLOCK),
        tpu=run(function, _PIXELS_PER_BLOCK),
        default=run(function, _PIXELS_PER_GPU_BLOCK),
    )


def _classify_at_once(logits):
    highest = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), 1 / jnp.sum(
        jnp.exp(logits - highest), axis=-1
    )


def _classify_by_chunks(logits):
    """Like `_classify_at_once`; XLA:CPU reduces over the innermost axis up to ten times as slowly."""
    batch, height, width, num_classes = logits.shape
    rows = min(height, max(1, _PIXELS_PER_COPY // (batch * width)))
    chunk = min(num_classes, _CLASSES_PER_CHUNK)
    rest = num_classes % chunk

    def classify(number, maps):
        # The last block may overlap the one before.
        start = jnp.minimum(number * rows, height - rows)
        block = lax.dynamic_slice_in_dim(logits, start, rows, 1)

        def add(number, state, size=chunk):
            first = jnp.int32(number * chunk)
            values = lax.dynamic_slice_in_dim(block, first, size, 3)
            return _add_classes(state, first, [values[..., i] for i in range(size)])

        state = lax.fori_loop(0, num_classes // chunk, add, _no_classes((batch, rows, width)))
        if rest:
            state = add(num_classes // chunk, state, rest)
        _, semantic, total, _ = state
        update = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
        return update(maps[0], semantic), update(maps[1], 1 / total)

    shape = logits.shape[:3]
    return lax.fori_loop(
        0,
        -(-height // rows),
        classify,
        (jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)),
    )


def _reduce_at_once(window, rows, width, mode, labels=None):
    """Of every pixel of a block the highest logit, its class, the sum of exp(logit - highest) and the label's logit."""
    values = _weigh(window, rows['weights'], width, mode)
    highest = jnp.max(values, axis=1)
    total = jnp.sum(jnp.exp(values - highest[:, None]), axis=1)
    # A comparison instead of a gather: it fuses.
    picked = (
        None
        if labels is None
        else jnp.sum(values, axis=1, where=_is_label(labels, 0, values.shape[1]))
    )
    return highest, jnp.argmax(values, axis=1).astype(jnp.int32), total, picked


def _differentiate_at_once(window, rows, labels, normalizer, gradient, mode):
    """The gradient of a window f32[B, k, w, C]."""
    weigh = functools.partial(_weigh, weights=rows['weights'], width=labels.shape[2], mode=mode)
    values, transpose = jax.vjp(weigh, window)
    is_label = _is_label(labels, 0, values.shape[1])
    return transpose(_softmax_gradient(values, is_label, normalizer, gradient))[0]


def _weigh(window, weights, width, mode):
    """f32[B, k, w, C] to f32[B, C, R, width]."""
    columns = interpolation_matrix(window.shape[2], width, mode)
    window = jnp.einsum('bkwc,vw->bckv', window, columns, precision=lax.Precision.HIGHEST)
    # Spelled as a sum, for a product with so few terms would leave the matrix unit of a TPU empty.
    return sum(weights[:, i, None] * window[:, :, i, None] for i in range(weights.shape[1]))


def _reduce_by_chunks(window, rows, width, mode, labels=None):
    """Like `_reduce_at_once`."""
    chunks = _enlarge_columns(window, width, mode)

    def add(number, state):
        values = _blend_rows(chunks[number], rows)
        size = values.shape[1]
        return _add_classes(
            state, jnp.int32(number * size), [values[:, i] for i in range(size)], labels
        )

    state = _no_classes((window.shape[0], rows['low'].shape[0], width), labels is not None)
    return lax.fori_loop(0, chunks.shape[0], add, state)


def _no_classes(shape, has_labels=False):
    """The state of `_add_classes` before the first."""
    zeros = jnp.zeros(shape, jnp.float32)
    return (
        jnp.full(shape, _LOWEST, jnp.float32),
        jnp.zeros(shape, jnp.int32),
        zeros,
        zeros if has_labels else None,
    )


def _add_classes(state, first, values, labels=None):
    """Takes the logits of the classes from `first` on, one map each, into what `_reduce_at_once` returns."""
    highest, semantic, total, picked = state
    higher = highest
    for i, value in enumerate(values):
        is_higher = value > higher
        semantic = jnp.where(is_higher, first + i, semantic)
        higher = jnp.where(is_higher, value, higher)
    total = total * jnp.exp(highest - higher) + sum(jnp.exp(value - higher) for value in values)
    if labels is not None:
        picked = sum(
            (jnp.where(labels == first + i, value, 0) for i, value in enumerate(values)), picked
        )
    return higher, semantic, total, picked


def _differentiate_by_chunks(window, rows, labels, normalizer, gradient, mode):
    """Like `_differentiate_at_once`."""
    chunks = _enlarge_columns(window, labels.shape[2], mode)

    def differentiate(inputs):
        number, chunk = inputs
        values = _blend_rows(chunk, rows)
        is_label = _is_label(labels, number * values.shape[1], values.shape[1])
        values = _softmax_gradient(values, is_label, normalizer, gradient)
        return jnp.einsum('bcrv,rk->bckv', values, rows['weights'])

    chunks = lax.map(differentiate, (jnp.arange(chunks.shape[0]), chunks))
    chunks = jnp.moveaxis(chunks, 0, 1).reshape(window.shape[0], -1, *chunks.shape[3:])
    columns = interpolation_matrix(window.shape[2], labels.shape[2], mode)
    return jnp.einsum('bckv,vw->bkwc', chunks[:, : window.shape[3]], columns)


def _enlarge_columns(window, width, mode):
    """f32[B, k, w, C] to f32[chunks, B, classes of a chunk, k, width], filled up with classes that no pixel has."""
    low, high, fraction = find_neighbours(window.shape[2], width, mode)
    below, above = jnp.take(window, low, axis=2), jnp.take(window, high, axis=2)
    num_classes = window.shape[3]
    num_chunks = -(-num_classes // _CLASSES_PER_CHUNK)
    missing = -num_classes % num_chunks
    window = jnp.pad(
        below + (above - below) * fraction[:, None],
        ((0, 0),) * 3 + ((0, missing),),
        constant_values=_LOWEST,
    )
    # Blended where the classes of a pixel lie together, and only then torn apart.
    window = jnp.moveaxis(lax.optimization_barrier(window), -1, 0)
    return jnp.moveaxis(window.reshape(num_chunks, -1, *window.shape[1:]), 1, 2)


def _blend_rows(window, rows):
    """f32[B, C, k, W] to f32[B, C, R, W]."""
    below, above = (jnp.take(window, rows[key], axis=2) for key in ('low', 'high'))
    return below + (above - below) * rows['fraction'][:, None]


def _is_label(labels, first, count):
    """bool[B, count, R, W], which pixels have which of the labels from `first` on."""
    return labels[:, None] == (first + jnp.arange(count))[:, None, None]


def _softmax_gradient(values, is_label, normalizer, gradient):
    return gradient[:, None] * (jnp.exp(values - normalizer[:, None]) - is_label)
