"""Work on enlarged feature maps that never holds all of them: a block of rows at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from pdl_jax.ops.resize import find_neighbours
from pdl_jax.typing import Array, PyTree

# A block has whole tiles of so many rows, but for maps with fewer.
_TILE = 8


def map_row_blocks(
    work: Callable[..., PyTree],
    x: Array,
    maps: PyTree,
    *,
    size: tuple[int, int],
    mode: str,
    pixels_per_block: int,
) -> PyTree:
    """Makes maps of an enlarged feature map.

    On a mesh of devices the batch is split over 'data' and the rows of the results over 'space', as `placement.split_rows` does;
    `x` is small and every device sees all of its rows.

    Args:
      work: (window f32[B, k, w, C], rows, *blocks [B, R, width]) -> blocks [B, R, width]. The window is what the block's rows lie
        between; 'low' and 'high' i32[R] of `rows` are the rows of the window on both sides of each, 'fraction' f32[R] is the
        weight of the latter; f32[R, k] 'weights' says the same as a matrix.
      x: f32[B, h, w, C].
      maps: a tuple of arrays [B, height, width].
      size: (height, width) to enlarge to, in pixels.
      mode: see `resize_bilinear`.
      pixels_per_block: of all images that a device works on.

    Returns:
      [B, height, width] of every block that `work` returns.
    """

    def run(x, rows, blocks):
        def step(_, inputs):
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
    """Adds up what the blocks of `map_row_blocks` give for their windows, f32[B, k, w, C], where these lie: f32[B, h, w, C]."""

    def run(x, rows, blocks):
        def step(total, inputs):
            rows, blocks = inputs
            added = _cut(total, rows) + work(_cut(x, rows), rows, *blocks)
            return lax.dynamic_update_slice_in_dim(total, added, rows['start'], 1), None

        total, _ = lax.scan(step, jnp.zeros_like(x), (rows, _split(blocks, rows)))
        return total

    return _run_on_devices(run, P('data'), x, maps, size, mode, pixels_per_block)


def _run_on_devices(run, result_spec, x, maps, size, mode, pixels_per_block):
    """Runs `run` on every device's part of batch and rows; sums over 'space' where `result_spec` does not split by it."""
    mesh = jax.sharding.get_abstract_mesh()
    # Not outside of a mesh, nor where fewer images than devices are looked at.
    is_split = not mesh.empty and x.shape[0] % mesh.shape['data'] == 0
    num_images = x.shape[0] // mesh.shape['data'] if is_split else x.shape[0]
    num_parts = mesh.shape['space'] if is_split else 1

    height = -(-size[0] // num_parts)
    rows = pixels_per_block // (num_images * size[1]) // _TILE * _TILE
    rows = min(max(rows, _TILE), height)
    num_blocks = num_parts * -(-height // rows)
    padding = ((0, 0), (0, num_blocks * rows - size[0]), (0, 0))
    maps = jax.tree.map(lambda m: jnp.pad(m, padding), maps)
    tables = _find_windows(x.shape[1], size[0], mode, rows, num_blocks)
    if not is_split:
        return run(x, tables, maps)

    def run_part(x, tables, maps):
        results = run(x, tables, maps)
        return (
            lax.psum(results, 'space') if 'space' not in result_spec and num_parts > 1 else results
        )

    specs = (P('data'), P('space'), P('data', 'space'))
    return jax.shard_map(run_part, in_specs=specs, out_specs=result_spec, check_vma=False)(
        x, tables, maps
    )


def _find_windows(in_size, out_size, mode, rows, num_blocks):
    """Tables [blocks, ...] of where the window of each block starts and of its `rows`."""
    low, high, fraction = find_neighbours(in_size, out_size, mode)
    # Rows beyond the map are the last one again.
    row = np.minimum(np.arange(num_blocks * rows), out_size - 1).reshape(num_blocks, rows)
    low, high, fraction = low[row], high[row], fraction[row]
    length = int((high[:, -1] - low[:, 0]).max()) + 1
    start = np.minimum(low[:, 0], in_size - length)
    low, high = low - start[:, None], high - start[:, None]
    number = np.arange(length)
    weights = np.where(low[..., None] == number, 1 - fraction[..., None], 0)
    weights += np.where(high[..., None] == number, fraction[..., None], 0)
    return {'start': start, 'low': low, 'high': high, 'fraction': fraction, 'weights': weights}


def _cut(x, rows):
    return lax.dynamic_slice_in_dim(x, rows['start'], rows['weights'].shape[1], 1)


def _split(maps, rows):
    """[B, blocks * R, W] to [blocks, B, R, W]."""
    num_blocks = rows['start'].shape[0]
    return jax.tree.map(
        lambda m: jnp.moveaxis(m.reshape(m.shape[0], num_blocks, -1, m.shape[2]), 1, 0), maps
    )
