"""From a compiled program to what it takes of its chips."""

import dataclasses
import re
import time
from typing import Any

import jax

from pdl_jax.planning.collectives import find_collectives, summarize_collectives
from pdl_jax.planning.hlo import parse_module
from pdl_jax.planning.lookups import find_lookups, find_loops
from pdl_jax.planning.products import find_products, padding_waste
from pdl_jax.planning.program import Program
from pdl_jax.planning.topology import Topology
from pdl_jax.planning.traffic import count_bytes

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# The widest paddings and longest loops that a report lists.
_NUM_LISTED = 8


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """What one call of a program takes; numbers are None where it does not fit, for then there is no program.

    Attributes:
      name: 'train', 'eval' or 'postprocess'.
      num_images: of one call, over all chips.
      size: (height, width) of the network's input in pixels.
      compile_seconds: that the compiler took.
      fits: whether `bytes_per_chip` are at most `hbm_bytes`.
      bytes_per_chip: the sum of `memory`.
      hbm_bytes: of a chip.
      memory: bytes per chip of 'arguments', 'outputs' (without those in the place of arguments), 'temporaries', 'code', and of
        'resident', what else a run keeps in memory meanwhile.
      flops, bytes_accessed: of all chips; bytes to and from their main memories.
      xla_cost: the compiler's own 'flops' and 'bytes_accessed' of all chips, which count one pass of each loop and values
        on the chip like values in memory.
      seconds: the least that 'compute', 'hbm' and 'interconnect' take, each at its published rate.
      step_seconds: the largest of `seconds`: all three perfectly overlapped.
      bound: which of them that is.
      collectives: 'count' and 'bytes' of one chip by kind.
      lookups, loops: see `planning.lookups`; 'is_over_pixels' and 'is_over_rows' where one run has as many indices or passes as
        the network's map of stride 4 has pixels or rows on a device.
      padding: 'waste', the share of convolution flops lost to padding, and 'products', where most of it is.
    """

    name: str
    num_images: int
    size: tuple[int, int]
    compile_seconds: float
    fits: bool
    bytes_per_chip: int | None
    hbm_bytes: int
    memory: dict[str, int] | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    xla_cost: dict[str, float] | None = None
    seconds: dict[str, float] | None = None
    step_seconds: float | None = None
    bound: str | None = None
    collectives: dict[str, dict[str, int]] | None = None
    lookups: list[dict[str, Any]] | None = None
    loops: list[dict[str, Any]] | None = None
    padding: dict[str, Any] | None = None

    @property
    def images_per_second(self) -> float | None:
        """At best."""
        return self.num_images / self.step_seconds if self.step_seconds else None


def plan_program(program: Program, mesh: jax.sharding.Mesh, topology: Topology) -> ProgramPlan:
    """Compiles a program and counts what it takes."""
    start = time.monotonic()
    try:
        compiled = program.compile(mesh)
    except jax.errors.JaxRuntimeError as error:
        needed = _parse_exhausted(str(error))
        if needed is None:
            raise
        return ProgramPlan(
            program.name,
            program.num_images,
            program.size,
            time.monotonic() - start,
            False,
            needed * topology.devices_per_chip,
            topology.chip.hbm_bytes,
        )
    return analyze(program, compiled, mesh, topology, compile_seconds=time.monotonic() - start)


def analyze(
    program: Program,
    compiled: jax.stages.Compiled,
    mesh: jax.sharding.Mesh,
    topology: Topology,
    *,
    compile_seconds: float,
) -> ProgramPlan:
    """Counts what a compiled program takes."""
    chip, num_devices, per_chip = topology.chip, len(topology.devices), topology.devices_per_chip
    memory = _count_memory(compiled.memory_analysis(), program.resident_bytes, per_chip)
    module = parse_module(compiled.as_text())
    products = find_products(module)
    collectives = find_collectives(module)
    cost = compiled.cost_analysis()
    # The compiler counts one pass of a loop.
    device_flops = cost['flops'] + sum((p.count - 1) * p.flops for p in products)
    device_bytes = count_bytes(module)
    seconds = {
        'compute': device_flops * per_chip / chip.flops_per_second,
        'hbm': device_bytes * per_chip / chip.hbm_bytes_per_second,
        'interconnect': sum(c.count * c.estimate_seconds(chip, topology.grid) for c in collectives),
    }
    bound = max(seconds, key=seconds.get)
    rows, columns = (-(-n // 4) for n in program.size)
    rows //= mesh.shape['space']
    return ProgramPlan(
        name=program.name,
        num_images=program.num_images,
        size=program.size,
        compile_seconds=compile_seconds,
        fits=sum(memory.values()) <= chip.hbm_bytes,
        bytes_per_chip=sum(memory.values()),
        hbm_bytes=chip.hbm_bytes,
        memory=memory,
        flops=device_flops * num_devices,
        bytes_accessed=float(device_bytes * num_devices),
        xla_cost={
            'flops': cost['flops'] * num_devices,
            'bytes_accessed': cost['bytes accessed'] * num_devices,
        },
        seconds=seconds,
        step_seconds=seconds[bound],
        bound=bound,
        collectives=summarize_collectives(collectives),
        lookups=[
            {**dataclasses.asdict(lookup), 'is_over_pixels': lookup.num_indices >= rows * columns}
            for lookup in find_lookups(module)
        ],
        loops=[
            {
                **dataclasses.asdict(loop),
                'is_over_rows': loop.num_trips is not None and loop.num_trips >= rows,
            }
            for loop in find_loops(module)
        ],
        padding=_summarize_padding(products),
    )


def _count_memory(stats, resident_bytes, devices_per_chip):
    counts = {
        'arguments': stats.argument_size_in_bytes,
        'outputs': stats.output_size_in_bytes - stats.alias_size_in_bytes,
        'temporaries': stats.temp_size_in_bytes,
        'code': stats.generated_code_size_in_bytes,
        'resident': resident_bytes,
    }
    return {key: value * devices_per_chip for key, value in counts.items()}


def _summarize_padding(products):
    lost = {}
    for product in products:
        key = product.op_name, product.result.dims
        wasted = product.count * (product.padded_flops - product.flops)
        lost[key] = lost.get(key, 0) + wasted
    largest = sorted(lost.items(), key=lambda item: -item[1])[:_NUM_LISTED]
    return {
        'waste': padding_waste(products),
        'products': [
            {'op_name': name, 'result': list(dims), 'wasted_flops': wasted}
            for (name, dims), wasted in largest
        ],
    }


def _parse_exhausted(message):
    """Bytes per device that the compiler says a program needs; None where the message is another."""
    match = re.search(r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm', message)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
