"""Rules of calls and loops."""

from typing import Any

import numpy as np
from jax.extend import core

from pdl_jax.prediction.export.onnx_graph.graph import Graph, Port, Tensor
from pdl_jax.prediction.export.onnx_graph.lowering import Lowering, is_static, rule

# Loops of a fixed length are written out up to it.
_MAX_UNROLLED = 32


@rule('jit', 'pjit', 'closed_call', 'custom_jvp_call', 'custom_vjp_call', 'remat', 'checkpoint')
def _add_call(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    inner: Any = equation.params.get('jaxpr', equation.params.get('call_jaxpr'))
    if isinstance(inner, core.ClosedJaxpr):
        return low.run(inner.jaxpr, inner.consts, operands)
    return low.run(inner, (), operands)


@rule('scan')
def _add_scan(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    params = equation.params
    num_consts, num_carry = params['num_consts'], params['num_carry']
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    rows = operands[num_consts + num_carry :]
    length, body = params['length'], params['jaxpr']
    is_carry_only = len(equation.outvars) == num_carry
    if length > _MAX_UNROLLED or not is_carry_only or params['reverse']:
        raise ValueError('a loop over blocks has no counterpart in ONNX: give it a portable form')
    for number in range(length):
        parts = [low.constant(low.full(x)[number]) for x in rows]
        carry = low.run(body.jaxpr, body.consts, [*consts, *carry, *parts])
    return carry


@rule('while')
def _add_while(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    params = equation.params
    num_of_cond, num_of_body = params['cond_nconsts'], params['body_nconsts']
    of_cond, rest = operands[:num_of_cond], operands[num_of_cond:]
    of_body, carry = rest[:num_of_body], [low.whole(x) for x in rest[num_of_body:]]
    condition, body = params['cond_jaxpr'], params['body_jaxpr']
    (first,) = low.run(condition.jaxpr, condition.consts, [*of_cond, *carry])

    graph = Graph(low.graph)
    inside = Lowering(graph, low.symbols)
    ports = [Port(graph.new_name(), x.dtype, _rank(x)) for x in carry]
    graph.inputs = [
        Port(graph.new_name(), np.dtype(np.int64), ()),
        Port(graph.new_name(), np.dtype(bool), ()),
        *ports,
    ]
    state = [Tensor(p.name, x.shape, x.dtype, x.shape) for p, x in zip(ports, carry, strict=True)]
    state = [inside.whole(x) for x in inside.run(body.jaxpr, body.consts, [*of_body, *state])]
    (goes_on,) = inside.run(condition.jaxpr, condition.consts, [*of_cond, *state])
    results = [inside.whole(goes_on), *state]
    # A value from outside cannot be a result of the body.
    names = [graph.add_copy(x.name) for x in results]
    graph.outputs = [Port(name, x.dtype, _rank(x)) for name, x in zip(names, results, strict=True)]
    found = low.graph.add(
        'Loop',
        '',
        low.whole(first).name,
        *(x.name for x in carry),
        num_outputs=len(carry),
        body=graph,
    )
    return [low.tensor(n, v.aval) for n, v in zip(found, equation.outvars, strict=True)]


def _rank(x: Tensor) -> tuple[int | str | None, ...]:
    return tuple(int(n) if is_static((n,)) else None for n in x.shape)
