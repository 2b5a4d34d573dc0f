"""Bilinear resizing of feature maps, with aligned corners or half-pixel centres."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from pdl_jax.ops.platforms import by_platform
from pdl_jax.typing import Array

MODES = ('corner_aligned', 'half_pixel')


def corner_aligned_positions(in_size: int, out_size: int) -> np.ndarray:
    """Returns the input position of each output pixel, f32[out_size]: i * (in - 1) / (out - 1).

    Source: TensorFlow's legacy resize with align_corners=True, which DeepLab2 uses everywhere.
    """
    if out_size == 1:
        return np.zeros(1, np.float32)
    scale = np.float32(in_size - 1) / np.float32(out_size - 1)
    return np.arange(out_size, dtype=np.float32) * scale


def half_pixel_positions(in_size: int, out_size: int) -> np.ndarray:
    """Returns the input position of each output pixel, f32[out_size]: (i + 1/2) * in / out - 1/2.

    Positions are clipped to the input axis.

    Source: PyTorch's interpolate with align_corners=False, which detectron2 and torchvision use.
    """
    position = (np.arange(out_size, dtype=np.float32) + 0.5) * np.float32(in_size / out_size) - 0.5
    return np.clip(position, 0, in_size - 1)


def find_neighbours(
    in_size: int, out_size: int, mode: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the two input pixels that each output pixel of an axis lies between.

    Args:
      in_size: input pixels.
      out_size: output pixels.
      mode: see `resize_bilinear`.

    Returns:
      low: i32[out_size], the neighbour on the left.
      high: i32[out_size], the neighbour on the right.
      fraction: f32[out_size], weight of `high`.

    Raises:
      ValueError: `mode` is unknown.
    """
    if mode not in MODES:
        raise ValueError(f'resize mode {mode!r} is unknown; choose one of {MODES}')
    find_positions = corner_aligned_positions if mode == 'corner_aligned' else half_pixel_positions
    position = find_positions(in_size, out_size)
    low = np.clip(np.floor(position).astype(np.int32), 0, in_size - 1)
    return low, np.minimum(low + 1, in_size - 1), (position - low).astype(np.float32)


def find_traced_neighbours(
    index: Array, source: ArrayLike, target: ArrayLike, mode: str
) -> tuple[Array, Array, Array]:
    """Finds the neighbours of pixels of an axis whose sizes are traced, see `find_neighbours`.

    Args:
      index: f32[..., n], pixels of the output; those beyond it have the last ones as neighbours.
      source: pixels of the input.
      target: pixels of the output.
      mode: see `resize_bilinear`.

    Returns:
      low, high and fraction as f32[..., n].
    """
    source, target = jnp.asarray(source, jnp.float32), jnp.asarray(target, jnp.float32)
    if mode == 'corner_aligned':
        position = index * ((source - 1) / jnp.maximum(target - 1, 1))
    else:
        position = (index + 0.5) * (source / target) - 0.5
    position = jnp.clip(position, 0, source - 1)
    low = jnp.floor(position)
    return low, jnp.minimum(low + 1, source - 1), position - low


def interpolation_matrix(in_size: int, out_size: int, mode: str) -> np.ndarray:
    """Returns the interpolation of an axis as a matrix f32[out_size, in_size]."""
    return _blend_matrix(in_size, *find_neighbours(in_size, out_size, mode))


