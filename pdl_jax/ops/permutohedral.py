"""Gaussian filtering of points in several dimensions on the permutohedral lattice.

Values are splatted onto the vertices of the simplex around each point, blurred along the d + 1 axes
of the lattice, and sliced: interpolated at the points again. The work is linear in the number of
points, whereas the sum over all pairs (`ops.gaussian_filter`) is quadratic.

Only vertices of some point's simplex exist, up to N (d + 1) of them and often far fewer. They are
numbered by a hash table, and loops over blocks of vertices end with the last one, so arrays have
their static size and time goes by the vertices that exist.

Source: Adams et al., Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010; the
constants are those of the implementation in Krähenbühl and Koltun's densecrf.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.ops.hash_table import HashTable, find_rows, make_table
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array

# Vertices of a step of the loops over them, at most.
_BLOCK = 32768
# All vertices of few points are one step, of a multiple of this.
_SMALL_BLOCK = 1024

# Two maps f32[V, C] of values at the vertices; rows not in use are zero.
Scratch = tuple[Array, Array]


class Lattice(NamedTuple):
    """The lattice around N points of d dimensions.

    Attributes:
      vertices: i32[N, d + 1], the rows of the vertices of each point's simplex.
      weights: f32[N, d + 1], their barycentric weights, which add up to 1.
      neighbours: i32[d + 1, 2, V], the rows of the two neighbours of each vertex along each axis;
        V - 1, a row of zeros, where there is none.
      num_vertices: i32[], the rows in use; V is a bound of them.
    """

    vertices: Array
    weights: Array
    neighbours: Array
    num_vertices: Array


def make_lattice(points: Array) -> Lattice:
    """Makes the lattice around points.

    Args:
      points: f32[N, d]; the filter's standard deviation is 1 along each of the d dimensions.
    """
    keys, weights = _find_simplices(points)
    num_points, num_corners, dimension = keys.shape
    entries = keys.reshape(num_points * num_corners, dimension)
    table, owner = make_table(entries)
    is_first = owner == jnp.arange(owner.shape[0])
    # Rows by first appearance, so that points that are near in memory have vertices that are.
    rows = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    bound = _round_up(owner.shape[0] + 1)
    count = rows[-1] + 1
    entry_of_row = (
        jnp.zeros(bound, jnp.int32)
        .at[jnp.where(is_first, rows, bound)]
        .set(jnp.arange(owner.shape[0], dtype=jnp.int32), mode='drop')
    )
    neighbours = _find_neighbours(table, rows, entry_of_row, count)
    return Lattice(rows[owner].reshape(num_points, num_corners), weights, neighbours, count)


def make_scratch(lattice: Lattice, num_channels: int) -> Scratch:
    """Makes the values of the vertices that `filter_points` works in."""
    shape = lattice.neighbours.shape[2], num_channels
    return jnp.zeros(shape), jnp.zeros(shape)


def filter_points(lattice: Lattice, values: Array, scratch: Scratch) -> tuple[Array, Scratch]:
    """Filters values at the points by the Gaussian, up to a constant factor.

    Args:
      lattice: that of the points.
      values: f32[N, C].
      scratch: of C channels, from `make_scratch` or the filtering before. Handed on, its many
        unused rows are cleared once and not for each filtering.

    Returns:
      f32[N, C], and the scratch.
    """
    total, blurred = scratch
    num_axes = lattice.weights.shape[1]
    empty = jnp.zeros((_block_size(total.shape[0]), values.shape[1]))
    total = _map_blocks(lattice, lambda _: empty, total)
    for corner in range(num_axes):
        share = values * lattice.weights[:, corner, None]
        total = total.at[lattice.vertices[:, corner]].add(share, mode='promise_in_bounds')
    for axis in range(num_axes):
        total, blurred = _blur(lattice, axis, total, blurred), total
    result = jnp.zeros_like(values)
    for corner in range(num_axes):
        result += _take(total, lattice.vertices[:, corner]) * lattice.weights[:, corner, None]
    # Each array keeps its place: a loop that carries them swapped would copy both.
    scratch = (blurred, total) if num_axes % 2 else (total, blurred)
    return result / (1 + 2.0 ** (1 - num_axes)), scratch


def _blur(lattice: Lattice, axis: int, values: Array, target: Array) -> Array:
    """Adds half of the two neighbours to each vertex."""

    size = _block_size(values.shape[0])

    def blur_block(start: Array) -> Array:
        neighbours = lax.dynamic_slice(lattice.neighbours, (axis, 0, start), (1, 2, size))[0]
        around = _take(values, neighbours[0]) + _take(values, neighbours[1])
        return lax.dynamic_slice_in_dim(values, start, size) + 0.5 * around

    return _map_blocks(lattice, blur_block, target)


def _map_blocks(lattice: Lattice, make_block: Callable[[Array], Array], target: Array) -> Array:
    """Writes what `make_block` returns for the first row of each block in use over `target`."""

    size = _block_size(target.shape[0])

    def write(i: Array, target: Array) -> Array:
        start = i * size
        # XLA:CPU runs what is fused with the update on one thread.
        block = lax.optimization_barrier(make_block(start))
        return lax.dynamic_update_slice_in_dim(target, block, start, axis=0)

    return lax.fori_loop(0, _count_blocks(lattice.num_vertices, size), write, target)


def _take(values: Array, rows: Array) -> Array:
    return values.at[rows].get(mode='promise_in_bounds')


def _find_simplices(points: Array) -> tuple[Array, Array]:
    """Finds the simplex around each point.

    Args:
      points: f32[N, d].

    Returns:
      i32[N, d + 1, d], the first d coordinates of its vertices (all d + 1 add up to 0), and
      f32[N, d + 1], the weights.
    """
    dimension = points.shape[1]
    size = dimension + 1
    elevated = _elevate(points)
    # The nearest vertex whose coordinates are multiples of d + 1, unless the sum is not 0.
    rounded = jnp.round(elevated / size)
    base = rounded.astype(jnp.int32) * size
    excess = jnp.sum(rounded, axis=1, dtype=jnp.float32).astype(jnp.int32)[:, None]
    difference = elevated - base
    is_larger = difference[:, None, :] > difference[:, :, None]
    is_earlier = np.tri(size, k=-1, dtype=bool)
    is_tie = difference[:, None, :] == difference[:, :, None]
    rank = jnp.sum(is_larger | (is_tie & is_earlier), axis=2, dtype=jnp.int32) + excess
    shift = jnp.where(rank < 0, size, jnp.where(rank > dimension, -size, 0))
    rank, base = rank + shift, base + shift

    # Barycentric weights are the steps between sorted differences.
    steps = (elevated - base) / size
    is_rank = rank[:, :, None] == np.arange(size)
    ordered = jnp.sum(jnp.where(is_rank, steps[:, :, None], 0), axis=1)
    # Rank d is the smallest: weight r is the step from rank d - r up to the next larger rank.
    last = 1 + ordered[:, -1:] - ordered[:, :1]
    weights = jnp.concatenate([last, (ordered[:, :-1] - ordered[:, 1:])[:, ::-1]], axis=1)
    corner = np.arange(size)[:, None]
    keys = base[:, None, :-1] + jnp.where(
        rank[:, None, :-1] <= dimension - corner, corner, corner - size
    )
    return keys, weights


def _elevate(points: Array) -> Array:
    """Maps f32[N, d] onto the plane of f32[N, d + 1] whose coordinates add up to 0."""
    dimension = points.shape[1]
    scale = (dimension + 1) * math.sqrt(2 / 3)
    scaled = [
        points[:, i] * np.float32(scale / math.sqrt((i + 1) * (i + 2))) for i in range(dimension)
    ]
    total = jnp.zeros_like(scaled[0])
    coordinates = []
    for i in range(dimension, 0, -1):
        coordinates.append(total - i * scaled[i - 1])
        total = total + scaled[i - 1]
    return jnp.stack([*coordinates, total][::-1], axis=1)


def _find_neighbours(table: HashTable, rows: Array, entry_of_row: Array, count: Array) -> Array:
    """Finds the neighbours of each vertex, see `Lattice.neighbours`."""
    dimension = table.keys.shape[1]
    bound = entry_of_row.shape[0]
    num_axes = dimension + 1
    # One step along an axis adds 1 to every coordinate but that of the axis, which loses d.
    steps = jnp.array(1 - num_axes * np.eye(num_axes, dimension, dtype=np.int32))
    missing = jnp.full((num_axes, 2, bound), bound - 1, jnp.int32)
    size = _block_size(bound)

    def find_block(i: Array, neighbours: Array) -> Array:
        start = i * size
        block = lax.dynamic_slice_in_dim(entry_of_row, start, size)
        row = start + jnp.arange(size, dtype=jnp.int32)
        keys = table.keys.at[block].get(mode='promise_in_bounds')
        wanted = (keys + steps[:, None]).reshape(num_axes * size, dimension)
        entry = find_rows(table, wanted).reshape(num_axes, size)
        is_found = (entry >= 0) & (row < count)
        after = jnp.where(is_found, rows.at[jnp.maximum(entry, 0)].get(), bound - 1)
        neighbours = lax.dynamic_update_slice(neighbours, after[:, None], (0, 1, start))
        axis = jnp.arange(num_axes)[:, None]
        target = jnp.where(is_found, after, bound)
        return neighbours.at[axis, 0, target].set(row, mode='drop')

    return lax.fori_loop(0, _count_blocks(count, size), find_block, missing)


def _round_up(num_rows: int) -> int:
    """Rounds a number of rows up to whole blocks."""
    unit = _BLOCK if num_rows > _BLOCK else _SMALL_BLOCK
    return ceil_div(num_rows, unit) * unit


def _block_size(bound: int) -> int:
    return min(bound, _BLOCK)


def _count_blocks(num_vertices: Array, size: int) -> Array:
    return (num_vertices + size - 1) // size
