"""Rules of operations that move entries: shapes, axes, parts and sums over axes."""

from typing import Any

import numpy as np
from jax.extend import core

from pdl_jax.prediction.export.onnx_graph.elementwise import result_of
from pdl_jax.prediction.export.onnx_graph.graph import Tensor
from pdl_jax.prediction.export.onnx_graph.lowering import Lowering, is_static, rule

# Place of each axis of [B, H, W, C] where channels come first.
_PLACE = (0, 2, 3, 1)


def place(tensor: Tensor, axis: int) -> int:
    """Returns the stored place of an axis."""
    return _PLACE[axis] if tensor.is_channels_first else axis


def convert(low: Lowering, name: str, operation_dtype: Any, result: Any) -> Tensor:
    """Describes a result that ONNX computes in another type, and converts it."""
    if np.dtype(operation_dtype) != np.dtype(result.dtype):
        name = low.add('Cast', name, to=np.dtype(result.dtype))
    return low.tensor(name, result)


@rule('broadcast_in_dim')
def _add_broadcast(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x = operands[0]
    axes = [int(axis) for axis in equation.params['broadcast_dimensions']]
    result = result_of(equation)
    shape = tuple(result.shape)
    if axes == list(range(len(shape))):
        return [Tensor(**{**vars(x), 'shape': shape})]
    x = low.channels_last(x)
    missing = [axis for axis in range(len(shape)) if axis not in axes]
    sizes = dict(zip(axes, x.stored, strict=True))
    stored = tuple(sizes.get(axis, 1) for axis in range(len(shape)))
    if x.value is not None:
        return [low.constant(x.value.reshape(stored), shape)]
    name = low.add('Unsqueeze', x.name, low.integers(missing))
    return [low.tensor(name, result, stored=stored)]


@rule('iota')
def _add_iota(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    result, axis = result_of(equation), equation.params['dimension']
    shape = tuple(result.shape)
    if is_static((shape[axis],)):
        values = np.arange(shape[axis], dtype=result.dtype)
        return [
            low.constant(values.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
        ]
    start, step = (low.graph.add_constant(np.array(n, np.int64)) for n in (0, 1))
    limit = low.add('Squeeze', low.size(shape[axis]), low.integers([0]))
    name = low.add('Cast', low.add('Range', start, limit, step), to=np.dtype(result.dtype))
    others = [i for i in range(len(shape)) if i != axis]
    if others:
        name = low.add('Unsqueeze', name, low.integers(others))
    stored = tuple(n if i == axis else 1 for i, n in enumerate(shape))
    return [low.tensor(name, result, stored=stored)]


@rule('reshape', 'expand_dims')
def _add_reshape(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x, result = operands[0], result_of(equation)
    if x.value is not None and x.value.size == 1:
        return [low.constant(x.value.reshape((1,) * len(result.shape)), tuple(result.shape))]
    folded = low.fold(equation, operands)
    if folded is not None:
        return folded
    return [reshape(low, low.whole(x), result)]


def reshape(low: Lowering, x: Tensor, result: Any) -> Tensor:
    """Reshapes a whole tensor."""
    if x.shape == tuple(result.shape):
        return x
    sizes = [int(n) if is_static((n,)) else -1 for n in result.shape]
    shape = low.integers(sizes) if sizes.count(-1) < 2 else low.sizes(tuple(result.shape))
    return low.tensor(low.add('Reshape', x.name, shape), result)


@rule('squeeze')
def _add_squeeze(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x, result = operands[0], result_of(equation)
    axes = [int(axis) for axis in equation.params['dimensions']]
    if x.is_channels_first and 3 not in axes:
        x = low.channels_last(x)
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    stored = tuple(x.stored[place(x, axis)] for axis in kept)
    value = low.channels_last(x).value
    if value is not None:
        return [low.constant(value.reshape(stored), tuple(result.shape))]
    name = low.add('Squeeze', x.name, low.integers([place(x, axis) for axis in axes]))
    return [low.tensor(name, result, stored=stored)]


@rule('transpose')
def _add_transpose(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x, order = low.channels_last(operands[0]), equation.params['permutation']
    stored = tuple(x.stored[i] for i in order)
    if x.value is not None:
        return [low.constant(x.value.transpose(order), tuple(result_of(equation).shape))]
    name = low.add('Transpose', x.name, perm=[int(i) for i in order])
    return [low.tensor(name, result_of(equation), stored=stored)]


@rule('concatenate', 'stack')
def _add_concatenate(
    low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]
) -> list[Tensor]:
    folded = low.fold(equation, operands)
    if folded is not None:
        return folded
    result = result_of(equation)
    if equation.primitive.name == 'stack':
        axis = equation.params['axis']
        names = [low.add('Unsqueeze', low.whole(x).name, low.integers([axis])) for x in operands]
        return [low.tensor(low.add('Concat', *names, axis=axis), result)]
    axis = equation.params['dimension']
    if any(x.is_channels_first for x in operands):
        # Whole ones: an operand that is stored once would be joined once.
        operands = [x if _is_complete(x) else low.whole(x) for x in operands]
        operands = [low.channels_first(x) for x in operands]
    else:
        operands = [low.whole(x) for x in operands]
    is_first = operands[0].is_channels_first
    name = low.add('Concat', *(x.name for x in operands), axis=place(operands[0], axis))
    return [low.tensor(name, result, is_channels_first=is_first)]


def _is_complete(x: Tensor) -> bool:
    return x.is_channels_first and x.stored == tuple(x.shape[i] for i in (0, 3, 1, 2))


def complete(low: Lowering, x: Tensor) -> Tensor:
    """Returns a tensor with all its entries, channels-first if it is so."""
    return x if x.is_whole or _is_complete(x) else low.whole(x)


@rule('pad')
def _add_pad(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x, fill = operands
    config = equation.params['padding_config']
    pairs = [(before, after) for before, after, _ in config]
    if all(is_static(pair) and not any(pair) for pair in pairs):
        return [x]
    folded = low.fold(equation, operands)
    if folded is not None:
        return folded
    if any(inner for *_, inner in config):
        raise ValueError('padding between entries has no counterpart in ONNX')
    x = complete(low, x)
    order = [0] * len(pairs)
    for axis in range(len(pairs)):
        order[place(x, axis)] = axis
    pads = low.sizes(tuple(pairs[axis][side] for side in (0, 1) for axis in order))
    name = low.add('Pad', x.name, pads, fill.name)
    return [low.tensor(name, result_of(equation), is_channels_first=x.is_channels_first)]


@rule('slice')
def _add_slice(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    folded = low.fold(equation, operands)
    if folded is not None:
        return folded
    params, result = equation.params, result_of(equation)
    x = operands[0]
    steps = params['strides'] or (1,) * len(x.shape)
    starts, limits, axes, strides = [], [], [], []
    for axis, (start, limit, step) in enumerate(
        zip(params['start_indices'], params['limit_indices'], steps, strict=True)
    ):
        is_all = is_static((start, step)) and start == 0 and step == 1 and limit == x.shape[axis]
        if not is_all:
            starts.append(start)
            limits.append(limit)
            strides.append(step)
            axes.append(axis)
    if not axes:
        return [x]
    x = complete(low, x)
    name = low.add(
        'Slice',
        x.name,
        low.sizes(tuple(starts)),
        low.sizes(tuple(limits)),
        low.integers([place(x, axis) for axis in axes]),
        low.integers([int(step) for step in strides]),
    )
    return [low.tensor(name, result, is_channels_first=x.is_channels_first)]


@rule('rev')
def _add_reverse(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x = complete(low, operands[0])
    axes = [place(x, axis) for axis in equation.params['dimensions']]
    first, last = low.integers([-1] * len(axes)), low.integers([-(2**31)] * len(axes))
    name = low.add('Slice', x.name, first, last, low.integers(axes), first)
    return [low.tensor(name, result_of(equation), is_channels_first=x.is_channels_first)]


_REDUCTIONS = {
    'reduce_max': 'ReduceMax',
    'reduce_min': 'ReduceMin',
    'reduce_sum': 'ReduceSum',
    'reduce_or': 'ReduceMax',
    'reduce_and': 'ReduceMin',
    'reduce_prod': 'ReduceProd',
}


@rule(*_REDUCTIONS)
def _add_reduction(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    folded = low.fold(equation, operands)
    if folded is not None:
        return folded
    name, dtype, axes = _find_reduced(low, equation, operands[0])
    operation = _REDUCTIONS[equation.primitive.name]
    name = low.add(operation, name, low.integers(axes), keepdims=0)
    return [convert(low, name, dtype, result_of(equation))]


@rule('argmax', 'argmin')
def _add_arg(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    name, _, axes = _find_reduced(low, equation, operands[0])
    operation = 'ArgMax' if equation.primitive.name == 'argmax' else 'ArgMin'
    name = low.add(operation, name, axis=axes[0], keepdims=0)
    return [convert(low, name, np.int64, result_of(equation))]


def _find_reduced(
    low: Lowering, equation: core.JaxprEqn, x: Tensor
) -> tuple[str, np.dtype, list[int]]:
    """Returns the name and dtype of a complete operand and the stored places of its axes."""
    x = complete(low, x)
    axes = [int(axis) for axis in equation.params['axes']]
    if x.is_channels_first and 3 not in axes and set(axes) != {1, 2}:
        x = low.channels_last(x)
    places = [place(x, axis) for axis in axes]
    if x.dtype != bool:
        return x.name, x.dtype, places
    # ONNX reduces numbers only.
    dtype = np.dtype(np.int32)
    return low.add('Cast', x.name, to=dtype), dtype, places


@rule('cumsum')
def _add_cumsum(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x = low.whole(operands[0])
    axis = low.graph.add_constant(np.array(equation.params['axis'], np.int64))
    name = low.add('CumSum', x.name, axis, reverse=int(equation.params['reverse']))
    return [low.tensor(name, result_of(equation))]


@rule('dot_general')
def _add_product(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x, y = (low.whole(operand) for operand in operands)
    (contracted_x, contracted_y), (batch_x, batch_y) = equation.params['dimension_numbers']
    letters = iter('abcdefghijklmnopqrstuvwxyz')
    of_x = [next(letters) for _ in x.shape]
    of_y = [next(letters) for _ in y.shape]
    for i, j in zip((*contracted_x, *batch_x), (*contracted_y, *batch_y), strict=True):
        of_y[j] = of_x[i]
    batch = [of_x[i] for i in batch_x]
    rest = [a for i, a in enumerate(of_x) if i not in (*contracted_x, *batch_x)]
    rest += [b for j, b in enumerate(of_y) if j not in (*contracted_y, *batch_y)]
    equation_text = f'{"".join(of_x)},{"".join(of_y)}->{"".join(batch + rest)}'
    name = low.add('Einsum', x.name, y.name, equation=equation_text)
    return [low.tensor(name, result_of(equation))]


@rule('dim_as_value')
def _add_size(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    name = low.add('Squeeze', low.size(equation.params['dim']), low.integers([0]))
    return [convert(low, name, np.int64, result_of(equation))]


@rule('split')
def _add_split(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x = complete(low, operands[0])
    sizes = [int(n) for n in equation.params['sizes']]
    names = low.graph.add(
        'Split',
        x.name,
        low.integers(sizes),
        num_outputs=len(sizes),
        axis=place(x, equation.params['axis']),
    )
    return [
        low.tensor(name, var.aval, is_channels_first=x.is_channels_first)
        for name, var in zip(names, equation.outvars, strict=True)
    ]
