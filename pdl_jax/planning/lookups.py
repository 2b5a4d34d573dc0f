"""Gathers, scatters and loops, which process element by element what should be whole-array ops."""

import dataclasses
import math
import re

from pdl_jax.planning.hlo import Module, Step


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A gather or scatter.

    Attributes:
      kind: 'gather' or 'scatter'.
      op_name: JAX operation that it was compiled from.
      count: executions per step.
      num_indices: indices per execution.
    """

    kind: str
    op_name: str
    count: int
    num_indices: int


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop.

    Attributes:
      op_name: JAX operation that it was compiled from.
      count: executions per step.
      num_trips: iterations per execution; None if data-dependent.
    """

    op_name: str
    count: int
    num_trips: int | None


def find_lookups(module: Module) -> list[Lookup]:
    """Finds all gathers and scatters of a step."""
    counters = {'gather': _count_gathered, 'scatter': _count_scattered}
    return [
        Lookup(
            s.instruction.opcode, s.instruction.op_name, s.count, counters[s.instruction.opcode](s)
        )
        for s in module.walk()
        if s.instruction.opcode in counters
    ]


def find_loops(module: Module) -> list[Loop]:
    """Finds all loops of a step."""
    return [
        Loop(s.instruction.op_name, s.count, module.count_trips(s.instruction, s.computation))
        for s in module.walk()
        if s.instruction.opcode == 'while'
    ]


def _count_gathered(step: Step) -> int:
    return _count_without(
        step.instruction.shapes[0].dims, step.instruction.attribute('offset_dims')
    )


def _count_scattered(step: Step) -> int:
    # The operands of a scatter are its inputs, the indices and the updates.
    updates = step.computation.instructions[step.instruction.operands[-1]]
    return _count_without(updates.shapes[0].dims, step.instruction.attribute('update_window_dims'))


def _count_without(dims: tuple[int, ...], left_out: str | None) -> int:
    """Returns the product of the sizes of all dimensions but those in `left_out`."""
    excluded = {int(n) for n in re.findall(r'\d+', left_out or '')}
    return math.prod(n for i, n in enumerate(dims) if i not in excluded)
