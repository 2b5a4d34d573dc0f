"""Collectives of a compiled program and lower bounds of their time."""

import dataclasses
import math
import re

from pdl_jax.planning.chips import HOP_SECONDS, Chip
from pdl_jax.planning.hlo import Instruction, Module

KINDS = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
    'ragged-all-to-all',
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One communication between devices.

    Attributes:
      kind: one of `KINDS`.
      op_name: JAX operation that it was compiled from.
      count: executions per step.
      num_bytes: size per device of its operands or its results, whichever is larger.
      group_size: number of participating devices.
    """

    kind: str
    op_name: str
    count: int
    num_bytes: int
    group_size: int

    def estimate_seconds(self, chip: Chip, grid: tuple[int, ...]) -> float:
        """Estimates the seconds of one execution.

        Ring algorithms over all links of a corner chip, plus the latency to the farthest chip:
        rounds * (num_bytes * (n - 1) / n / egress bandwidth + hops * latency per hop).
        """
        n = self.group_size
        if n < 2:
            return 0.0
        if self.kind == 'collective-permute':
            # A permute sends to one neighbour, over one link.
            return self.num_bytes / chip.link_bytes_per_second + HOP_SECONDS
        # An all-reduce is a reduce-scatter followed by an all-gather.
        rounds = 2 if self.kind == 'all-reduce' else 1
        seconds = self.num_bytes * (n - 1) / n / chip.egress_bytes_per_second(grid)
        return rounds * (seconds + chip.count_hops(grid) * HOP_SECONDS)


def find_collectives(module: Module) -> list[Collective]:
    """Finds all collectives of a step; an asynchronous one is counted at its start."""
    found = []
    for step in module.walk():
        instruction = step.instruction
        kind = instruction.opcode.removesuffix('-start')
        if kind not in KINDS:
            continue
        taken = sum(
            s.num_bytes
            for name in instruction.operands
            for s in step.computation.instructions[name].shapes
        )
        given = sum(s.num_bytes for s in instruction.shapes)
        if instruction.opcode.endswith('-start') and kind != 'all-reduce':
            # The tuple of an asynchronous start includes the operands.
            given -= taken
        found.append(
            Collective(
                kind,
                instruction.op_name,
                step.count,
                max(taken, given),
                _count_group(instruction, module),
            )
        )
    return found


def summarize_collectives(collectives: list[Collective]) -> dict[str, dict[str, int]]:
    """Sums the 'count' of executions and the 'bytes' per step, by kind."""
    return {
        kind: {
            'count': sum(c.count for c in collectives if c.kind == kind),
            'bytes': sum(c.count * c.num_bytes for c in collectives if c.kind == kind),
        }
        for kind in KINDS
        if any(c.kind == kind for c in collectives)
    }


def _count_group(instruction: Instruction, module: Module) -> int:
    attributes = instruction.attributes
    if 'source_target_pairs' in attributes:
        return 2
    named = re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', attributes)
    if named:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", named[2]))
    groups = re.search(r'replica_groups=\[\d+,(\d+)\]<=', attributes)
    if groups:
        return int(groups[1])
    listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
    return len(listed[1].split(',')) if listed else module.num_partitions
