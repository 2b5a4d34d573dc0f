"""Convolutions with a formulation per platform: the same values, each platform's fast spelling.

XLA:CPU is slow at three things this network is made of: depthwise convolutions, 1x1 convolutions and the gradient of
every convolution with respect to its kernel. On a CPU they are spelled as shifted sums and matrix products instead; on
other platforms they stay `lax.conv_general_dilated`. The choice is made when the program is lowered, so a program
compiled ahead of time for a TPU on a CPU machine gets the TPU's spelling.

On a mesh every device works on its images and the gradients of kernels are summed once, at the end. Where image rows are split
too, the spelling is the same on all platforms: of the loops and reshapes of the others the compiler would gather whole maps.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from pdl_jax.ops.placement import are_rows_split, gather_small_map, split_map
from pdl_jax.typing import Array

Padding = tuple[tuple[int, int], tuple[int, int]]
Dilation = int | tuple[int, int]
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def symmetric_padding(kernel_size: int, dilation: Dilation) -> Padding:
    """Zero padding of (k_eff - 1) // 2 on both sides, whatever the stride (DeepLab2, PyTorch)."""
    pads = [(kernel_size - 1) * d // 2 for d in _pair(dilation)]
    return tuple((pad, pad) for pad in pads)


def same_padding(
    size: tuple[int, int], kernel_size: int, stride: int, dilation: Dilation
) -> Padding:
    """TensorFlow's SAME padding for an input of `size`: the odd pixel goes to the bottom and right."""
    reach = [(kernel_size - 1) * d + 1 for d in _pair(dilation)]
    totals = [
        max((-(-n // stride) - 1) * stride + r - n, 0) for n, r in zip(size, reach, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)


def _pair(dilation):
    return (dilation, dilation) if isinstance(dilation, int) else tuple(dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv(x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding) -> Array:
    """Convolves a batch of feature maps.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, D], of the dtype of `x`.
      stride: step in pixels, the same on both axes.
      dilation: distance between kernel taps in pixels, (height, width) where the two differ.
      padding: zeros added as ((top, bottom), (left, right)).

    Returns:
      [B, H', W', D] of the dtype of `x`.
    """
    if _is_pointwise(kernel, padding):
        return _dot(x[:, ::stride, ::stride], kernel[0, 0])
    forward = functools.partial(_lax_conv, stride=stride, dilation=dilation, padding=padding)
    if are_rows_split() or not _is_cropping_cheaper(x, kernel, stride, dilation, padding):
        return forward(x, kernel)
    cropped = functools.partial(_cropped_conv, dilation=dilation, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=cropped, default=forward)


def _conv_forward(x, kernel, stride, dilation, padding):
    return conv(x, kernel, stride, dilation, padding), (x, kernel)


def _conv_backward(stride, dilation, padding, residuals, gradient):
    x, kernel = residuals
    x, gradient = gather_small_map(x), gather_small_map(gradient)
    if _is_pointwise(kernel, padding):
        dense = lax.dot_general(gradient, kernel[0, 0], (((3,), (1,)), ((), ())))
        kernel_gradient = _outer(x[:, ::stride, ::stride], gradient)
        if stride > 1:
            dense = jnp.zeros_like(x).at[:, ::stride, ::stride].set(dense)
        return dense, kernel_gradient.reshape(kernel.shape)

    def input_gradient(x, kernel, gradient):
        primal = functools.partial(
            _lax_conv, kernel=kernel, stride=stride, dilation=dilation, padding=padding
        )
        return jax.linear_transpose(primal, x)(gradient)[0]

    def backward_lax(x, kernel, gradient):
        def primal(k):
            return _lax_conv(x, k, stride, dilation, padding)

        return input_gradient(x, kernel, gradient), jax.linear_transpose(primal, kernel)(gradient)[
            0
        ]

    def backward_dots(x, kernel, gradient):
        return (
            input_gradient(x, kernel, gradient),
            _kernel_gradient(x, kernel, gradient, stride, dilation, padding),
        )

    def backward_cropped(x, kernel, gradient):
        return _cropped_gradients(x, kernel, gradient, dilation, padding)

    is_cropped = _is_cropping_cheaper(x, kernel, stride, dilation, padding)
    return _choose_backward(
        backward_cropped if is_cropped else backward_dots, backward_lax, x, kernel, gradient
    )


conv.defvjp(_conv_forward, _conv_backward)


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
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, k: _shifted_sum(x, k, stride, dilation, padding),
        default=lambda x, k: _lax_conv(x, k, stride, dilation, padding, x.shape[-1]),
    )


def _depthwise_forward(x, kernel, stride, dilation, padding):
    return depthwise_conv(x, kernel, stride, dilation, padding), (x, kernel)


def _depthwise_backward(stride, dilation, padding, residuals, gradient):
    def backward_lax(x, kernel, gradient):
        def primal(x, k):
            return _lax_conv(x, k, stride, dilation, padding, x.shape[-1])

        return jax.vjp(primal, x, kernel)[1](gradient)

    def backward_shifted(x, kernel, gradient):
        return (
            _shifted_sum_input_gradient(x, kernel, gradient, stride, dilation, padding),
            _depthwise_kernel_gradient(x, kernel, gradient, stride, dilation, padding),
        )

    x, kernel = residuals
    # Of maps that every device along 'space' has, XLA's partitioner adds up the gradient of the kernel once for each of them.
    return _choose_backward(
        backward_shifted, backward_lax, split_map(x), kernel, split_map(gradient)
    )


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def _choose_backward(cpu, default, x, kernel, gradient):
    """Runs one of two functions (x, kernel, gradient) -> (gradient of x, gradient of the kernel)."""
    mesh = jax.sharding.get_abstract_mesh()
    if are_rows_split() or (not mesh.empty and x.shape[0] % mesh.shape['data']):
        return default(x, kernel, gradient)

    def run_part(x, kernel, gradient):
        input_gradient, kernel_gradient = cpu(x, kernel, gradient)
        return input_gradient, lax.psum(kernel_gradient, 'data')

    if not mesh.empty and mesh.shape['data'] > 1:
        specs = {'in_specs': (P('data'), P(), P('data')), 'out_specs': (P('data'), P())}
        return lax.platform_dependent(
            x,
            kernel,
            gradient,
            cpu=jax.shard_map(run_part, **specs, check_vma=False),
            default=default,
        )
    return lax.platform_dependent(x, kernel, gradient, cpu=cpu, default=default)


def _is_pointwise(kernel, padding):
    return kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))


def _dot(x, matrix):
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())))