def _blend_matrix(
    in_size: int, low: np.ndarray, high: np.ndarray, fraction: np.ndarray
) -> np.ndarray:
    matrix = np.zeros((len(low), in_size), np.float32)
    rows = np.arange(len(low))
    np.add.at(matrix, (rows, low), 1 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def resize_bilinear(x: Array, size: tuple[int, int], mode: str = 'corner_aligned') -> Array:
    """Resizes feature maps.

    TPU and GPU multiply by two small constant matrices, without a gather; CPU blends neighbouring
    rows and columns, which XLA:CPU runs several times faster.

    Args:
      x: float[B, H, W, C].
      size: (height, width) of the result in pixels.
      mode: 'corner_aligned' aligns centres of corner pixels (TensorFlow's DeepLabs, bowenc0221);
        'half_pixel' aligns the corners of the images (detectron2, torchvision), without a low-pass
        filter when downsampling.

    Returns:
      float[B, height, width, C] of the dtype of `x`.

    Raises:
      ValueError: `mode` is unknown.
    """
    if x.shape[1:3] == tuple(size):
        return x
    if x.shape[1:3] == (1, 1):
        return jnp.broadcast_to(x, (x.shape[0], *size, x.shape[3]))
    return by_platform(
        x,
        cpu=lambda x: _blend(x, size, mode),
        default=lambda x: _multiply(x, size, mode),
        portable=lambda x: _PORTABLE[mode](x, tuple(size)),
    )


def upsample_offsets(offsets: Array, size: tuple[int, int], mode: str) -> Array:
    """Resizes maps of offsets, and the offsets themselves by the ratio of the two pixel grids.

    The ratio is (out - 1) / (in - 1) per axis where corners are aligned, out / in where pixel
    centres are.

    Args:
      offsets: f32[B, h, w, 2 N], N pairs (dy, dx) in pixels of these maps.
      size: (height, width) of the result in pixels.
      mode: see `resize_bilinear`.

    Returns:
      f32[B, height, width, 2 N], in pixels of the result.
    """
    shrink = 1 if mode == 'corner_aligned' else 0
    scale = [
        (large - shrink) / max(small - shrink, 1)
        for large, small in zip(size, offsets.shape[1:3], strict=True)
    ]
    factors = jnp.array(scale * (offsets.shape[-1] // 2), jnp.float32)
    return resize_bilinear(offsets * factors, size, mode)


def resize_by_factor(x: Array, factor: float) -> Array:
    """Resizes to floor(H factor) x floor(W factor), sampling at (i + 1/2) / factor - 1/2.

    `resize_bilinear` samples by the ratio of the two sizes instead, which differs where they were
    rounded.

    Args:
      x: float[B, H, W, C].
      factor: positive; shrinking has no low-pass filter.

    Source: PyTorch's interpolate with scale_factor and align_corners=False.
    """
    matrices = []
    for n in x.shape[1:3]:
        position = (np.arange(int(n * factor)) + 0.5) / factor - 0.5
        position = np.clip(position, 0, n - 1)
        low = position.astype(np.int32)
        fraction = (position - low).astype(np.float32)
        matrices.append(_blend_matrix(n, low, np.minimum(low + 1, n - 1), fraction))
    return _apply(x, *matrices)


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """Resizes i32[B, H, W], or such weights, to (height, width) by the nearest pixel, as Pillow."""
    rows, columns = (
        ((np.arange(m) + 0.5) * n / m).astype(np.int32)
        for n, m in zip(labels.shape[1:3], size, strict=True)
    )
    return jnp.take(jnp.take(labels, rows, axis=1), columns, axis=2)


def subsample(x: Array, size: tuple[int, int]) -> Array:
    """Takes every s-th row and column of a map, s = (H - 1) // (height - 1), from the first on.

    Args:
      x: [..., H, W], values that must not be blended, such as labels.
      size: (height, width) of the result in pixels.

    Raises:
      ValueError: no such steps lead to `size`.
    """
    steps = [(n - 1) // max(m - 1, 1) or 1 for n, m in zip(x.shape[-2:], size, strict=True)]
    steps = [n if m == 1 else s for n, m, s in zip(x.shape[-2:], size, steps, strict=True)]
    taken = x[..., :: steps[0], :: steps[1]]
    if taken.shape[-2:] != tuple(size):
        raise ValueError(
            f'a label map of {x.shape[-2:]} pixels has no subsample of {tuple(size)}: its sides '
            f'must be s * (n - 1) + 1 .. s * n pixels for n pixels of the result'
        )
    return taken


def _resize_forward(x: Array, size: tuple[int, int], mode: str) -> tuple[Array, Array]:
    # The residual carries only the input's shape and dtype; XLA drops its values.
    return resize_bilinear(x, size, mode), jnp.zeros((0, *x.shape[1:3]), x.dtype)


def _resize_backward(
    size: tuple[int, int], mode: str, residual: Array, gradient: Array
) -> tuple[Array]:
    in_size = residual.shape[1:]
    if in_size == tuple(size):
        return (gradient,)
    rows, columns = (interpolation_matrix(n, m, mode) for n, m in zip(in_size, size, strict=True))
    return (_apply(gradient, rows.T, columns.T),)


resize_bilinear.defvjp(_resize_forward, _resize_backward)


def _apply(x: Array, row_matrix: np.ndarray, column_matrix: np.ndarray) -> Array:
    """Multiplies height and width by matrices; HIGHEST, lest a TPU round f32 to bf16."""
    rows, columns = jnp.asarray(row_matrix, x.dtype), jnp.asarray(column_matrix, x.dtype)
    x = jnp.einsum('hi,biwc->bhwc', rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum('wj,bhjc->bhwc', columns, x, precision=lax.Precision.HIGHEST)


def _multiply(x: Array, size: tuple[int, int], mode: str) -> Array:
    rows, columns = (
        interpolation_matrix(n, m, mode) for n, m in zip(x.shape[1:3], size, strict=True)
    )
    return _apply(x, rows, columns)


@functools.partial(jax.jit, static_argnums=1)
def resize_corner_aligned(x: Array, size: tuple[int, int]) -> Array:
    """Resizes as one call in the program, which an exporter knows by its name."""
    return _multiply(x, size, 'corner_aligned')


@functools.partial(jax.jit, static_argnums=1)
def resize_half_pixel(x: Array, size: tuple[int, int]) -> Array:
    """Resizes as one call in the program, which an exporter knows by its name."""
    return _multiply(x, size, 'half_pixel')


_PORTABLE = {'corner_aligned': resize_corner_aligned, 'half_pixel': resize_half_pixel}


def _blend(x: Array, size: tuple[int, int], mode: str) -> Array:
    if x.shape[-1] == 2:
        # Offsets: XLA:CPU is slow with so few innermost channels. A consumer that splits them again
        # reads these maps directly.
        return jnp.concatenate([_blend(x[..., i : i + 1], size, mode) for i in range(2)], axis=-1)
    for axis in (1, 2):
        low, high, fraction = find_neighbours(x.shape[axis], size[axis - 1], mode)
        weight = jnp.asarray(fraction, x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
        x = below + (above - below) * weight
    # Without the barrier every consumer of the result might recompute the blend.
    return lax.optimization_barrier(x)
