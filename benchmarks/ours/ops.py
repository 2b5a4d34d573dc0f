"""Single operations of `pdl_jax.ops` and of the losses, alone or with their gradients."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.inputs import HARDEST_FRACTION, count_operation_flops, find_result_size
from benchmarks.ours.compiled import compile_program
from benchmarks.program import Program, Setup
from pdl_jax.losses.panoptic_deeplab import top_k_mean
from pdl_jax.ops.convolution import conv
from pdl_jax.ops.depthwise_convolution import depthwise_conv
from pdl_jax.ops.padding import symmetric_padding
from pdl_jax.ops.pooling import max_pool
from pdl_jax.ops.resize import resize_bilinear


def prepare(setup: Setup) -> Program:
    """Makes the operation; with 'has_gradient' also the gradients with respect to all operands."""
    arguments = setup.arguments
    is_low = setup.device == 'gpu' and arguments['operation'] != 'hardest_pixels'
    load = functools.partial(_load, setup, jnp.bfloat16 if is_low else jnp.float32)
    operands = tuple(load(name) for name in ('x', 'kernel') if name in setup.files)
    operation = make_operation(arguments)

    def forward(operands):
        return {'y': operation(*operands)}

    def forward_and_backward(operands, cotangent):
        y, backward = jax.vjp(operation, *operands)
        return {
            'y': y,
            **dict(zip(('x_gradient', 'kernel_gradient'), backward(cotangent), strict=False)),
        }

    flops = count_operation_flops(arguments)
    if arguments['has_gradient']:
        return compile_program(forward_and_backward, (operands, load('cotangent')), flops=flops)
    return compile_program(forward, (operands,), flops=flops)


def make_operation(arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """Makes the function from operands to the result."""
    name = arguments['operation']
    if name == 'max_pool':
        return lambda x: max_pool(x, 3, 2, symmetric_padding(3, 1))
    if name == 'resize':
        return lambda x: resize_bilinear(x, find_result_size(arguments))
    if name == 'hardest_pixels':
        return lambda x: jnp.mean(top_k_mean(x, HARDEST_FRACTION))
    dilation = arguments['dilation']
    padding = symmetric_padding(arguments['kernel'], dilation)
    function = {'conv': conv, 'depthwise': depthwise_conv}[name]
    return lambda x, kernel: function(x, kernel, arguments['stride'], dilation, padding)


def _load(setup, dtype, name):
    return jax.device_put(setup.load(name)).astype(dtype)
