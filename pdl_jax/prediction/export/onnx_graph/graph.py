"""A graph of ONNX under construction: nodes and constants, each value once."""

import dataclasses
import hashlib
from typing import Any, Union

import numpy as np

# An integer, or a size of JAX that a symbol stands for.
Dim = Any
Shape = tuple[Dim, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the program and the way that the graph stores it.

    Attributes:
      name: name of the value in the graph.
      shape: in the program.
      dtype: in the program and in the graph.
      stored: shape in the graph: that in the program, permuted if `is_channels_first`, and 1 along
        axes whose entries are all the same.
      is_channels_first: whether [B, H, W, C] is stored as [B, C, H, W].
      value: the stored values of a constant, else None.
      kernel: stored integers or bfloat16 and, of integers, their scales, which the value is
        computed from; else None.
    """

    name: str
    shape: Shape
    dtype: np.dtype
    stored: Shape
    is_channels_first: bool = False
    value: np.ndarray | None = None
    kernel: tuple[np.ndarray, np.ndarray | None] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the graph stores the value as the program has it."""
        return not self.is_channels_first and self.stored == self.shape


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation of ONNX; attributes may be graphs."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output of a graph."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...]


class Graph:
    """Nodes in the order of their computation, and constants, which the outermost graph holds.

    Args:
      parent: the graph that this one is a loop body of; its values can be read here.
    """

    def __init__(self, parent: Union['Graph', None] = None) -> None:
        self.parent = parent
        self.root: Graph = self if parent is None else parent.root
        self.nodes: list[Node] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.constants: dict[str, np.ndarray] = {}
        self.producers: dict[str, Node] = {}
        self._known: dict[Any, tuple[str, ...]] = {}
        self._count = 0

    def new_name(self) -> str:
        """Makes a name that is unique over all graphs."""
        self.root._count += 1
        return f'v{self.root._count}'

    def add(
        self, operation: str, *inputs: str, num_outputs: int = 1, **attributes: Any
    ) -> tuple[str, ...]:
        """Adds a node, or finds the one that computes the same.

        Returns:
          The names of its outputs.
        """
        key = (operation, inputs, num_outputs, repr(sorted(attributes.items())))
        known = self._find(key)
        if known is None:
            known = tuple(self.new_name() for _ in range(num_outputs))
            node = Node(operation, inputs, known, attributes)
            self.nodes.append(node)
            self._known[key] = known
            self.root.producers.update(dict.fromkeys(known, node))
        return known

    def add_copy(self, name: str) -> str:
        """Adds a value of its own that equals another one, such as for an output."""
        copy = self.new_name()
        self.nodes.append(Node('Identity', (name,), (copy,), {}))
        return copy

    def add_output(self, name: str, port: Port) -> None:
        """Makes a value an output."""
        self.nodes.append(Node('Identity', (name,), (port.name,), {}))
        self.outputs.append(port)

    def add_constant(self, value: np.ndarray) -> str:
        """Adds a constant, or finds an equal one."""
        value = np.ascontiguousarray(value).reshape(value.shape)
        digest = hashlib.blake2b(value.tobytes()).digest()
        key = ('constant', str(value.dtype), value.shape, digest)
        known = self.root._known.get(key)
        if known is None:
            known = (self.new_name(),)
            self.root.constants[known[0]] = value
            self.root._known[key] = known
        return known[0]

    def prune(self) -> None:
        """Leaves out nodes and constants that no output needs."""
        needed = {port.name for port in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.outputs):
                continue
            kept.append(node)
            needed.update(node.inputs)
            for graph in _list_graphs(node):
                graph.prune()
                needed.update(graph.list_reads())
        self.nodes = kept[::-1]
        self.constants = {k: v for k, v in self.constants.items() if k in needed}

    def list_reads(self) -> set[str]:
        """Lists the values that nodes or outputs read, of this graph or of those around it."""
        reads = {port.name for port in self.outputs}
        for node in self.nodes:
            reads.update(node.inputs)
            for graph in _list_graphs(node):
                reads |= graph.list_reads()
        return reads

    def _find(self, key: Any) -> tuple[str, ...] | None:
        graph: Graph | None = self
        while graph is not None:
            if key in graph._known:
                return graph._known[key]
            graph = graph.parent
        return None


def _list_graphs(node: Node) -> list[Graph]:
    return [value for value in node.attributes.values() if isinstance(value, Graph)]
