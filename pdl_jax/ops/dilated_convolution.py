"""Stride-1 convolutions whose dilated kernel hangs over the edges, for CPUs.

Each tap is one matrix product with the part of the map that it meets; the padding is never read.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.ops.padding import Dilation, Padding, as_pair, output_shape
from pdl_jax.ops.pixel_products import (
    multiply_pixels,
    multiply_pixels_transposed,
    sum_outer_products,
)
from pdl_jax.typing import Array

_Slices = tuple[slice, slice, slice]


class _Overlap(NamedTuple):
    """A kernel tap that meets the map.

    Attributes:
      row, column: the tap.
      outside: slices (batch, rows, columns) of the output pixels that it contributes to.
      inside: slices of the input pixels that it reads for them.
    """

    row: int
    column: int
    outside: _Slices
    inside: _Slices


def _find_overlaps(x: Array, kernel: Array, dilation: Dilation, padding: Padding) -> list[_Overlap]:
    """Lists the taps of a stride-1 convolution that meet the map."""
    axes = []
    for k, n, d, pad in zip(
        kernel.shape[:2], x.shape[1:3], as_pair(dilation), padding, strict=True
    ):
        out_size = n + sum(pad) - (k - 1) * d
        ranges = []
        for tap in range(k):
            shift = tap * d - pad[0]
            low, high = max(0, -shift), min(out_size, n - shift)
            ranges.append((slice(low, high), slice(low + shift, high + shift)))
        axes.append(ranges)
    return [
        _Overlap(i, j, (slice(None), rows[0], columns[0]), (slice(None), rows[1], columns[1]))
        for i, rows in enumerate(axes[0])
        for j, columns in enumerate(axes[1])
        if rows[0].start < rows[0].stop and columns[0].start < columns[0].stop
    ]


def is_cropping_cheaper(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding
) -> bool:
    """Tells if enough of a dilated kernel lies in the padding to pay for one product per tap."""
    if stride > 1 or max(as_pair(dilation)) == 1:
        return False
    overlaps = _find_overlaps(x, kernel, dilation, padding)
    met = sum(
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for *_, (_, rows, columns) in overlaps
    )
    size = output_shape(x, kernel, stride, dilation, padding)[1:3]
    return met < 0.95 * math.prod(size) * math.prod(kernel.shape[:2])


def cropped_conv(x: Array, kernel: Array, dilation: Dilation, padding: Padding) -> Array:
    """Convolves with one product per tap that meets the map, in a loop.

    Outside of a loop XLA:CPU would first copy all parts of the kernel: a hundred megabytes for an
    ASPP, and half of its time.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, D].
      dilation: distance between kernel taps in pixels.
      padding: zeros around the map in pixels.

    Returns:
      [B, H', W', D].
    """
    shape = (*output_shape(x, kernel, 1, dilation, padding)[:3], kernel.shape[3])

    def make_tap(tap: _Overlap) -> Callable[[], Array]:
        return lambda: _pad_piece(
            multiply_pixels(x[tap.inside], kernel[tap.row, tap.column]), tap.outside, shape
        )

    taps = [make_tap(tap) for tap in _find_overlaps(x, kernel, dilation, padding)]
    zeros = jnp.zeros(shape, x.dtype)
    return lax.fori_loop(0, len(taps), lambda index, total: total + lax.switch(index, taps), zeros)


def cropped_gradients(
    x: Array, kernel: Array, gradient: Array, dilation: Dilation, padding: Padding
) -> tuple[Array, Array]:
    """Returns the gradients of `cropped_conv` with respect to `x` and `kernel`."""
    input_gradient, kernel_gradients = jnp.zeros_like(x), {}
    for i, j, outside, inside in _find_overlaps(x, kernel, dilation, padding):
        piece = gradient[outside]
        product = multiply_pixels_transposed(piece, kernel[i, j])
        input_gradient = input_gradient + _pad_piece(product, inside, x.shape)
        kernel_gradients[i, j] = sum_outer_products(x[inside], piece)
    unmet = jnp.zeros(kernel.shape[2:], kernel.dtype)
    taps = [kernel_gradients.get(tap, unmet) for tap in np.ndindex(*kernel.shape[:2])]
    return input_gradient, jnp.stack(taps).reshape(kernel.shape)


def _pad_piece(piece: Array, where: _Slices, shape: tuple[int, ...]) -> Array:
    """Pads the piece that lies at `where` in a map of `shape` with zeros to the whole map."""
    ends = [(at.start, n - at.stop) for at, n in zip(where[1:], shape[1:3], strict=True)]
    return jnp.pad(piece, ((0, 0), *ends, (0, 0)))
