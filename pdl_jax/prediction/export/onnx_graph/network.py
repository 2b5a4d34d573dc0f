"""Rules of what networks are made of: convolutions, pooling, resizing, stored kernels."""

import numpy as np
from jax.extend import core

from pdl_jax.prediction.export.onnx_graph.elementwise import result_of
from pdl_jax.prediction.export.onnx_graph.graph import Tensor
from pdl_jax.prediction.export.onnx_graph.lowering import Lowering, call_rule, rule
from pdl_jax.prediction.export.onnx_graph.shapes import complete

_MAPS_LAST, _KERNELS_LAST = (0, 3, 1, 2), (3, 2, 0, 1)


@rule('conv_general_dilated')
def _add_convolution(
    low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]
) -> list[Tensor]:
    params = equation.params
    numbers = params['dimension_numbers']
    specs = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    is_known = specs == (_MAPS_LAST, _KERNELS_LAST, _MAPS_LAST)
    if not is_known or tuple(params['lhs_dilation']) != (1, 1) or params['batch_group_count'] != 1:
        raise ValueError(f'a convolution of another layout has no counterpart in ONNX: {params}')
    x, kernel = operands
    padding = params['padding']
    name = low.add(
        'Conv',
        low.channels_first(complete(low, x)).name,
        _add_kernel(low, kernel),
        strides=[int(n) for n in params['window_strides']],
        dilations=[int(n) for n in params['rhs_dilation']],
        pads=[int(pair[side]) for side in (0, 1) for pair in padding],
        group=int(params['feature_group_count']),
    )
    return [low.tensor(name, result_of(equation), is_channels_first=True)]


def _add_kernel(low: Lowering, kernel: Tensor) -> str:
    """Adds a kernel as ONNX has them, [D, C, k, k]; stored ones are widened in the graph."""
    order = _KERNELS_LAST
    if kernel.kernel is None:
        if kernel.value is None:
            return low.add('Transpose', low.whole(kernel).name, perm=list(order))
        return low.graph.add_constant(low.full(kernel).transpose(order))
    values, scale = kernel.kernel
    name = low.graph.add_constant(values.transpose(order))
    if scale is None:
        return low.add('Cast', name, to=np.dtype(np.float32))
    return low.add('DequantizeLinear', name, low.graph.add_constant(scale), axis=0)


@call_rule('dequantize', 'widen')
def _keep_stored(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    values, *scale = (low.full(x) for x in operands)
    kernel = values, scale[0] if scale else None
    wide = values.astype(np.float32) * scale[0] if scale else values.astype(np.float32)
    # The wide values are left out of the file unless something besides convolutions reads them.
    return [Tensor(**{**vars(low.constant(wide)), 'kernel': kernel})]


@rule('reduce_window_max')
def _add_max_pool(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    return _pool(low, equation, operands[0], 'MaxPool')


@rule('reduce_window_sum')
def _add_sum_pool(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    (mean,) = _pool(low, equation, operands[0], 'AveragePool', count_include_pad=1)
    count = np.prod(equation.params['window_dimensions'])
    name = low.add('Mul', mean.name, low.graph.add_constant(np.array(count, mean.dtype)))
    return [Tensor(**{**vars(mean), 'name': name})]


def _pool(
    low: Lowering, equation: core.JaxprEqn, x: Tensor, operation: str, **attributes: int
) -> list[Tensor]:
    params = equation.params
    axes = [1, 2]
    is_map = len(x.shape) == 4
    outside = [i for i in range(len(x.shape)) if i not in axes]
    window, strides = params['window_dimensions'], params['window_strides']
    dilations = {*params['window_dilation'], *params['base_dilation']}
    if len(x.shape) not in (3, 4) or dilations != {1} or any(window[i] != 1 for i in outside):
        raise ValueError(f'pooling over other axes than rows and columns: {params}')
    x = low.channels_first(complete(low, x)) if is_map else low.whole(x)
    name = x.name if is_map else low.add('Unsqueeze', x.name, low.integers([1]))
    name = low.add(
        operation,
        name,
        kernel_shape=[int(window[i]) for i in axes],
        strides=[int(strides[i]) for i in axes],
        pads=[int(params['padding'][i][side]) for side in (0, 1) for i in axes],
        **attributes,
    )
    if not is_map:
        name = low.add('Squeeze', name, low.integers([1]))
    return [low.tensor(name, result_of(equation), is_channels_first=is_map)]


@call_rule('resize_corner_aligned', 'resize_half_pixel')
def _add_resize(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    result = result_of(equation)
    x = low.channels_first(complete(low, operands[0]))
    batch, height, width, channels = result.shape
    sizes = low.sizes((batch, channels, height, width))
    is_aligned = equation.params['name'] == 'resize_corner_aligned'
    mode = 'align_corners' if is_aligned else 'half_pixel'
    name = low.add(
        'Resize', x.name, '', '', sizes, mode='linear', coordinate_transformation_mode=mode
    )
    return [low.tensor(name, result, is_channels_first=True)]
