"""Padding of convolutions and pooling, and the sizes that follow from it."""

from collections.abc import Sequence

from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array

# ((top, bottom), (left, right)) in pixels.
Padding = tuple[tuple[int, int], tuple[int, int]]
# In pixels; (height, width) where the two differ.
Dilation = int | tuple[int, int]


def symmetric_padding(kernel_size: int, dilation: Dilation) -> Padding:
    """Returns padding of (k_eff - 1) // 2 on all sides, whatever the stride (DeepLab2, PyTorch)."""
    rows, columns = ((kernel_size - 1) * d // 2 for d in as_pair(dilation))
    return (rows, rows), (columns, columns)


def same_padding(size: Sequence[int], kernel_size: int, stride: int, dilation: Dilation) -> Padding:
    """Returns TensorFlow's SAME padding; the odd pixel goes to the bottom and right.

    Args:
      size: (height, width) of the input in pixels.
      kernel_size: taps per axis.
      stride: step in pixels, the same on both axes.
      dilation: distance between taps in pixels.
    """
    reach = [(kernel_size - 1) * d + 1 for d in as_pair(dilation)]
    rows, columns = (
        max((ceil_div(n, stride) - 1) * stride + r - n, 0) for n, r in zip(size, reach, strict=True)
    )
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def as_pair(dilation: Dilation) -> tuple[int, int]:
    """Returns the dilation as (height, width)."""
    height, width = (dilation, dilation) if isinstance(dilation, int) else dilation
    return height, width


def output_shape(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding
) -> tuple[int, int, int, int]:
    """Returns the shape [B, H', W', C] of a depthwise convolution of [B, H, W, C]."""
    height, width = (
        (n + sum(pad) - (k - 1) * d - 1) // stride + 1
        for n, k, d, pad in zip(
            x.shape[1:3], kernel.shape[:2], as_pair(dilation), padding, strict=True
        )
    )
    return x.shape[0], height, width, x.shape[3]
