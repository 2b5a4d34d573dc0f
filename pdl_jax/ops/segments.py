"""Sums, tables and statistics over the segments of a label map.

Every function has two implementations that give the same result: gathers and scatters, which win
on CPU and GPU, and sorts, comparisons and products with one-hot matrices, because a TPU runs
gathers and scatters over pixels one element at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops import portable_segments
from pdl_jax.ops.exact_division import divide_rounding_once
from pdl_jax.ops.platforms import by_platform, is_portable
from pdl_jax.typing import Array

# Maps are processed in blocks of whole rows of about this many pixels, so that indices and one-hot
# rows take the memory of a block: enough to hide the cost of a step, small beside an image.
_PIXELS_PER_SCATTER = 65536
_PIXELS_PER_PRODUCT = 16384

_State = TypeVar('_State')
# First row of a block.
_Start = Array | int


def unique_labels(labels: Array, *, size: int, num_labels: int) -> tuple[Array, Array]:
    """Lists the distinct labels of a map.

    Args:
      labels: i32[H, W]; values outside [0, num_labels) are left out.
      size: number of rows of the list.
      num_labels: exclusive upper bound of labels.

    Returns:
      ids: i32[size], the smallest `size` labels, ascending, padded with `num_labels`.
      count: i32[], the number of distinct labels, which may exceed `size`.
    """
    forms = _unique_by_sort, _unique_by_table, portable_segments.unique_labels
    return _choose(*forms, labels, size=size, num_labels=num_labels)


def _unique_by_table(labels: Array, size: int, num_labels: int) -> tuple[Array, Array]:
    def mark(present: Array, _: _Start, block: Array) -> Array:
        return present.at[_bounded(block, num_labels)].set(True, mode='drop')

    present = _fold_rows(mark, jnp.zeros(num_labels, bool), _PIXELS_PER_SCATTER, labels)
    (ids,) = jnp.nonzero(present, size=size, fill_value=num_labels)
    return ids.astype(jnp.int32), jnp.sum(present, dtype=jnp.int32)


def _unique_by_sort(labels: Array, size: int, num_labels: int) -> tuple[Array, Array]:
    ordered = jnp.sort(_bounded(labels, num_labels).reshape(-1))
    before = jnp.concatenate([jnp.full(1, -1, jnp.int32), ordered[:-1]])
    is_first = (ordered != before) & (ordered < num_labels)
    ids = jnp.sort(jnp.where(is_first, ordered, num_labels))[:size]
    ids = jnp.pad(ids, (0, size - ids.shape[0]), constant_values=num_labels)
    return ids, jnp.sum(is_first, dtype=jnp.int32)


def index_labels(labels: Array, ids: Array, *, num_labels: int | None = None) -> Array:
    """Finds the row of every pixel's label in a list of labels.

    Args:
      labels: i32[H, W].
      ids: i32[S], ascending, from `unique_labels`.
      num_labels: the padding value of `ids`, if known: then pixels of that value match no row, and
        on CPU a table replaces a search that takes forty times as long. Without it such pixels get
        the first padding row.

    Returns:
      i32[H, W] in [0, S], S where the label is not in `ids`.
    """
    forms = _index_by_comparison, _index_by_table, portable_segments.index_labels
    return _choose(*forms, labels, ids, num_labels=num_labels)


def _index_by_table(labels: Array, ids: Array, num_labels: int | None) -> Array:
    size = ids.shape[0]
    if num_labels is None:
        row = jnp.searchsorted(ids, labels).astype(jnp.int32)
        return jnp.where(jnp.take(ids, row, mode='clip') == labels, row, size)
    rows = jnp.arange(size, dtype=jnp.int32)
    table = jnp.full(num_labels + 1, size, jnp.int32).at[ids].set(rows, mode='drop')
    return table.at[num_labels].set(size)[_bounded(labels, num_labels)]


def _index_by_comparison(labels: Array, ids: Array, num_labels: int | None) -> Array:
    size = ids.shape[0]
    if num_labels is not None:
        labels = jnp.where(labels < num_labels, labels, -1)

    def compare(row: Array, index: Array) -> Array:
        return jnp.where(labels == ids[row], jnp.minimum(index, row), index)

    return lax.fori_loop(0, size, compare, jnp.full_like(labels, size), unroll=min(16, size))


def segment_sum(index: Array, values: Array, num: int) -> Array:
    """Sums values over segments.

    Blocks of rows are summed first and then added up, so that f32 keeps about five digits for
    segments of millions of pixels. Integers are summed exactly while the total is below 2**24.

    Args:
      index: i32[H, W], the segment of a pixel; pixels outside [0, num) are dropped.
      values: f32[H, W] or f32[H, W, V], finite everywhere (a TPU multiplies dropped pixels by 0).
      num: number of segments.

    Returns:
      f32[num] or f32[num, V].
    """
    has_channels = values.ndim == 3
    values = values.astype(jnp.float32).reshape(*index.shape, -1)
    forms = _sum_by_product, _sum_by_scatter, portable_segments.segment_sum
    sums = _choose(*forms, index, values, num=num)
    return sums if has_channels else sums[:, 0]


def _sum_by_scatter(index: Array, values: Array, num: int) -> Array:
    def add(total: Array, _: _Start, index: Array, values: Array) -> Array:
        rows = index.shape[0]
        sums = jnp.zeros((rows * num, values.shape[-1]), jnp.float32)
        sums = sums.at[_index_in_rows(index, num)].add(values, mode='drop')
        return total + sums.reshape(rows, num, -1).sum(0)

    total = jnp.zeros((num, values.shape[-1]), jnp.float32)
    return _fold_rows(add, total, _PIXELS_PER_SCATTER, index, values)


def _sum_by_product(index: Array, values: Array, num: int) -> Array:
    def add(total: Array, _: _Start, index: Array, values: Array) -> Array:
        one_hot = jax.nn.one_hot(index, num, dtype=jnp.float32)
        return total + jnp.einsum('hws,hwv->sv', one_hot, values, precision=lax.Precision.HIGHEST)

    total = jnp.zeros((num, values.shape[-1]), jnp.float32)
    return _fold_rows(add, total, _PIXELS_PER_PRODUCT, index, values)


def count_pairs(row_index: Array, column_index: Array, num_rows: int, num_columns: int) -> Array:
    """Counts the pixels of every pair of labels.

    Args:
      row_index: i32[H, W].
      column_index: i32[H, W]; pixels where either index is out of range are dropped.
      num_rows: number of rows of the histogram.
      num_columns: number of columns.

    Returns:
      i32[num_rows, num_columns], exact.
    """
    forms = _count_by_product, _count_by_scatter, portable_segments.count_pairs
    sizes = {'num_rows': num_rows, 'num_columns': num_columns}
    return _choose(*forms, row_index, column_index, **sizes)


def _count_by_scatter(
    row_index: Array, column_index: Array, num_rows: int, num_columns: int
) -> Array:
    def add(counts: Array, _: _Start, row: Array, column: Array) -> Array:
        is_inside = (row >= 0) & (row < num_rows) & (column >= 0) & (column < num_columns)
        pair = jnp.where(is_inside, row * num_columns + column, num_rows * num_columns)
        return counts.at[pair].add(1, mode='drop')

    counts = jnp.zeros(num_rows * num_columns, jnp.int32)
    counts = _fold_rows(add, counts, _PIXELS_PER_SCATTER, row_index, column_index)
    return counts.reshape(num_rows, num_columns)


def _count_by_product(
    row_index: Array, column_index: Array, num_rows: int, num_columns: int
) -> Array:
    def add(counts: Array, _: _Start, row: Array, column: Array) -> Array:
        rows = jax.nn.one_hot(row, num_rows, dtype=jnp.bfloat16)
        columns = jax.nn.one_hot(column, num_columns, dtype=jnp.bfloat16)
        part = jnp.einsum('hwr,hwc->rc', rows, columns, preferred_element_type=jnp.float32)
        return counts + part.astype(jnp.int32)

    counts = jnp.zeros((num_rows, num_columns), jnp.int32)
    return _fold_rows(add, counts, _PIXELS_PER_PRODUCT, row_index, column_index)


def lookup(table: Array, index: Array) -> Array:
    """Reads a small table at every pixel, bit for bit for any values.

    Not differentiable on TPU.

    Args:
      table: f32 or i32, [N] or [N, D]. A TPU spends work proportional to N * H * W.
      index: i32[H, W].

    Returns:
      [H, W] or [H, W, D] of the dtype of `table`; 0 where the index is outside [0, N).
    """
    return _choose(_look_up_by_product, _look_up_by_gather, portable_segments.lookup, table, index)


def _look_up_by_gather(table: Array, index: Array) -> Array:
    index = _bounded(index, table.shape[0])
    return table.at[index].get(mode='fill', fill_value=0)


def _look_up_by_product(table: Array, index: Array) -> Array:
    # A byte is exact in bfloat16 and a one-hot product adds zeros to it, so one pass of the MXU
    # moves any 32-bit value.
    words = lax.bitcast_convert_type(table.reshape(table.shape[0], -1), jnp.uint32)
    shifts = jnp.arange(0, 32, 8, dtype=jnp.uint32)
    pieces = ((words[..., None] >> shifts) & 255).astype(jnp.bfloat16)

    def read(values: Array, start: _Start, block: Array) -> Array:
        rows = jax.nn.one_hot(block, table.shape[0], dtype=jnp.bfloat16)
        parts = jnp.einsum('hwn,ndb->hwdb', rows, pieces, preferred_element_type=jnp.float32)
        found = jnp.sum(parts.astype(jnp.uint32) << shifts, -1, dtype=jnp.uint32)
        return lax.dynamic_update_slice_in_dim(values, found, start, 0)

    values = jnp.zeros((*index.shape, words.shape[1]), jnp.uint32)
    values = _fold_rows(read, values, _PIXELS_PER_PRODUCT, index)
    return lax.bitcast_convert_type(values, table.dtype).reshape(*index.shape, *table.shape[1:])


def first_pixels(index: Array, num: int) -> Array:
    """Finds the first pixel of every segment in raster order.

    Args:
      index: i32[H, W], the segment of a pixel; pixels outside [0, num) are dropped.
      num: number of segments.

    Returns:
      i32[num], y * W + x; H * W for segments without pixels.
    """
    height, width = index.shape
    column = _first_columns(index, num)
    rows = jnp.arange(height, dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(column < width, rows * width + column, height * width), axis=0)


def segment_boxes(index: Array, num: int) -> Array:
    """Finds the smallest box around every segment.

    Args:
      index: i32[H, W], the segment of a pixel; pixels outside [0, num) are dropped.
      num: number of segments.

    Returns:
      i32[num, 4], (y0, x0, y1, x1) in pixels, ends exclusive; zeros for segments without pixels.
    """
    height, width = index.shape
    first = _first_columns(index, num)
    from_right = _first_columns(index[:, ::-1], num)
    is_in_row = first < width
    y0 = jnp.argmax(is_in_row, axis=0)
    y1 = height - jnp.argmax(is_in_row[::-1], axis=0)
    box = jnp.stack([y0, jnp.min(first, axis=0), y1, width - jnp.min(from_right, axis=0)], -1)
    return jnp.where(jnp.any(is_in_row, axis=0)[:, None], box, 0).astype(jnp.int32)


def _first_columns(index: Array, num: int) -> Array:
    """Finds the first column of a segment per image row, i32[H, num]; W where it is absent."""
    forms = _first_columns_by_comparison, _first_columns_by_scatter
    return _choose(*forms, portable_segments.first_columns, index, num=num)


def _first_columns_by_scatter(index: Array, num: int) -> Array:
    height, width = index.shape

    def find(first: Array, start: _Start, block: Array) -> Array:
        columns = lax.broadcasted_iota(jnp.int32, block.shape, 1)
        found = jnp.full(block.shape[0] * num, width, jnp.int32)
        found = found.at[_index_in_rows(block, num)].min(columns, mode='drop')
        return lax.dynamic_update_slice_in_dim(first, found.reshape(-1, num), start, 0)

    first = jnp.zeros((height, num), jnp.int32)
    return _fold_rows(find, first, _PIXELS_PER_SCATTER, index)


def _first_columns_by_comparison(index: Array, num: int) -> Array:
    height, width = index.shape

    def find(first: Array, start: _Start, block: Array) -> Array:
        columns = lax.broadcasted_iota(jnp.int32, block.shape, 1)[..., None]
        is_segment = block[..., None] == jnp.arange(num)
        found = jnp.min(jnp.where(is_segment, columns, width), axis=1)
        return lax.dynamic_update_slice_in_dim(first, found, start, 0)

    first = jnp.zeros((height, num), jnp.int32)
    return _fold_rows(find, first, _PIXELS_PER_PRODUCT, index)


def segment_centroids(index: Array, num: int) -> tuple[Array, Array]:
    """Measures area and mean position of segments.

    All sums are integers and the division rounds once, so the means are the float32 values nearest
    to the true ones.

    Args:
      index: i32[H, W], H and W below 32768; the segment of a pixel; pixels outside [0, num) are
        dropped.
      num: number of segments.

    Returns:
      area: i32[num] in pixels.
      mean: f32[num, 2], (y, x) in pixels; 0 for segments without pixels.
    """
    if is_portable():
        return portable_segments.segment_centroids(index, num)
    forms = _row_sums_by_product, _row_sums_by_scatter, _row_sums_by_scatter
    area_of_row, high_x, low_x = _choose(*forms, index, num=num)
    area = jnp.sum(area_of_row, axis=0)
    high_y, low_y = _weighted_sum(area_of_row)
    high, low = jnp.stack([high_y, high_x], -1), jnp.stack([low_y, low_x], -1)
    mean = divide_rounding_once(high, low, jnp.maximum(area, 1)[:, None])
    return area, jnp.where(area[:, None] > 0, mean, 0.0)


def _row_sums_by_scatter(index: Array, num: int) -> tuple[Array, Array, Array]:
    """Returns areas i32[H, num] per image row, and i32[num] sums of x: high * 2**16 + low."""
    areas = (
        _count_by_scatter(lax.broadcasted_iota(jnp.int32, index.shape, axis), index, size, num)
        for axis, size in enumerate(index.shape)
    )
    area_of_row, area_of_column = areas
    return area_of_row, *_weighted_sum(area_of_column)


def _row_sums_by_product(index: Array, num: int) -> tuple[Array, Array, Array]:
    height, width = index.shape
    columns = jnp.arange(width, dtype=jnp.int32)
    # Each value is exact in bfloat16, each sum over a row stays below 2**24.
    values = jnp.stack([jnp.ones_like(columns), columns & 127, columns >> 7]).astype(jnp.bfloat16)

    def add(
        state: tuple[Array, Array, Array], start: _Start, block: Array
    ) -> tuple[Array, Array, Array]:
        area_of_row, high, low = state
        one_hot = jax.nn.one_hot(block, num, dtype=jnp.bfloat16)
        sums = jnp.einsum('hws,vw->vhs', one_hot, values, preferred_element_type=jnp.float32)
        area, x_low, x_high = sums.astype(jnp.int32)
        x = x_low + 128 * x_high
        low = low + jnp.sum(x & 0xFFFF, axis=0)
        high = high + jnp.sum(x >> 16, axis=0) + (low >> 16)
        return lax.dynamic_update_slice_in_dim(area_of_row, area, start, 0), high, low & 0xFFFF

    zeros = jnp.zeros(num, jnp.int32)
    state = (jnp.zeros((height, num), jnp.int32), zeros, zeros)
    return _fold_rows(add, state, _PIXELS_PER_PRODUCT, index)


def _weighted_sum(counts: Array) -> tuple[Array, Array]:
    """Sums row number * count over the rows of i32[N, num]; (high, low) with low < 2**16."""
    products = counts * jnp.arange(counts.shape[0], dtype=jnp.int32)[:, None]
    low = jnp.sum(products & 0xFFFF, axis=0)
    return jnp.sum(products >> 16, axis=0) + (low >> 16), low & 0xFFFF


def _choose(
    tpu: Callable[..., Any],
    default: Callable[..., Any],
    portable: Callable[..., Any],
    *maps: Array,
    **sizes: int | None,
) -> Any:
    """Runs the implementation of the target platform, which need not be that of this machine."""
    tpu, default, portable = (functools.partial(f, **sizes) for f in (tpu, default, portable))
    operands = (jnp.asarray(m) for m in maps)
    return by_platform(*operands, tpu=tpu, default=default, portable=portable)


def _bounded(index: Array, num: int) -> Array:
    """Moves indices out of range to `num`: scatters wrap negative indices and drop high ones."""
    return jnp.where((index >= 0) & (index < num), index, num)


def _index_in_rows(index: Array, num: int) -> Array:
    """Numbers the pairs of image row and segment; out of range for pixels without a segment."""
    row = lax.broadcasted_iota(jnp.int32, index.shape, 0)
    return jnp.where((index >= 0) & (index < num), row * num + index, index.shape[0] * num)


def _fold_rows(
    step: Callable[..., _State], state: _State, pixels_per_step: int, *maps: Array
) -> _State:
    """Runs state = step(state, first row, *blocks) over blocks of rows of maps [H, W, ...]."""
    height, width = maps[0].shape[:2]
    rows = max(1, min(height, pixels_per_step // width))

    def step_block(number: Array, state: _State) -> _State:
        start = number * rows
        return step(state, start, *(lax.dynamic_slice_in_dim(m, start, rows) for m in maps))

    state = lax.fori_loop(0, height // rows, step_block, state)
    start = height - height % rows
    return step(state, start, *(m[start:] for m in maps)) if start < height else state
