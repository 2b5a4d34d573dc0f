"""Rules of operations that treat every entry alike; operands are repeated as ONNX broadcasts."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax
from jax.extend import core

from pdl_jax.prediction.export.onnx_graph.graph import Shape, Tensor
from pdl_jax.prediction.export.onnx_graph.lowering import (
    MAX_CONSTANT,
    Lowering,
    is_uniform,
    rule,
)

# Operation of ONNX and function of NumPy by primitive.
_OPERATIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    'abs': ('Abs', np.abs),
    'add': ('Add', np.add),
    'and': ('And', np.logical_and),
    'ceil': ('Ceil', np.ceil),
    'eq': ('Equal', np.equal),
    'exp': ('Exp', np.exp),
    'floor': ('Floor', np.floor),
    'ge': ('GreaterOrEqual', np.greater_equal),
    'gt': ('Greater', np.greater),
    'le': ('LessOrEqual', np.less_equal),
    'log': ('Log', np.log),
    'lt': ('Less', np.less),
    'max': ('Max', np.maximum),
    'min': ('Min', np.minimum),
    'mul': ('Mul', np.multiply),
    'neg': ('Neg', np.negative),
    'not': ('Not', np.logical_not),
    'or': ('Or', np.logical_or),
    'pow': ('Pow', np.power),
    'sign': ('Sign', np.sign),
    'sqrt': ('Sqrt', np.sqrt),
    'sub': ('Sub', np.subtract),
    'tanh': ('Tanh', np.tanh),
}


def align(low: Lowering, operands: list[Tensor]) -> list[Tensor]:
    """Stores all operands channels-first if one that is computed is."""
    if not any(x.is_channels_first and x.value is None for x in operands):
        return [low.channels_last(x) for x in operands]
    return [low.channels_first(x) if len(x.shape) == 4 else x for x in operands]


def broadcast(low: Lowering, operands: list[Tensor]) -> Shape:
    """Returns the stored shape of the result of aligned operands."""
    rank = max(len(x.stored) for x in operands)
    shapes = [(1,) * (rank - len(x.stored)) + x.stored for x in operands]
    return tuple(
        next((n for n in sizes if not (isinstance(n, int | np.integer) and n == 1)), 1)
        for sizes in zip(*shapes, strict=True)
    )


def result_of(equation: core.JaxprEqn) -> Any:
    """Returns the shape and dtype of the only result."""
    return equation.outvars[0].aval


def apply(
    low: Lowering,
    result: Any,
    operands: list[Tensor],
    operation: str,
    compute: Callable[..., Any] | None,
    **attributes: Any,
) -> list[Tensor]:
    """Adds one node of aligned operands, or computes it if they are constant.

    Args:
      low: the lowering.
      result: shape and dtype of the result.
      operands: see `align`.
      operation: an operation of ONNX.
      compute: the same on arrays; None leaves constants to the graph.
      **attributes: attributes of the node.
    """
    stored = broadcast(low, operands)
    is_first = any(x.is_channels_first for x in operands)
    values = [x.value for x in operands if x.value is not None]
    if compute is not None and len(values) == len(operands):
        with np.errstate(all='ignore'):
            value = np.asarray(compute(*values)).astype(result.dtype)
        value = value.reshape(stored)
        if value.size <= MAX_CONSTANT or np.all(value == value.flat[0]):
            found = low.constant(value, tuple(result.shape))
            return [Tensor(**{**vars(found), 'is_channels_first': is_first})]
    name = low.add(operation, *(x.name for x in operands), **attributes)
    return [low.tensor(name, result, stored=stored, is_channels_first=is_first)]


def _neutral(name: str, operands: list[Tensor]) -> Tensor | None:
    """Returns the operand that is the result because the other one is neutral."""
    if len(operands) != 2:
        return None
    neutral: dict[str, tuple[tuple[int, ...], float | bool]] = {
        'add': ((0, 1), 0),
        'sub': ((1,), 0),
        'mul': ((0, 1), 1),
        'div': ((1,), 1),
        'and': ((0, 1), True),
        'or': ((0, 1), False),
    }
    positions, number = neutral.get(name, ((), 0))
    for position in positions:
        if is_uniform(operands[position], number):
            return operands[1 - position]
    return None


@rule(*_OPERATIONS)
def _add_operation(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    name = equation.primitive.name
    operation, compute = _OPERATIONS[name]
    same = _neutral(name, operands)
    if same is not None:
        return [_widen(same, tuple(result_of(equation).shape))]
    is_real = np.issubdtype(operands[0].dtype, np.floating)
    if name == 'mul' and is_real and any(is_uniform(x, 0) for x in operands):
        # Maps of the network are finite.
        zero = low.constant(np.zeros((), operands[0].dtype))
        return [_widen(zero, tuple(result_of(equation).shape))]
    operands = align(low, operands)
    if name == 'sub' and is_real and operands[1].value is not None:
        # Runtimes fuse sums with convolutions, and no differences.
        negative = -operands[1].value
        fields = {**vars(operands[1]), 'value': negative}
        operands[1] = Tensor(**{**fields, 'name': low.graph.add_constant(negative)})
        operation, compute = 'Add', np.add
    if name in ('max', 'min') and is_real:
        return _clip(low, equation, operands, operation, compute)
    return apply(low, result_of(equation), operands, operation, compute)


def _clip(
    low: Lowering,
    equation: core.JaxprEqn,
    operands: list[Tensor],
    operation: str,
    compute: Callable[..., Any],
) -> list[Tensor]:
    """Writes rectified units as what runtimes fuse with convolutions."""
    for position, bound in enumerate(operands):
        other = operands[1 - position]
        if other.value is not None or bound.value is None or bound.value.size > 1:
            continue
        if operation == 'Max' and is_uniform(bound, 0):
            return apply(low, result_of(equation), [other], 'Relu', None)
        node = low.graph.root.producers.get(other.name)
        if operation == 'Min' and node is not None and node.operation == 'Relu':
            zero = low.graph.add_constant(np.zeros((), bound.dtype))
            high = low.graph.add_constant(bound.value.reshape(()))
            name = low.add('Clip', node.inputs[0], zero, high)
            return [Tensor(**{**vars(other), 'name': name})]
    return apply(low, result_of(equation), operands, operation, compute)


def _widen(tensor: Tensor, shape: Shape) -> Tensor:
    """Gives a tensor the shape of a result; a scalar gets its axes."""
    if len(tensor.shape) == len(shape):
        return Tensor(**{**vars(tensor), 'shape': shape})
    # Scalars broadcast to any rank; the stored shape keeps no axes.
    return Tensor(**{**vars(tensor), 'shape': shape, 'stored': (1,) * len(shape)})


@rule('ne')
def _add_ne(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    operands = align(low, operands)
    if all(x.value is not None for x in operands):
        return apply(low, result_of(equation), operands, '', np.not_equal)
    if operands[0].dtype == bool:
        return apply(low, result_of(equation), operands, 'Xor', None)
    (equal,) = apply(low, result_of(equation), operands, 'Equal', None)
    return apply(low, result_of(equation), [equal], 'Not', None)


@rule('div')
def _add_div(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    same = _neutral('div', operands)
    if same is not None:
        return [_widen(same, tuple(result_of(equation).shape))]
    operands = align(low, operands)
    if np.issubdtype(operands[0].dtype, np.integer):
        return apply(low, result_of(equation), operands, 'Div', lambda x, y: np.trunc(x / y))
    return apply(low, result_of(equation), operands, 'Div', np.divide)


@rule('rem')
def _add_rem(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    return apply(low, result_of(equation), align(low, operands), 'Mod', np.fmod, fmod=1)


@rule('rsqrt')
def _add_rsqrt(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    if operands[0].value is not None:
        return apply(low, result_of(equation), operands, '', lambda x: 1 / np.sqrt(x))
    (root,) = apply(low, result_of(equation), operands, 'Sqrt', None)
    return apply(low, result_of(equation), [root], 'Reciprocal', None)


@rule('logistic')
def _add_logistic(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    return apply(low, result_of(equation), operands, 'Sigmoid', lambda x: 1 / (1 + np.exp(-x)))


@rule('erf')
def _add_erf(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    return apply(low, result_of(equation), operands, 'Erf', None)


@rule('erfc')
def _add_erfc(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    (erf,) = apply(low, result_of(equation), operands, 'Erf', None)
    return apply(low, result_of(equation), [low.constant(np.ones((), erf.dtype)), erf], 'Sub', None)


@rule('round')
def _add_round(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    if equation.params['rounding_method'] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError('rounding halves away from zero has no counterpart in ONNX')
    return apply(low, result_of(equation), align(low, operands), 'Round', np.round)


@rule('is_finite')
def _add_is_finite(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    # Neither is the difference of an infinity with itself equal to zero, nor that of NaN.
    (zero,) = apply(low, operands[0], [operands[0], operands[0]], 'Sub', None)
    return apply(
        low, result_of(equation), [zero, low.constant(np.zeros((), zero.dtype))], 'Equal', None
    )


@rule('square')
def _add_square(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    return apply(low, result_of(equation), operands * 2, 'Mul', np.multiply)


@rule('integer_pow')
def _add_power(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    power = equation.params['y']
    if power == 2:
        return apply(low, result_of(equation), operands * 2, 'Mul', np.multiply)
    exponent = low.constant(np.array(power, operands[0].dtype))
    return apply(low, result_of(equation), [*operands, exponent], 'Pow', np.power)


@rule('clamp')
def _add_clamp(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    lowest, x, highest = align(low, operands)
    (raised,) = apply(low, result_of(equation), [x, lowest], 'Max', np.maximum)
    return apply(low, result_of(equation), [raised, highest], 'Min', np.minimum)


@rule('select_n')
def _add_select(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    which, *cases = operands
    shape = tuple(result_of(equation).shape)
    for number, case in enumerate(cases):
        if is_uniform(which, bool(number)):
            return [_widen(case, shape)]
    which, no, yes = align(low, [which, *cases])
    if all(x.value is not None for x in (which, no, yes)) or no.dtype != bool:
        return apply(low, result_of(equation), [which, yes, no], 'Where', np.where)
    (first,) = apply(low, result_of(equation), [which, yes], 'And', None)
    (negated,) = apply(low, which, [which], 'Not', np.logical_not)
    (second,) = apply(low, result_of(equation), [negated, no], 'And', None)
    return apply(low, result_of(equation), [first, second], 'Or', None)


@rule('convert_element_type')
def _add_cast(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    dtype = np.dtype(equation.params['new_dtype'])
    if operands[0].dtype == dtype:
        return operands
    return apply(low, result_of(equation), operands, 'Cast', lambda x: x.astype(dtype), to=dtype)


@rule('copy', 'copy_p', 'stop_gradient', 'optimization_barrier', 'reduce_precision')
def _add_nothing(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    return operands
