"""Memory, work, lower bounds of time and communication of a compiled program."""

import dataclasses
import re
import time
from typing import Any

import jax

from pdl_jax.ops.rounding import ceil_div
from pdl_jax.planning.collectives import Collective, find_collectives, summarize_collectives
from pdl_jax.planning.hlo import Module, parse_module
from pdl_jax.planning.lookups import find_lookups, find_loops
from pdl_jax.planning.products import Product, find_products, padding_waste
from pdl_jax.planning.program import Program
from pdl_jax.planning.topology import Topology
from pdl_jax.planning.traffic import count_bytes

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# Number of products listed in `ProgramPlan.padding`, those with the most padding.
_NUM_LISTED = 8


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """Cost of one call of a program.

    The optional fields are None if the compiler refused the program for lack of memory.

    Attributes:
      name: 'train', 'eval' or 'postprocess'.
      num_images: images per call, over all chips.
      size: (height, width) of the network's input in pixels.
      compile_seconds: compilation time.
      fits: whether `bytes_per_chip` is at most `hbm_bytes`.
      bytes_per_chip: the sum of `memory`.
      hbm_bytes: memory of a chip.
      memory: bytes per chip by kind: 'arguments', 'outputs' (those that reuse donated arguments
        excluded), 'temporaries', 'code', and 'resident', whatever else the run keeps in memory.
      flops: floating-point operations of all chips.
      bytes_accessed: bytes transferred between all chips and their main memories.
      xla_cost: the compiler's own 'flops' and 'bytes_accessed' of all chips. It counts one
        iteration per loop, and on-chip values as if they were in memory.
      seconds: lower bounds for 'compute', 'hbm' and 'interconnect', each at its published rate.
      step_seconds: the largest of `seconds`, as if all three overlapped perfectly.
      bound: key of that largest entry.
      collectives: 'count' and 'bytes' per chip, by kind.
      lookups, loops: fields of `lookups.Lookup` and `lookups.Loop`. 'is_over_pixels' and
        'is_over_rows' are set if one execution has at least as many indices or iterations as
        the network's stride-4 map has pixels or rows per device.
      padding: 'waste', the share of convolution flops spent on padding, and 'products', the
        products with the most of it.
    """

    name: str
    num_images: int
    size: tuple[int, int]
    compile_seconds: float
    fits: bool
    bytes_per_chip: int
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
        """Upper bound of the throughput of all chips."""
        return self.num_images / self.step_seconds if self.step_seconds else None


def plan_program(program: Program, mesh: jax.sharding.Mesh, topology: Topology) -> ProgramPlan:
    """Compiles a program and analyses it.

    Args:
      program: the jitted function with its abstract arguments.
      mesh: the mesh over the devices of `topology`, with the axis 'space'.
      topology: the chips to compile for and their rates.

    Returns:
      The plan, which does not fit if the compiler ran out of device memory.

    Raises:
      jax.errors.JaxRuntimeError: the compiler failed for another reason.
    """
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
    """Analyses a compiled program; `compile_seconds` is only reported.

    Raises:
      ValueError: the backend gives neither text nor cost of its programs.
    """
    chip, num_devices, per_chip = topology.chip, len(topology.devices), topology.devices_per_chip
    text, cost = compiled.as_text(), compiled.cost_analysis()
    if text is None or cost is None:
        raise ValueError(f'the compiler of {topology.name} gives no text or cost of its programs')
    memory = _count_memory(compiled.memory_analysis(), program.resident_bytes, per_chip)
    module = parse_module(text)
    products = find_products(module)
    collectives = find_collectives(module)
    # The compiler counts one iteration per loop.
    device_flops = cost['flops'] + sum((p.count - 1) * p.flops for p in products)
    device_bytes = count_bytes(module)
    seconds = _bound_seconds(device_flops, device_bytes, collectives, topology)
    bound = max(seconds, key=lambda key: seconds[key])
    rows, columns = (ceil_div(n, 4) for n in program.size)
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
        lookups=_describe_lookups(module, rows * columns),
        loops=_describe_loops(module, rows),
        padding=_summarize_padding(products),
    )


def _bound_seconds(
    device_flops: float, device_bytes: int, collectives: list[Collective], topology: Topology
) -> dict[str, float]:
    """Returns the lower bounds of `ProgramPlan.seconds`."""
    chip, per_chip = topology.chip, topology.devices_per_chip
    return {
        'compute': device_flops * per_chip / chip.flops_per_second,
        'hbm': device_bytes * per_chip / chip.hbm_bytes_per_second,
        'interconnect': sum(c.count * c.estimate_seconds(chip, topology.grid) for c in collectives),
    }


def _describe_lookups(module: Module, num_pixels: int) -> list[dict[str, Any]]:
    return [
        {**dataclasses.asdict(lookup), 'is_over_pixels': lookup.num_indices >= num_pixels}
        for lookup in find_lookups(module)
    ]


def _describe_loops(module: Module, num_rows: int) -> list[dict[str, Any]]:
    return [
        {
            **dataclasses.asdict(loop),
            'is_over_rows': loop.num_trips is not None and loop.num_trips >= num_rows,
        }
        for loop in find_loops(module)
    ]


def _count_memory(stats: Any, resident_bytes: int, devices_per_chip: int) -> dict[str, int]:
    counts = {
        'arguments': stats.argument_size_in_bytes,
        'outputs': stats.output_size_in_bytes - stats.alias_size_in_bytes,
        'temporaries': stats.temp_size_in_bytes,
        'code': stats.generated_code_size_in_bytes,
        'resident': resident_bytes,
    }
    return {key: value * devices_per_chip for key, value in counts.items()}


def _summarize_padding(products: list[Product]) -> dict[str, Any]:
    lost: dict[tuple[str, tuple[int, ...]], int] = {}
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


def _parse_exhausted(message: str) -> int | None:
    """Reads the bytes per device from an out-of-memory message; None for other messages."""
    match = re.search(r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm', message)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