def _outer(x, y):
    """Sums products over pixels: [C, D] from [B, H, W, C] and [B, H, W, D].

    Pixels are one axis: of three of them XLA:CPU first makes a transposed copy, which costs as much as the product.
    """
    if are_rows_split():
        return lax.dot_general(x, y, (((0, 1, 2), (0, 1, 2)), ((), ())))
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    return lax.dot_general(x, y, (((0,), (0,)), ((), ())))


def _overlaps(x, kernel, dilation, padding):
    """Where the taps of a stride-1 convolution meet the map: (i, j, slices of the output, slices of `x`) of each that does."""
    axes = []
    for k, n, d, pad in zip(kernel.shape[:2], x.shape[1:3], _pair(dilation), padding, strict=True):
        out_size = n + sum(pad) - (k - 1) * d
        ranges = []
        for tap in range(k):
            shift = tap * d - pad[0]
            low, high = max(0, -shift), min(out_size, n - shift)
            ranges.append((slice(low, high), slice(low + shift, high + shift)))
        axes.append(ranges)
    return [
        (i, j, (slice(None), rows[0], columns[0]), (slice(None), rows[1], columns[1]))
        for i, rows in enumerate(axes[0])
        for j, columns in enumerate(axes[1])
        if rows[0].start < rows[0].stop and columns[0].start < columns[0].stop
    ]


def _is_cropping_cheaper(x, kernel, stride, dilation, padding):
    """Whether so much of a dilated kernel hangs over the edges that leaving it out pays for one product per tap."""
    if stride > 1 or max(_pair(dilation)) == 1:
        return False
    overlaps = _overlaps(x, kernel, dilation, padding)
    met = sum(
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for *_, (_, rows, columns) in overlaps
    )
    size = _output_shape(x, kernel, stride, dilation, padding)[1:3]
    return met < 0.95 * math.prod(size) * math.prod(kernel.shape[:2])


def _cropped_conv(x, kernel, dilation, padding):
    """One product for each tap that meets the map, in a loop.

    Outside of a loop XLA:CPU would first copy all parts of the kernel: a hundred megabytes for an ASPP, and half of its time.
    """
    shape = (*_output_shape(x, kernel, 1, dilation, padding)[:3], kernel.shape[3])

    def make_tap(i, j, out, inside):
        return lambda: _pad_piece(_dot(x[inside], kernel[i, j]), out, shape)

    taps = [make_tap(*overlap) for overlap in _overlaps(x, kernel, dilation, padding)]
    zeros = jnp.zeros(shape, x.dtype)
    return lax.fori_loop(0, len(taps), lambda index, total: total + lax.switch(index, taps), zeros)


def _cropped_gradients(x, kernel, gradient, dilation, padding):
    input_gradient, kernel_gradients = jnp.zeros_like(x), {}
    for i, j, out, inside in _overlaps(x, kernel, dilation, padding):
        piece = gradient[out]
        product = lax.dot_general(piece, kernel[i, j], (((3,), (1,)), ((), ())))
        input_gradient = input_gradient + _pad_piece(product, inside, x.shape)
        kernel_gradients[i, j] = _outer(x[inside], piece)
    unmet = jnp.zeros(kernel.shape[2:], kernel.dtype)
    taps = [kernel_gradients.get(tap, unmet) for tap in np.ndindex(*kernel.shape[:2])]
    return input_gradient, jnp.stack(taps).reshape(kernel.shape)


