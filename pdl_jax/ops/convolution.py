"""Convolutions with a formulation per platform: the same values, each platform's fast spelling.

XLA:CPU is slow at three things this network is made of: depthwise convolutions, 1x1 convolutions and the gradient of
every convolution with respect to its kernel. On a CPU they are spelled as shifted sums and matrix products instead; on
other platforms they stay `lax.conv_general_dilated`. The choice is made when the program is lowered, so a program
compiled ahead of time for a TPU on a CPU machine gets the TPU's spelling.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array

Padding = tuple[tuple[int, int], tuple[int, int]]
Dilation = int | tuple[int, int]
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def symmetric_padding(kernel_size: int, dilation: Dilation) -> Padding:
    """Zero padding of (k_eff - 1) // 2 on both sides, whatever the stride (DeepLab2, PyTorch)."""
    pads = [(kernel_size - 1) * d // 2 for d in _pair(dilation)]
    return tuple((pad, pad) for pad in pads)


def same_padding(size: tuple[int, int], kernel_size: int, stride: int, dilation: Dilation) -> Padding:
    """TensorFlow's SAME padding for an input of `size`: the odd pixel goes to the bottom and right."""
    reach = [(kernel_size - 1) * d + 1 for d in _pair(dilation)]
    totals = [max((-(-n // stride) - 1) * stride + r - n, 0) for n, r in zip(size, reach, strict=True)]
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
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return lax.dot_general(x[:, ::stride, ::stride], kernel[0, 0], (((3,), (0,)), ((), ())))
    return _lax_conv(x, kernel, stride, dilation, padding)


def _conv_forward(x, kernel, stride, dilation, padding):
    return conv(x, kernel, stride, dilation, padding), (x, kernel)


def _conv_backward(stride, dilation, padding, residuals, gradient):
    x, kernel = residuals

    def input_gradient(x, kernel, gradient):
        primal = functools.partial(
            _lax_conv, kernel=kernel, stride=stride, dilation=dilation, padding=padding
        )
        return jax.linear_transpose(primal, x)(gradient)[0]

    def kernel_gradient_lax(x, kernel, gradient):
        def primal(k):
            return _lax_conv(x, k, stride, dilation, padding)

        return jax.linear_transpose(primal, kernel)(gradient)[0]

    def kernel_gradient_dots(x, kernel, gradient):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        taps = [
            # 'dc' before the transpose: twice as fast as 'cd' on XLA:CPU where nine taps are summed.
            jnp.einsum('bhwd,bhwc->dc', gradient, _tap(x, i, j, stride, dilation, gradient.shape)).T
            for i in range(kernel.shape[0])
            for j in range(kernel.shape[1])
        ]
        return jnp.stack(taps).reshape(kernel.shape)

    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        dense = lax.dot_general(gradient, kernel[0, 0], (((3,), (1,)), ((), ())))
        kernel_gradient = jnp.einsum('bhwc,bhwd->cd', x[:, ::stride, ::stride], gradient)
        if stride > 1:
            dense = jnp.zeros_like(x).at[:, ::stride, ::stride].set(dense)
        return dense, kernel_gradient.reshape(kernel.shape)
    return (
        input_gradient(x, kernel, gradient),
        lax.platform_dependent(
            x, kernel, gradient, cpu=kernel_gradient_dots, default=kernel_gradient_lax
        ),
    )


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_conv(x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding) -> Array:
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

    return lax.platform_dependent(*residuals, gradient, cpu=backward_shifted, default=backward_lax)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def _lax_conv(x, kernel, stride, dilation, padding, groups=1):
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
        for n, k, d, pad in zip(x.shape[1:3], kernel.shape[:2], _pair(dilation), padding, strict=True)
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
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:2], _pair(dilation), strict=True)]
    pads = []
    for axis in range(2):
        low = reach[axis] - padding[axis][0]
        spread = (gradient.shape[1 + axis] - 1) * stride + 1
        high = x.shape[1 + axis] + reach[axis] - low - spread
        pads.append((low, high, stride - 1))
    # lax.pad spreads the gradient of a strided convolution (interior zeros) and crops where a pad is negative.
    spread_gradient = lax.pad(
        gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *pads, (0, 0, 0))
    )
    return _shifted_sum(spread_gradient, kernel[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))


def _depthwise_kernel_gradient(x, kernel, gradient, stride, dilation, padding):
    """Adds up products row by row, tap by tap, and reduces once at the end.

    The accumulators of one row stay in cache; summing each tap over the whole map would read it k * k times.
    """
    size, rows = kernel.shape[0], gradient.shape[1]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    row_shape = (1, 1, *gradient.shape[2:])
    window_shape = (1, (size - 1) * _pair(dilation)[0] + 1, *x.shape[2:])

    def add_row(index, totals):
        image, row = index // rows, index % rows
        line = lax.dynamic_slice(gradient, (image, row, 0, 0), row_shape)
        # One dynamic slice, then static ones: XLA fuses all taps of a row into one kernel.
        window = lax.dynamic_slice(x, (image, row * stride, 0, 0), window_shape)
        products = [
            _tap(window, i, j, stride, dilation, row_shape) * line
            for i in range(size)
            for j in range(size)
        ]
        return tuple(
            total + product.astype(jnp.float32)
            for total, product in zip(totals, products, strict=True)
        )

    zeros = tuple(jnp.zeros(row_shape, jnp.float32) for _ in range(size * size))
    totals = lax.fori_loop(0, gradient.shape[0] * rows, add_row, zeros)
    return jnp.concatenate(totals).sum(axis=(1, 2)).reshape(kernel.shape).astype(kernel.dtype)
