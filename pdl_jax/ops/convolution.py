"""Convolutions with an implementation per platform that all give the same values.

XLA:CPU is slow at three things this network is made of: depthwise convolutions (see
`depthwise_convolution`), 1x1 convolutions and the gradient of every convolution with respect to its
kernel. On a CPU they are computed as shifted sums and matrix products; other platforms use
`lax.conv_general_dilated`. The choice is made when the program is lowered, so a program compiled
ahead of time for a TPU on a CPU machine gets the TPU's implementation.

On a mesh every device works on its own images and the gradients of kernels are summed once, at the
end. Where image rows are split too, every platform uses `lax.conv_general_dilated`: XLA's
partitioner would all-gather whole maps for the loops and reshapes of the CPU versions.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.dilated_convolution import cropped_conv, cropped_gradients, is_cropping_cheaper
from pdl_jax.ops.lax_convolution import choose_backward, lax_conv
from pdl_jax.ops.padding import Dilation, Padding, as_pair
from pdl_jax.ops.pixel_products import (
    multiply_pixels,
    multiply_pixels_transposed,
    sum_outer_products,
)
from pdl_jax.ops.placement import are_rows_split, gather_small_map
from pdl_jax.ops.platforms import by_platform, is_portable
from pdl_jax.typing import Array


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
    forward = functools.partial(lax_conv, stride=stride, dilation=dilation, padding=padding)
    if is_portable():
        return forward(x, kernel)
    if _is_pointwise(kernel, padding):
        return multiply_pixels(x[:, ::stride, ::stride], kernel[0, 0])
    if are_rows_split() or not is_cropping_cheaper(x, kernel, stride, dilation, padding):
        return forward(x, kernel)
    cropped = functools.partial(cropped_conv, dilation=dilation, padding=padding)
    return by_platform(x, kernel, cpu=cropped, default=forward)


def _forward(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return conv(x, kernel, stride, dilation, padding), (x, kernel)


def _backward(
    stride: int,
    dilation: Dilation,
    padding: Padding,
    residuals: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    x, kernel = residuals
    x, gradient = gather_small_map(x), gather_small_map(gradient)
    if _is_pointwise(kernel, padding):
        dense = multiply_pixels_transposed(gradient, kernel[0, 0])
        kernel_gradient = sum_outer_products(x[:, ::stride, ::stride], gradient)
        if stride > 1:
            dense = jnp.zeros_like(x).at[:, ::stride, ::stride].set(dense)
        return dense, kernel_gradient.reshape(kernel.shape)

    def input_gradient(x: Array, kernel: Array, gradient: Array) -> Array:
        primal = functools.partial(
            lax_conv, kernel=kernel, stride=stride, dilation=dilation, padding=padding
        )
        return jax.linear_transpose(primal, x)(gradient)[0]

    def backward_lax(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        def primal(k: Array) -> Array:
            return lax_conv(x, k, stride, dilation, padding)

        of_input = input_gradient(x, kernel, gradient)
        return of_input, jax.linear_transpose(primal, kernel)(gradient)[0]

    def backward_products(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return (
            input_gradient(x, kernel, gradient),
            _kernel_gradient(x, kernel, gradient, stride, dilation, padding),
        )

    def backward_cropped(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return cropped_gradients(x, kernel, gradient, dilation, padding)

    is_cropped = is_cropping_cheaper(x, kernel, stride, dilation, padding)
    return choose_backward(
        backward_cropped if is_cropped else backward_products, backward_lax, x, kernel, gradient
    )


conv.defvjp(_forward, _backward)


def _is_pointwise(kernel: Array, padding: Padding) -> bool:
    return kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))


def _kernel_gradient(
    x: Array, kernel: Array, gradient: Array, stride: int, dilation: Dilation, padding: Padding
) -> Array:
    """Computes one product per row of taps, with the taps of the row side by side as channels.

    A product per tap is slower for few channels, and a single one needs k * k copies of the map.
    """
    height, width = gradient.shape[1:3]
    row_step, column_step = as_pair(dilation)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    starts = [j * column_step for j in range(kernel.shape[1])]
    x = jnp.concatenate(
        [x[:, :, start : start + (width - 1) * stride + 1 : stride] for start in starts], axis=-1
    )

    def sum_row_of_taps(i: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(x, i * row_step, (height - 1) * stride + 1, axis=1)
        return sum_outer_products(rows[:, ::stride], gradient)

    return lax.map(sum_row_of_taps, jnp.arange(kernel.shape[0])).reshape(kernel.shape)
