"""A whole program of JAX as a graph of ONNX."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pdl_jax.prediction.export.onnx_graph import (  # noqa: F401 - they register their rules.
    control,
    elementwise,
    indexing,
    network,
    shapes,
)
from pdl_jax.prediction.export.onnx_graph.graph import Graph, Port
from pdl_jax.prediction.export.onnx_graph.lowering import Lowering, is_static


def make_graph(
    function: Callable[..., Any],
    operand: jax.ShapeDtypeStruct,
    *,
    input_name: str,
    output_names: Sequence[str],
) -> Graph:
    """Traces a function and lowers it.

    Args:
      function: a function of one array that returns a tuple of arrays. What it reads besides is
        constant.
      operand: shape and dtype of the array; sizes may be symbols, one each.
      input_name: name of the array.
      output_names: names of the results.

    Raises:
      ValueError: the function has an operation without a rule.
    """
    closed = jax.make_jaxpr(function)(operand)
    graph = Graph()
    symbols = {}
    graph.inputs = [Port(input_name, np.dtype(operand.dtype), _name_sizes(operand.shape))]
    for axis, size in enumerate(operand.shape):
        if not is_static((size,)):
            (name,) = graph.add('Shape', input_name, start=axis, end=axis + 1)
            symbols[str(size)] = name
    low = Lowering(graph, symbols)
    given = low.tensor(input_name, operand)
    results = low.run(closed.jaxpr, closed.consts, [given])
    for name, result in zip(output_names, results, strict=True):
        port = Port(name, result.dtype, _name_sizes(result.shape))
        graph.add_output(low.whole(result).name, port)
    graph.prune()
    return graph


def _name_sizes(shape: Sequence[Any]) -> tuple[int | str | None, ...]:
    return tuple(int(n) if is_static((n,)) else str(n) for n in shape)
