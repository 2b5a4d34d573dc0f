"""The walk over a program: each operation is looked up among the rules and added to the graph."""

import ast
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from pdl_jax.prediction.export.onnx_graph.graph import Dim, Graph, Shape, Tensor

# Maps the lowering, an equation and its operands to its results.
Rule = Callable[['Lowering', core.JaxprEqn, list[Tensor]], Sequence[Tensor]]
RULES: dict[str, Rule] = {}
# Named calls that are operations of ONNX as a whole.
CALL_RULES: dict[str, Rule] = {}
# A repeated value of at most so many entries is stored whole.
_MAX_REPEATED = 4096
# Larger results of constants are computed by the graph, unless all their entries are the same.
MAX_CONSTANT = 2**16
_FIRST = (0, 3, 1, 2)
_LAST = (0, 2, 3, 1)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of primitives."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def call_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of calls of named functions."""

    def register(function: Rule) -> Rule:
        CALL_RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Lowering:
    """Adds operations of a program to a graph.

    Args:
      graph: to add to.
      symbols: i64[1] values of the graph by the symbols of sizes.
    """

    def __init__(self, graph: Graph, symbols: dict[str, str]) -> None:
        self.graph = graph
        self.symbols = symbols

    def run(self, jaxpr: core.Jaxpr, consts: Sequence[Any], operands: list[Tensor]) -> list[Tensor]:
        """Adds a program.

        Raises:
          ValueError: it has an operation without a rule.
        """
        values: dict[Any, Tensor] = {}
        values.update(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        values.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom: Any) -> Tensor:
            if isinstance(atom, core.Literal):
                literal: Any = atom
                return self.constant(np.asarray(literal.val, literal.aval.dtype))
            return values[atom]

        for equation in jaxpr.eqns:
            results = self._add(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _add(self, equation: core.JaxprEqn, operands: list[Tensor]) -> Sequence[Tensor]:
        name = equation.primitive.name
        if name in ('jit', 'pjit') and equation.params['name'] in CALL_RULES:
            return CALL_RULES[equation.params['name']](self, equation, operands)
        if name not in RULES:
            raise ValueError(
                f'the operation {name} has no counterpart in ONNX: export to stablehlo, or give '
                f'it a rule in pdl_jax/prediction/export/onnx_graph/'
            )
        return RULES[name](self, equation, operands)

    def constant(self, value: Any, shape: Shape | None = None) -> Tensor:
        """Makes a constant; axes along which all entries are equal are stored once.

        Args:
          value: values, or those stored of a larger shape.
          shape: that shape.
        """
        value = np.asarray(value)
        whole: Shape = value.shape if shape is None else shape
        if value.size > 1 and np.all(value == value.flat[0]):
            value = value.reshape(-1)[:1].reshape((1,) * value.ndim)
        return Tensor(self.graph.add_constant(value), whole, value.dtype, value.shape, value=value)

    def tensor(self, name: str, aval: Any, **fields: Any) -> Tensor:
        """Describes a value of the graph that is stored whole, unless fields say otherwise."""
        shape = tuple(aval.shape)
        first = fields.get('is_channels_first', False)
        stored = tuple(shape[i] for i in _FIRST) if first else shape
        return Tensor(name, shape, np.dtype(aval.dtype), fields.pop('stored', stored), **fields)

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output; see `Graph.add`."""
        return self.graph.add(operation, *inputs, **attributes)[0]

    def integers(self, values: Sequence[int]) -> str:
        """Adds a constant i64[N]."""
        return self.graph.add_constant(np.array(values, np.int64).reshape(-1))

    def whole(self, tensor: Tensor) -> Tensor:
        """Returns a tensor as the program has it: channels last, with all its entries."""
        tensor = self.channels_last(tensor)
        if tensor.is_whole:
            return tensor
        if tensor.value is not None and is_static(tensor.shape):
            if np.prod(tensor.shape, dtype=np.int64) <= _MAX_REPEATED:
                value = np.ascontiguousarray(np.broadcast_to(tensor.value, tensor.shape))
                name = self.graph.add_constant(value)
                return Tensor(name, tensor.shape, tensor.dtype, tensor.shape, value=value)
        name = self.add('Expand', tensor.name, self.sizes(tensor.shape))
        return Tensor(name, tensor.shape, tensor.dtype, tensor.shape)

    def full(self, tensor: Tensor) -> np.ndarray:
        """Returns the values of a constant as the program has them."""
        tensor = self.channels_last(tensor)
        assert tensor.value is not None
        return np.broadcast_to(tensor.value, tensor.shape)

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Returns a tensor [B, H, W, C] that is stored channels-first."""
        return self._permute(tensor, True)

    def channels_last(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that is stored in the order of its axes."""
        return self._permute(tensor, False) if tensor.is_channels_first else tensor

    def _permute(self, tensor: Tensor, is_first: bool) -> Tensor:
        if tensor.is_channels_first == is_first:
            return tensor
        order = _FIRST if is_first else _LAST
        stored = tuple(tensor.stored[i] for i in order)
        if tensor.value is not None:
            value = np.ascontiguousarray(tensor.value.transpose(order))
            name = self.graph.add_constant(value)
            return Tensor(name, tensor.shape, tensor.dtype, stored, is_first, value)
        single, axis = (3, 1) if is_first else (1, 3)
        if isinstance(tensor.stored[single], int) and tensor.stored[single] == 1:
            name = self.add('Squeeze', tensor.name, self.integers([single]))
            name = self.add('Unsqueeze', name, self.integers([axis]))
        else:
            name = self.add('Transpose', tensor.name, perm=list(order))
        return Tensor(name, tensor.shape, tensor.dtype, stored, is_first)

    def sizes(self, shape: Shape) -> str:
        """Adds a shape as a value i64[N]."""
        if is_static(shape):
            return self.integers([int(n) for n in shape])
        return self.add('Concat', *(self.size(n) for n in shape), axis=0)

    def size(self, dim: Dim) -> str:
        """Adds a size as a value i64[1]."""
        if is_static((dim,)):
            return self.integers([int(dim)])
        return self._compute(ast.parse(str(dim), mode='eval').body)

    def _compute(self, node: ast.AST) -> str:
        """Adds the arithmetic of a symbolic size, in the notation of JAX."""
        if isinstance(node, ast.Name):
            return self.symbols[node.id]
        if isinstance(node, ast.Constant):
            return self.integers([int(str(node.value))])
        if isinstance(node, ast.UnaryOp):
            return self.add('Neg', self._compute(node.operand))
        if isinstance(node, ast.BinOp):
            names = {ast.Add: 'Add', ast.Sub: 'Sub', ast.Mult: 'Mul'}
            return self.add(
                names[type(node.op)], self._compute(node.left), self._compute(node.right)
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            # Sizes are not negative, so that truncation is the floor.
            names = {'max': 'Max', 'min': 'Min', 'floordiv': 'Div', 'mod': 'Mod'}
            return self.add(names[node.func.id], *map(self._compute, node.args))
        raise ValueError(f'the symbolic size {ast.unparse(node)} has no counterpart in ONNX')

    def fold(self, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor] | None:
        """Computes the results of small constants; None if they are not constant or too large."""
        shapes = [result.aval.shape for result in list[Any](equation.outvars)]
        if not all(is_static(s) and np.prod(s, dtype=np.int64) <= MAX_CONSTANT for s in shapes):
            return None
        if any(x.value is None or not is_static(x.shape) for x in operands):
            return None
        with jax.ensure_compile_time_eval():
            found = equation.primitive.bind(*map(self.full, operands), **equation.params)
        found = found if equation.primitive.multiple_results else [found]
        return [self.constant(np.asarray(x)) for x in found]


def is_static(shape: Shape) -> bool:
    """Tells whether all sizes are integers."""
    return all(isinstance(n, int | np.integer) for n in shape)


def is_uniform(tensor: Tensor, number: float | bool) -> bool:
    """Tells whether a tensor is a constant of one number."""
    return tensor.value is not None and tensor.value.size == 1 and tensor.value.flat[0] == number
