"""The functions of `segments` for runtimes without loops over blocks: whole images at once.

Scatters write to tables with a last row for what is dropped, so that no index is out of range.
Every function equals the one of `segments` that it is named after.
"""

import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array


def unique_labels(labels: Array, size: int, num_labels: int) -> tuple[Array, Array]:
    """See `segments.unique_labels`."""
    present = _scatter(jnp.zeros(num_labels + 1, jnp.int32), _bounded(labels, num_labels), 1)
    present = present[:num_labels]
    # The smallest labels are the highest of these keys.
    keys = present * (num_labels - jnp.arange(num_labels, dtype=jnp.int32))
    highest = lax.top_k(keys, min(size, num_labels))[0]
    ids = jnp.pad(num_labels - highest, (0, max(size - num_labels, 0)), constant_values=num_labels)
    return ids, jnp.sum(present, dtype=jnp.int32)


def index_labels(labels: Array, ids: Array, num_labels: int | None) -> Array:
    """See `segments.index_labels`; `num_labels` must be given."""
    if num_labels is None:
        raise ValueError('a portable program needs num_labels')
    size = ids.shape[0]
    rows = jnp.where(ids < num_labels, jnp.arange(size, dtype=jnp.int32), size)
    table = jnp.full(num_labels + 1, size, jnp.int32)
    table = table.at[ids].set(rows, mode='promise_in_bounds', wrap_negative_indices=False)
    return _gather(table, _bounded(labels, num_labels))


def segment_sum(index: Array, values: Array, num: int) -> Array:
    """See `segments.segment_sum`; rows of pixels are summed first, for precision."""
    height = index.shape[0]
    place = _index_in_rows(index, num)
    sums = []
    for channel in range(values.shape[-1]):
        zeros = jnp.zeros(height * num + 1, jnp.float32)
        total = zeros.at[place.reshape(-1)].add(
            values[..., channel].reshape(-1), mode='promise_in_bounds', wrap_negative_indices=False
        )
        sums.append(total[:-1].reshape(height, num).sum(0))
    return jnp.stack(sums, -1)


def count_pairs(row_index: Array, column_index: Array, num_rows: int, num_columns: int) -> Array:
    """See `segments.count_pairs`."""
    row, column = jnp.broadcast_arrays(row_index, column_index)
    is_inside = (row >= 0) & (row < num_rows) & (column >= 0) & (column < num_columns)
    pair = jnp.where(is_inside, row * num_columns + column, num_rows * num_columns).reshape(-1)
    counts = jnp.zeros(num_rows * num_columns + 1, jnp.int32)
    ones = jnp.ones_like(pair)
    counts = counts.at[pair].add(ones, mode='promise_in_bounds', wrap_negative_indices=False)
    return counts[:-1].reshape(num_rows, num_columns)


def lookup(table: Array, index: Array) -> Array:
    """See `segments.lookup`."""
    zero = jnp.zeros((1, *table.shape[1:]), table.dtype)
    return _gather(jnp.concatenate([table, zero]), _bounded(index, table.shape[0]))


def first_columns(index: Array, num: int) -> Array:
    """Equals `segments._first_columns`."""
    height, width = index.shape
    columns = lax.broadcasted_iota(jnp.int32, index.shape, 1)
    first = jnp.full(height * num + 1, width, jnp.int32)
    first = first.at[_index_in_rows(index, num).reshape(-1)].min(
        columns.reshape(-1), mode='promise_in_bounds', wrap_negative_indices=False
    )
    return first[:-1].reshape(height, num)


def segment_centroids(index: Array, num: int) -> tuple[Array, Array]:
    """See `segments.segment_centroids`; means are rounded several times."""
    means = []
    area = jnp.zeros(num, jnp.int32)
    for axis, size in enumerate(index.shape):
        position = lax.broadcasted_iota(jnp.int32, index.shape, axis)
        counts = count_pairs(position, index, size, num)
        area = jnp.sum(counts, axis=0)
        weights = jnp.arange(size, dtype=jnp.float32)[:, None]
        total = jnp.sum(counts.astype(jnp.float32) * weights, axis=0)
        means.append(total / jnp.maximum(area, 1).astype(jnp.float32))
    return area, jnp.stack(means, -1)


def _scatter(table: Array, index: Array, value: int) -> Array:
    flat = index.reshape(-1)
    values = jnp.full_like(flat, value, table.dtype)
    return table.at[flat].set(values, mode='promise_in_bounds', wrap_negative_indices=False)


def _gather(table: Array, index: Array) -> Array:
    return table.at[index].get(mode='promise_in_bounds', wrap_negative_indices=False)


def _bounded(index: Array, num: int) -> Array:
    """Moves indices out of range to `num`."""
    return jnp.where((index >= 0) & (index < num), index, num)


def _index_in_rows(index: Array, num: int) -> Array:
    """Numbers the pairs of image row and segment; the last row is for pixels without a segment."""
    row = lax.broadcasted_iota(jnp.int32, index.shape, 0)
    return jnp.where((index >= 0) & (index < num), row * num + index, index.shape[0] * num)
