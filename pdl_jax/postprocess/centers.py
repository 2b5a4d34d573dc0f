"""Instance centres from a heat map."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.batching import max_of_batch
from pdl_jax.ops.platforms import by_platform, is_portable
from pdl_jax.typing import Array

TOP_K_RULES = ('highest', 'above_kth')
# Pixel numbers are exact in f32 up to this.
MAX_PIXELS = 2**24
_MAX_TILE_PX = 64
# A count of one peak, above every pixel number of a tile.
_PEAK = 2**16


def find_centers(
    heatmap: Array,
    *,
    threshold: float = 0.1,
    kernel_px: int,
    max_centers: int,
    top_k_rule: str = 'highest',
) -> tuple[Array, Array, Array]:
    """Finds the peaks of a heat map.

    A pixel is a centre if it lies above `threshold` and is the maximum of its window; all pixels of
    a plateau are. Beyond `max_centers` the highest are kept, equal ones in raster order, where
    DeepLab2's choice is arbitrary. Rows of the result are in raster order too, so that ties between
    centres are broken as in DeepLab2.

    Args:
      heatmap: f32[H, W].
      threshold: a centre must be strictly higher.
      kernel_px: side of the window in pixels; an even one reaches one pixel farther down and right.
      max_centers: number of rows K.
      top_k_rule: choice among K or more peaks: 'highest' keeps K; 'above_kth' keeps those strictly
        higher than the K-th, which are K - 1, or fewer if scores tie (bowenc0221, detectron2).

    Returns:
      centers: f32[K, 2], (y, x) in pixels; 0 in invalid rows.
      scores: f32[K], height of the peak; 0 in invalid rows.
      valid: bool[K], true rows first.

    Raises:
      ValueError: the window or the number of rows is not positive, the rule is unknown, or the map
        exceeds 2**24 pixels.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020, section 3; window and threshold of DeepLab2.
    """
    if kernel_px < 1 or max_centers < 1:
        raise ValueError(
            f'kernel_px (={kernel_px}) and max_centers (={max_centers}) must be at least 1'
        )
    if top_k_rule not in TOP_K_RULES:
        raise ValueError(f'top_k_rule (={top_k_rule!r}) must be one of {TOP_K_RULES}')
    height, width = heatmap.shape
    if height * width > MAX_PIXELS:
        raise ValueError(f'heatmap of {height}x{width} pixels: at most 2**24 pixels are supported')
    highest = _max_window(_max_window(heatmap, kernel_px, 0), kernel_px, 1)
    is_peak = (heatmap > threshold) & (heatmap == highest)
    # Without the barrier XLA would fuse the window maximum into every consumer and recompute it.
    peaks = lax.optimization_barrier(jnp.where(is_peak, heatmap, -jnp.inf))
    scores, pixel = _take_highest_peaks(peaks, kernel_px, max_centers)

    if top_k_rule == 'above_kth':
        # With fewer than K peaks the lowest score is -inf, and all peaks stay.
        scores = jnp.where(scores > jnp.min(scores), scores, -jnp.inf)
    pixel = jnp.where(scores > -jnp.inf, pixel, height * width)
    pixel, scores = lax.sort((pixel, scores), num_keys=1)
    valid = pixel < height * width
    centers = jnp.stack([pixel // width, pixel % width], -1).astype(jnp.float32)
    return jnp.where(valid[:, None], centers, 0.0), jnp.where(valid, scores, 0.0), valid


def _max_window(x: Array, length: int, axis: int) -> Array:
    """Takes maxima over windows of `length` pixels in log2(length) vectorised passes."""
    before = (length - 1) // 2
    if is_portable():
        pads = ((before, length - 1 - before), (0, 0))
        window, pads = ((length, 1), pads) if axis == 0 else ((1, length), pads[::-1])
        return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 1), pads)
    padding = [(0, 0), (0, 0)]
    padding[axis] = (before, length - 1 - before)
    size = x.shape[axis]
    x = jnp.pad(x, padding, constant_values=-jnp.inf)
    span = 1
    while span < length:
        shift = min(span, length - span)
        end = x.shape[axis] - shift
        shifted = lax.slice_in_dim(x, shift, end + shift, axis=axis)
        x = jnp.maximum(lax.slice_in_dim(x, 0, end, axis=axis), shifted)
        span += shift
    return lax.slice_in_dim(x, 0, size, axis=axis)


def _take_highest_peaks(peaks: Array, kernel_px: int, count: int) -> tuple[Array, Array]:
    """Selects the highest peaks, lower pixels on ties.

    A tile is half a window wide, so two peaks in one tile must be equal (a plateau). Normally a
    tile holds at most one peak, and only one candidate per tile is compared.

    Args:
      peaks: f32[H, W], -inf elsewhere.
      kernel_px: side of the window in pixels.
      count: number of peaks to select.

    Returns:
      scores: f32[count], -inf beyond the number of peaks.
      pixel: i32[count], y * W + x.
    """
    height, width = peaks.shape
    if is_portable():
        scores, pixel = lax.top_k(peaks.reshape(-1), min(count, peaks.size))
        return _pad_rows(scores, pixel, count)
    side = min((kernel_px + 1) // 2, _MAX_TILE_PX)
    tiles = jnp.pad(peaks, ((0, -height % side), (0, -width % side)), constant_values=-jnp.inf)
    tiles = tiles.reshape(tiles.shape[0] // side, side, tiles.shape[1])
    # One sum gives the number of peaks of a tile and the place of a single one.
    place = side * jnp.arange(side)[:, None] + jnp.arange(tiles.shape[2]) % side
    found = jnp.where(tiles > -jnp.inf, _PEAK + place, 0)

    def reduce_tiles(reduce: Callable[..., Array], x: Array) -> Array:
        # Reduce rows first, over whole vectors of columns.
        return reduce(reduce(x, 1).reshape(tiles.shape[0], -1, side), 2)

    scores, found = reduce_tiles(jnp.max, tiles), reduce_tiles(jnp.sum, found)
    place = found % _PEAK
    rows = side * jnp.arange(scores.shape[0])[:, None] + place // side
    columns = side * jnp.arange(scores.shape[1]) + place % side
    has_plateau = max_of_batch(jnp.max(found) >= 2 * _PEAK)

    def take_of_all() -> tuple[Array, Array]:
        return _take_highest(
            peaks, jnp.arange(height * width, dtype=jnp.int32).reshape(height, width), count
        )

    return lax.cond(
        has_plateau, take_of_all, lambda: _take_highest(scores, rows * width + columns, count)
    )


def _take_highest(scores: Array, pixels: Array, count: int) -> tuple[Array, Array]:
    """Selects the highest scores of [h, w] and their pixels i32[count], lower pixels on ties."""
    values, pixels = by_platform(
        scores,
        pixels,
        tpu=functools.partial(_take_by_sort, count=min(count, scores.size)),
        default=functools.partial(_take_by_selection, count=min(count, scores.size)),
    )
    return _pad_rows(values, pixels, count)


def _pad_rows(scores: Array, pixels: Array, count: int) -> tuple[Array, Array]:
    missing = count - scores.shape[0]
    return jnp.pad(scores, (0, missing), constant_values=-jnp.inf), jnp.pad(pixels, (0, missing))


def _take_by_selection(scores: Array, pixels: Array, count: int) -> tuple[Array, Array]:
    # lax.top_k would gather a batch that is sharded over devices. approx_max_k does not; on CPU and
    # GPU it is exact but breaks ties arbitrarily, so keys without ties choose the pixels. `lowest`
    # is a minimum, not the last entry, for which XLA:CPU sorts the whole map, sixty times slower.
    scores, pixels = scores.reshape(-1), pixels.reshape(-1)
    lowest = jnp.min(lax.approx_max_k(scores, count, recall_target=1.0)[0])
    order = -pixels.astype(jnp.float32)
    keys = jnp.where(scores == lowest, order, -jnp.inf)
    keys = jnp.where(scores > lowest, order + 2**24, keys)
    chosen = lax.approx_max_k(keys, count, recall_target=1.0)[1]
    return scores[chosen], pixels[chosen]


def _take_by_sort(scores: Array, pixels: Array, count: int) -> tuple[Array, Array]:
    """Sorts every row, then the highest of all rows."""
    negative, pixels = lax.sort((-scores, pixels), num_keys=2)
    candidates = (v[:, : min(count, scores.shape[1])].reshape(-1) for v in (negative, pixels))
    negative, pixels = lax.sort(tuple(candidates), num_keys=2)
    return -negative[:count], pixels[:count]
