"""Gathers, scatters and loops: what runs element by element, or pass after pass, where arrays should be processed whole."""

import dataclasses
import re

from pdl_jax.planning.hlo import Module, Step


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A gather or scatter.

    Attributes:
      kind: 'gather' or 'scatter'.
      op_name: where in the program it comes from.
      count: how often it runs in a step.
      num_indices: how many places one run looks up or changes.
    """

    kind: str
    op_name: str
    count: int
    num_indices: int


@dataclasses.dataclass(frozen=True)
class Loop:
    """A while loop.

    Attributes:
      op_name: where in the program it comes from.
      count: how often it runs in a step.
      num_trips: passes of one run; None where it depends on data.
    """

    op_name: str
    count: int
    num_trips: int | None


def find_lookups(module: Module) -> list[Lookup]:
    """All gathers and scatters of a step."""
    counters = {'gather': _count_gathered, 'scatter': _count_scattered}
    return [
        Lookup(
            s.instruction.opcode, s.instruction.op_name, s.count, counters[s.instruction.opcode](s)
        )
        for s in module.walk()
        if s.instruction.opcode in counters
    ]


def find_loops(module: Module) -> list[Loop]:
    """All loops of a step."""
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
    # Operands, indices, updates: as many operands as updates.
    updates = step.computation.instructions[step.instruction.operands[-1]]
    return _count_without(updates.shapes[0].dims, step.instruction.attribute('update_window_dims'))


def _count_without(dims, left_out):
    """The product of the sizes of all but some dimensions."""
    left_out = {int(n) for n in re.findall(r'\d+', left_out or '')}
    count = 1
    for i, n in enumerate(dims):
        count *= 1 if i in left_out else n
    return count
