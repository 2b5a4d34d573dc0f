"""Reductions over logits that are upsampled to an input and resized from a crop of it.

A network sees an image resized and padded to a fixed size. Its logits belong to that input, but
labels are wanted at the size of the image: the logits are upsampled to the input, the padding is
cut off and the rest is resized. Both steps are bilinear, so per axis they are one linear map, with
at most three low-resolution pixels per output pixel. Sizes of images are traced, all shapes static.

A block of output rows is computed at a time, from a window of low-resolution rows, and reduced to
maps. On CPU pixels are blended; elsewhere columns are a matrix product and rows a weighted sum,
because a TPU gathers slowly.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from pdl_jax.ops.platforms import by_platform, eval_shape
from pdl_jax.ops.resize import MODES, find_traced_neighbours
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array, PyTree

# Two neighbours in the input lie between three neighbours at low resolution.
_TAPS = 3
# Logits of a block: enough to hide the cost of a step, few enough for a core's cache or the on-chip
# memory of a TPU. A GPU launches several kernels per block.
_LOGITS_PER_BLOCK = 2**20
_LOGITS_PER_GPU_BLOCK = 2**26


class Taps(NamedTuple):
    """Interpolation along one axis.

    Attributes:
      first: i32[..., n], the first of the three input pixels that an output pixel is a sum of.
      weights: f32[..., n, 3], their weights; 0 for pixels that lie outside of the input.
    """

    first: Array
    weights: Array


def find_taps(sizes: tuple[int, int, int], mode: str, crop: ArrayLike, target: ArrayLike) -> Taps:
    """Composes the upsampling of an axis with the resize of a crop of it.

    Args:
      sizes: pixels of the logits, of the input that they are upsampled to, and of the output.
      mode: see `resize.resize_bilinear`.
      crop: i32[...], pixels of the input that are resized, from the first on.
      target: i32[...], pixels of the output that they become; the others are meaningless.

    Returns:
      The taps of `sizes[2]` output pixels per entry of `crop`.

    Raises:
      ValueError: `mode` is unknown, or the logits are larger than the input.
    """
    in_size, middle_size, out_size = sizes
    if mode not in MODES:
        raise ValueError(f'resize mode {mode!r} is unknown; choose one of {MODES}')
    if in_size > middle_size:
        raise ValueError(f'logits of {in_size} pixels exceed the input of {middle_size} pixels')
    crop, target = (jnp.asarray(n, jnp.int32)[..., None] for n in (crop, target))
    output = jnp.arange(out_size, dtype=jnp.float32)
    in_input = find_traced_neighbours(output, jnp.minimum(crop, middle_size), target, mode)
    taps = [
        (low, weight * share)
        for middle, weight in _weigh(*in_input)
        for low, share in _weigh(*find_traced_neighbours(middle, in_size, middle_size, mode))
    ]
    first = taps[0][0]
    weights = (
        jnp.where((low - first)[..., None] == jnp.arange(_TAPS), weight[..., None], 0.0)
        for low, weight in taps
    )
    return Taps(first.astype(jnp.int32), functools.reduce(jnp.add, weights))


def find_resize_taps(in_size: int, out_size: int, mode: str, target: ArrayLike) -> Taps:
    """Finds the taps of a resize of an axis of logits.

    Args:
      in_size: pixels of the logits.
      out_size: pixels of the output.
      mode: see `resize.resize_bilinear`.
      target: i32[...], pixels that the logits become, of which the output has the first ones; those
        of the output beyond them are meaningless.

    Returns:
      The taps of `out_size` pixels per entry of `target`; the third weight is 0.
    """
    low, _, fraction = find_traced_neighbours(
        jnp.arange(out_size, dtype=jnp.float32), in_size, jnp.asarray(target)[..., None], mode
    )
    weights = jnp.stack([1 - fraction, fraction, jnp.zeros_like(fraction)], axis=-1)
    return Taps(low.astype(jnp.int32), weights)


def _weigh(low: Array, high: Array, fraction: Array) -> tuple[tuple[Array, Array], ...]:
    return (low, 1 - fraction), (high, fraction)


def map_resampled(
    work: Callable[..., PyTree],
    logits: Array,
    rows: Taps,
    columns: Taps,
    *operands: PyTree,
    num_rows: Array | None = None,
) -> PyTree:
    """Computes maps from resampled logits, image by image.

    Args:
      work: (values f32[N, R, W], *operands of the image) -> maps [R, W].
      logits: f32[B, h, w, N].
      rows: [B, H] row taps.
      columns: [B, W] column taps.
      *operands: pytrees of arrays [B, ...].
      num_rows: i32[B], rows of every image that are computed; the others are 0. None for all.

    Returns:
      Maps [B, H, W].
    """
    logits = logits.astype(jnp.float32)
    if num_rows is None:
        num_rows = jnp.full(logits.shape[0], rows.first.shape[1], jnp.int32)

    def run(upsample: Callable[..., Array], prepare: Callable[..., Any], size: int) -> Any:
        def run_image(inputs: tuple[Any, ...]) -> PyTree:
            return _map_blocks(work, upsample, prepare, size, *inputs)

        return lambda *batch: lax.map(run_image, batch)

    def run_whole(logits: Array, rows: Taps, columns: Taps, _: Array, *operands: PyTree) -> PyTree:
        by_row = _matrix(rows, logits.shape[1])
        by_column = _matrix(columns, logits.shape[2])
        values = jnp.einsum('bhi,biwn->bhwn', by_row, logits, precision=lax.Precision.HIGHEST)
        values = jnp.einsum('bhjn,bwj->bnhw', values, by_column, precision=lax.Precision.HIGHEST)
        return jax.vmap(work)(values, *operands)

    return by_platform(
        logits,
        rows,
        columns,
        num_rows,
        *operands,
        cpu=run(_upsample_by_taps, lambda columns, _: columns, _LOGITS_PER_BLOCK),
        tpu=run(_upsample_by_products, _matrix, _LOGITS_PER_BLOCK),
        default=run(_upsample_by_products, _matrix, _LOGITS_PER_GPU_BLOCK),
        portable=run_whole,
    )


def _map_blocks(
    work: Callable[..., PyTree],
    upsample: Callable[..., Array],
    prepare: Callable[..., Any],
    logits_per_block: int,
    logits: Array,
    rows: Taps,
    columns: Taps,
    num_rows: Array,
    *operands: PyTree,
) -> PyTree:
    """Computes the maps of an image.

    Every step computes a block of R rows from a window of k low-resolution rows. If R rows of an
    image do not fit in its window, because the image was upsampled to the input by a higher factor
    than the canvas suggests, steps are shorter, and each overwrites the surplus of the one before.
    """
    height, width = rows.first.shape[0], columns.first.shape[0]
    in_height, _, num_logits = logits.shape
    length = min(height, max(1, logits_per_block // (width * num_logits)))
    window_length = min(in_height, ceil_div(length * in_height, height) + _TAPS)
    is_whole = window_length == in_height
    step = jnp.int32(length) if is_whole else _find_step(rows.first, length, window_length)
    # The last step may reach beyond the map.
    rows = jax.tree.map(
        lambda x: jnp.pad(x, ((0, length), *((0, 0),) * (x.ndim - 1)), 'edge'), rows
    )
    prepared = prepare(columns, logits.shape[1])

    def compute(number: Array, maps: PyTree) -> PyTree:
        start = number * step
        block = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, length), rows)
        first = jnp.clip(block.first[0], 0, in_height - window_length)
        window = lax.dynamic_slice_in_dim(logits, first, window_length)
        block = Taps(block.first - first, block.weights)
        found = work(upsample(window, block, prepared), *operands)
        update = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(update, maps, found)

    values = jax.ShapeDtypeStruct((num_logits, height + length, width), jnp.float32)
    shapes = eval_shape(work, values, *operands)
    maps = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    num_steps = (jnp.minimum(num_rows, height) + step - 1) // step
    maps = lax.fori_loop(0, num_steps, compute, maps)
    is_computed = jnp.arange(height)[:, None] < num_rows
    return jax.tree.map(lambda x: jnp.where(is_computed, x[:height], 0), maps)


def _find_step(first: Array, length: int, window_length: int) -> Array:
    """Returns the most rows, at most `length`, that fit in a window wherever they start: i32[]."""
    number = jnp.arange(first.shape[0])
    # The first taps ascend, so this counts the rows from each one on whose taps fit in its window.
    is_inside = first[None] <= first[:, None] + window_length - _TAPS
    end = jnp.sum(is_inside, axis=1, dtype=jnp.int32)
    reach = jnp.where(end < first.shape[0], end - number, length)
    return jnp.clip(jnp.min(reach), 1, length)


def _upsample_by_taps(window: Array, rows: Taps, columns: Taps) -> Array:
    """Upsamples f32[k, w, N] to f32[N, R, W]."""
    terms = (
        jnp.take(window, columns.first + k, axis=1, mode='clip') * columns.weights[:, k, None]
        for k in range(_TAPS)
    )
    wide = functools.reduce(jnp.add, terms)
    # A product, because XLA:CPU would compute the columns again for every row of a blend.
    by_row = _matrix(rows, window.shape[0])
    return jnp.einsum('rk,kvn->nrv', by_row, wide, precision=lax.Precision.HIGHEST)


def _upsample_by_products(window: Array, rows: Taps, columns: Array) -> Array:
    """Equals `_upsample_by_taps`; `columns` is the matrix f32[W, w]."""
    wide = jnp.einsum('kwn,vw->knv', window, columns, precision=lax.Precision.HIGHEST)
    weights = _matrix(rows, window.shape[0])
    # A sum, because a matrix product with so few terms would leave the MXU of a TPU mostly idle.
    terms = (weights[:, k, None] * wide[k, :, None] for k in range(window.shape[0]))
    return functools.reduce(jnp.add, terms)


def _matrix(taps: Taps, size: int) -> Array:
    """Returns the interpolation as matrices f32[..., n, size]."""
    number = jnp.arange(size)
    terms = (
        jnp.where(taps.first[..., None] + k == number, taps.weights[..., k, None], 0.0)
        for k in range(_TAPS)
    )
    return functools.reduce(jnp.add, terms)
