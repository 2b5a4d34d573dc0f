"""Depthwise convolutions: shifted sums on CPUs, `lax.conv_general_dilated` on other platforms."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.lax_convolution import choose_backward, lax_conv
from pdl_jax.ops.padding import Dilation, Padding, as_pair, output_shape
from pdl_jax.ops.placement import split_map
from pdl_jax.ops.platforms import by_platform
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_conv(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding
) -> Array:
    """Convolves every channel with its own kernel.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C], of the dtype of `x`.
      stride: step in pixels, the same on both axes.
      dilation: distance between kernel taps in pixels, (height, width) where the two differ.
      padding: zeros added as ((top, bottom), (left, right)).

    Returns:
      [B, H', W', C] of the dtype of `x`.
    """
    return by_platform(
        x,
        kernel,
        cpu=lambda x, k: _shifted_sum(x, k, stride, dilation, padding),
        default=lambda x, k: lax_conv(x, k, stride, dilation, padding, x.shape[-1]),
    )


def _forward(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv(x, kernel, stride, dilation, padding), (x, kernel)


def _backward(
    stride: int,
    dilation: Dilation,
    padding: Padding,
    residuals: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    def backward_lax(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        def primal(x: Array, k: Array) -> Array:
            return lax_conv(x, k, stride, dilation, padding, x.shape[-1])

        return jax.vjp(primal, x, kernel)[1](gradient)

    def backward_shifted(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return (
            _input_gradient(x, kernel, gradient, stride, dilation, padding),
            _kernel_gradient(x, kernel, gradient, stride, dilation, padding),
        )

    x, kernel = residuals
    # If the maps were replicated over 'space', the partitioner would sum the kernel gradient once
    # per replica.
    return choose_backward(
        backward_shifted, backward_lax, split_map(x), kernel, split_map(gradient)
    )


depthwise_conv.defvjp(_forward, _backward)


def _tap(
    x: Array, i: int, j: int, stride: int, dilation: Dilation, out_shape: tuple[int, ...]
) -> Array:
    """Returns the pixels [B, H', W', C] of padded `x` that kernel tap (i, j) meets."""
    y, z = (index * d for index, d in zip((i, j), as_pair(dilation), strict=True))
    rows, columns = (out_shape[1] - 1) * stride + 1, (out_shape[2] - 1) * stride + 1
    return x[:, y : y + rows : stride, z : z + columns : stride]


def _shifted_sum(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding
) -> Array:
    shape = output_shape(x, kernel, stride, dilation, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    total = jnp.zeros(shape, x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total = total + _tap(x, i, j, stride, dilation, shape) * kernel[i, j, 0]
    return total


def _input_gradient(
    x: Array, kernel: Array, gradient: Array, stride: int, dilation: Dilation, padding: Padding
) -> Array:
    """Computes the transposed convolution.

    At stride 1 it is a shifted sum over the gradient with the kernel turned by 180 degrees.
    """
    if stride > 1:
        return _strided_input_gradient(x, kernel, gradient, stride, dilation, padding)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:2], as_pair(dilation), strict=True)]
    pads = []
    for axis in range(2):
        low = reach[axis] - padding[axis][0]
        pads.append((low, x.shape[1 + axis] + reach[axis] - low - gradient.shape[1 + axis], 0))
    # lax.pad crops where a pad is negative.
    padded = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    return _shifted_sum(padded, kernel[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))


def _strided_input_gradient(
    x: Array, kernel: Array, gradient: Array, stride: int, dilation: Dilation, padding: Padding
) -> Array:
    """Computes the transposed convolution of a strided one, phase by phase.

    Padded input pixels are split by phase (index mod stride); each phase meets a subset of the
    taps. The phases are interleaved at the end.
    """
    # Per axis: first input pixel behind the padding, and pixels of a phase, padding included.
    starts = [pad[0] for pad in padding]
    counts = [ceil_div(n + sum(pad), stride) for n, pad in zip(x.shape[1:3], padding, strict=True)]
    befores = [
        (k - 1) * d // stride for k, d in zip(kernel.shape[:2], as_pair(dilation), strict=True)
    ]
    ends = [count - n for count, n in zip(counts, gradient.shape[1:3], strict=True)]
    gradient = jnp.pad(gradient, ((0, 0), *zip(befores, ends, strict=True), (0, 0)))

    def find_taps(axis: int, phase: int) -> list[tuple[int, int]]:
        """Lists (tap, first pixel of the gradient) of the taps that meet a phase."""
        distances = [phase - tap * as_pair(dilation)[axis] for tap in range(kernel.shape[axis])]
        return [
            (tap, befores[axis] + d // stride) for tap, d in enumerate(distances) if d % stride == 0
        ]

    def sum_phase(row_phase: int, column_phase: int) -> Array:
        total = jnp.zeros((x.shape[0], *counts, x.shape[3]), x.dtype)
        for i, y in find_taps(0, row_phase):
            for j, z in find_taps(1, column_phase):
                total = total + gradient[:, y : y + counts[0], z : z + counts[1]] * kernel[i, j, 0]
        return total

    rows = [
        jnp.stack([sum_phase(row, column) for column in range(stride)], 3) for row in range(stride)
    ]
    whole = jnp.stack(rows, 2).reshape(
        x.shape[0], stride * counts[0], stride * counts[1], x.shape[3]
    )
    return whole[:, starts[0] : starts[0] + x.shape[1], starts[1] : starts[1] + x.shape[2]]


def _kernel_gradient(
    x: Array, kernel: Array, gradient: Array, stride: int, dilation: Dilation, padding: Padding
) -> Array:
    """Adds up products row by row for one row of taps at a time, and reduces once at the end.

    The accumulators of a row of taps stay in cache; summing each tap over the whole map would read
    it k * k times. Accumulators for all taps at once would take four times as long to compile.
    """
    size, rows, width = kernel.shape[0], gradient.shape[1], gradient.shape[2]
    row_step, column_step = as_pair(dilation)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    line_shape = (1, 1, *gradient.shape[2:])

    def sum_row_of_taps(i: Array) -> Array:
        def add_line(index: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
            image, row = index // rows, index % rows
            line = lax.dynamic_slice(gradient, (image, row, 0, 0), line_shape)
            pixels = lax.dynamic_slice(
                x, (image, row * stride + i * row_step, 0, 0), (1, 1, *x.shape[2:])
            )
            starts = [j * column_step for j in range(size)]
            taps = [
                pixels[:, :, start : start + (width - 1) * stride + 1 : stride] for start in starts
            ]
            return tuple(
                total + (tap * line).astype(jnp.float32)
                for total, tap in zip(totals, taps, strict=True)
            )

        zeros = tuple(jnp.zeros(line_shape, jnp.float32) for _ in range(size))
        totals = lax.fori_loop(0, gradient.shape[0] * rows, add_line, zeros)
        return jnp.concatenate(totals).sum(axis=(1, 2))

    return lax.map(sum_row_of_taps, jnp.arange(size)).reshape(kernel.shape).astype(kernel.dtype)
