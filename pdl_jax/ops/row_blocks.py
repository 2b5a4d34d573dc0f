"""Computation on bilinearly upsampled feature maps, one block of rows at a time to save memory."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from pdl_jax.ops.resize import find_neighbours
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array, PyTree

# A block consists of whole tiles of this many rows, unless the map has fewer.
_TILE = 8

# Tables of the rows of a block, or [blocks, ...] of all blocks:
#   'start': i32[], first row of the window in the small map.
#   'low', 'high': i32[R], window rows above and below each row of the block.
#   'fraction': f32[R], weight of 'high'.
#   'weights': f32[R, k], the same interpolation as a matrix.
Rows = Mapping[str, Any]


def map_row_blocks(
    work: Callable[..., PyTree],
    x: Array,
    maps: PyTree,
    *,
    size: tuple[int, int],
    mode: str,
    pixels_per_block: int,
) -> PyTree:
    """Computes maps from an upsampled feature map.

    On a mesh the batch is split over 'data' and the rows of the results over 'space', as
    `placement.split_rows` does; `x` is small, and every device gets all of its rows.

    Args:
      work: (window f32[B, k, w, C], rows, *blocks [B, R, width]) -> blocks [B, R, width]. The
        window holds the rows of `x` that the block's rows lie between; for `rows` see `Rows`.
      x: f32[B, h, w, C].
      maps: a tuple of arrays [B, height, width].
      size: (height, width) to upsample to, in pixels.
      mode: see `resize_bilinear`.
      pixels_per_block: pixels of a block, over all images of a device.

    Returns:
      An array [B, height, width] for every block that `work` returns.
    """

    def run(x: Array, rows: Rows, blocks: PyTree) -> PyTree:
        def step(_: None, inputs: tuple[Rows, PyTree]) -> tuple[None, PyTree]:
            rows, blocks = inputs
            return None, work(_cut(x, rows), rows, *blocks)

        _, results = lax.scan(step, None, (rows, _split(blocks, rows)))
        return jax.tree.map(
            lambda result: jnp.moveaxis(result, 0, 1).reshape(x.shape[0], -1, *result.shape[3:]),
            results,
        )

    results = _run_on_devices(run, P('data', 'space'), x, maps, size, mode, pixels_per_block)
    return jax.tree.map(lambda result: result[:, : size[0]], results)


def add_row_blocks(
    work: Callable[..., Array],
    x: Array,
    maps: PyTree,
    *,
    size: tuple[int, int],
    mode: str,
    pixels_per_block: int,
) -> Array:
    """Transposes `map_row_blocks`: accumulates the gradient of each block's window.

    Takes the arguments of `map_row_blocks`, but `work` returns its window's gradient
    f32[B, k, w, C].

    Returns:
      f32[B, h, w, C].
    """

    def run(x: Array, rows: Rows, blocks: PyTree) -> Array:
        def step(total: Array, inputs: tuple[Rows, PyTree]) -> tuple[Array, None]:
            rows, blocks = inputs
            added = _cut(total, rows) + work(_cut(x, rows), rows, *blocks)
            return lax.dynamic_update_slice_in_dim(total, added, rows['start'], 1), None

        total, _ = lax.scan(step, jnp.zeros_like(x), (rows, _split(blocks, rows)))
        return total

    return _run_on_devices(run, P('data'), x, maps, size, mode, pixels_per_block)


def _run_on_devices(
    run: Callable[[Array, Rows, PyTree], PyTree],
    result_spec: P,
    x: Array,
    maps: PyTree,
    size: tuple[int, int],
    mode: str,
    pixels_per_block: int,
) -> PyTree:
    """Runs `run` per device on its images and rows; sums over 'space' if results are not split."""
    mesh = jax.sharding.get_abstract_mesh()
    # A batch that 'data' does not divide, such as one picture during training, is not split.
    is_split = not mesh.empty and x.shape[0] % mesh.shape['data'] == 0
    num_images = x.shape[0] // mesh.shape['data'] if is_split else x.shape[0]
    num_parts = mesh.shape['space'] if is_split else 1

    height = ceil_div(size[0], num_parts)
    rows = pixels_per_block // (num_images * size[1]) // _TILE * _TILE
    rows = min(max(rows, _TILE), height)
    num_blocks = num_parts * ceil_div(height, rows)
    padding = ((0, 0), (0, num_blocks * rows - size[0]), (0, 0))
    maps = jax.tree.map(lambda m: jnp.pad(m, padding), maps)
    tables = _find_windows(x.shape[1], size[0], mode, rows, num_blocks)
    if not is_split:
        return run(x, tables, maps)

    def run_part(x: Array, tables: Rows, maps: PyTree) -> PyTree:
        results = run(x, tables, maps)
        return (
            lax.psum(results, 'space') if 'space' not in result_spec and num_parts > 1 else results
        )

    specs = (P('data'), P('space'), P('data', 'space'))
    return jax.shard_map(run_part, in_specs=specs, out_specs=result_spec, check_vma=False)(
        x, tables, maps
    )


def _find_windows(in_size: int, out_size: int, mode: str, rows: int, num_blocks: int) -> Rows:
    """Computes the tables of `num_blocks` blocks of `rows` rows."""
    low, high, fraction = find_neighbours(in_size, out_size, mode)
    # Rows beyond the map repeat the last one.
    row = np.minimum(np.arange(num_blocks * rows), out_size - 1).reshape(num_blocks, rows)
    low, high, fraction = low[row], high[row], fraction[row]
    length = int((high[:, -1] - low[:, 0]).max()) + 1
    start = np.minimum(low[:, 0], in_size - length)
    low, high = low - start[:, None], high - start[:, None]
    number = np.arange(length)
    weights = np.where(low[..., None] == number, 1 - fraction[..., None], 0)
    weights += np.where(high[..., None] == number, fraction[..., None], 0)
    return {'start': start, 'low': low, 'high': high, 'fraction': fraction, 'weights': weights}


def _cut(x: Array, rows: Rows) -> Array:
    return lax.dynamic_slice_in_dim(x, rows['start'], rows['weights'].shape[1], 1)


def _split(maps: PyTree, rows: Rows) -> PyTree:
    """Splits [B, blocks * R, W] into blocks: [blocks, B, R, W]."""
    num_blocks = rows['start'].shape[0]
    return jax.tree.map(
        lambda m: jnp.moveaxis(m.reshape(m.shape[0], num_blocks, -1, m.shape[2]), 1, 0), maps
    )
