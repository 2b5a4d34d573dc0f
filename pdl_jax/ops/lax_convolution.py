"""XLA's convolution in our layout, and the choice between its gradient and one for CPUs."""

from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from pdl_jax.ops.padding import Dilation, Padding, as_pair
from pdl_jax.ops.placement import are_rows_split, gather_small_map
from pdl_jax.ops.platforms import by_platform
from pdl_jax.typing import Array

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# Maps (x, kernel, gradient of the result) to the gradients of x and of the kernel.
Backward = Callable[[Array, Array, Array], tuple[Array, Array]]


def lax_conv(
    x: Array, kernel: Array, stride: int, dilation: Dilation, padding: Padding, groups: int = 1
) -> Array:
    """Convolves with `lax.conv_general_dilated`; see `convolution.conv` for the arguments."""
    if groups == 1:
        x = gather_small_map(x)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=as_pair(dilation),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def choose_backward(
    cpu: Backward, default: Backward, x: Array, kernel: Array, gradient: Array
) -> tuple[Array, Array]:
    """Runs the backward pass of the platform, `default` wherever rows are split over devices.

    On CPU devices along 'data' each differentiates its own images, and the kernel gradients are
    summed once.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if are_rows_split() or (not mesh.empty and x.shape[0] % mesh.shape['data']):
        return default(x, kernel, gradient)

    def run_part(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        input_gradient, kernel_gradient = cpu(x, kernel, gradient)
        return input_gradient, lax.psum(kernel_gradient, 'data')

    if not mesh.empty and mesh.shape['data'] > 1:
        run_parts = jax.shard_map(
            run_part,
            in_specs=(P('data'), P(), P('data')),
            out_specs=(P('data'), P()),
            check_vma=False,
        )
        return by_platform(x, kernel, gradient, cpu=run_parts, default=default)
    return by_platform(x, kernel, gradient, cpu=cpu, default=default)