def _pad_piece(piece, where, shape):
    """A piece of a map of `shape`, with the slices where it lies, and zeros around it."""
    ends = [(at.start, n - at.stop) for at, n in zip(where[1:], shape[1:3], strict=True)]
    return jnp.pad(piece, ((0, 0), *ends, (0, 0)))


def _kernel_gradient(x, kernel, gradient, stride, dilation, padding):
    """One product per row of taps, with the taps of the row side by side as channels.

    A product for each tap is slower for few channels, and a single one needs k * k copies of the map.
    """
    height, width = gradient.shape[1:3]
    row_step, column_step = _pair(dilation)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    starts = [j * column_step for j in range(kernel.shape[1])]
    x = jnp.concatenate(
        [x[:, :, start : start + (width - 1) * stride + 1 : stride] for start in starts], axis=-1
    )

    def sum_row_of_taps(i):
        rows = lax.dynamic_slice_in_dim(x, i * row_step, (height - 1) * stride + 1, axis=1)
        return _outer(rows[:, ::stride], gradient)

    return lax.map(sum_row_of_taps, jnp.arange(kernel.shape[0])).reshape(kernel.shape)


def _lax_conv(x, kernel, stride, dilation, padding, groups=1):
    if groups == 1:
        x = gather_small_map(x)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=_pair(dilation),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _tap(x, i, j, stride, dilation, out_shape):
    """The pixels of padded `x` that kernel tap (i, j) meets, [B, H', W', C]."""
    y, z = (index * d for index, d in zip((i, j), _pair(dilation), strict=True))
    rows, columns = (out_shape[1] - 1) * stride + 1, (out_shape[2] - 1) * stride + 1
    return x[:, y : y + rows : stride, z : z + columns : stride]


def _output_shape(x, kernel, stride, dilation, padding):
    size = [
        (n + sum(pad) - (k - 1) * d - 1) // stride + 1
        for n, k, d, pad in zip(
            x.shape[1:3], kernel.shape[:2], _pair(dilation), padding, strict=True
        )
    ]
    return (x.shape[0], *size, x.shape[3])


def _shifted_sum(x, kernel, stride, dilation, padding):
    shape = _output_shape(x, kernel, stride, dilation, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    total = jnp.zeros(shape, x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total = total + _tap(x, i, j, stride, dilation, shape) * kernel[i, j, 0]
    return total


def _shifted_sum_input_gradient(x, kernel, gradient, stride, dilation, padding):
    """The transposed convolution: a stride-1 shifted sum over the gradient with the kernel turned by 180 degrees."""
    if stride > 1:
        return _strided_input_gradient(x, kernel, gradient, stride, dilation, padding)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:2], _pair(dilation), strict=True)]
    pads = []
    for axis in range(2):
        low = reach[axis] - padding[axis][0]
        pads.append((low, x.shape[1 + axis] + reach[axis] - low - gradient.shape[1 + axis], 0))
    # lax.pad crops where a pad is negative.
    padded = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    return _shifted_sum(padded, kernel[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))


def _strided_input_gradient(x, kernel, gradient, stride, dilation, padding):
    """The same for every stride-th pixel at a time, which only some of the taps meet; then all of them side by side."""
    # Of each axis: where the input lies among its padding, and how many pixels of every kind it has together with that.
    starts = [pad[0] for pad in padding]
    counts = [-(-(n + sum(pad)) // stride) for n, pad in zip(x.shape[1:3], padding, strict=True)]
    befores = [
        (k - 1) * d // stride for k, d in zip(kernel.shape[:2], _pair(dilation), strict=True)
    ]
    ends = [count - n for count, n in zip(counts, gradient.shape[1:3], strict=True)]
    gradient = jnp.pad(gradient, ((0, 0), *zip(befores, ends, strict=True), (0, 0)))

    def find_taps(axis, phase):
        """(tap, first pixel of the gradient) of the taps that meet the pixels of a phase."""
        distances = [phase - tap * _pair(dilation)[axis] for tap in range(kernel.shape[axis])]
        return [
            (tap, befores[axis] + d // stride) for tap, d in enumerate(distances) if d % stride == 0
        ]

    def sum_phase(row_phase, column_phase):
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


def _depthwise_kernel_gradient(x, kernel, gradient, stride, dilation, padding):
    """Adds up products row by row for one row of taps at a time, and reduces once at the end.

    The accumulators of a row stay in cache; summing each tap over the whole map would read it k * k times. Accumulators of
    all taps at once would take four times as long to compile.
    """
    size, rows, width = kernel.shape[0], gradient.shape[1], gradient.shape[2]
    row_step, column_step = _pair(dilation)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    line_shape = (1, 1, *gradient.shape[2:])

    def sum_row_of_taps(i):
        def add_line(index, totals):
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
