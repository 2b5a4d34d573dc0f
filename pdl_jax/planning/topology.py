"""Devices to compile for: an absent TPU slice, or simulated CPU devices."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from pdl_jax.planning.chips import CHIPS, Chip

INSTALL_HINT = (
    'planning for a TPU needs its compiler, libtpu, which runs on any Linux machine: '
    'pip install "jax[tpu]"; --topology=cpu:8 plans without it'
)
# Defaults that keep libtpu from querying the cloud for this machine's type and from logging what
# it lacks here.
_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    # Several plans may run at a time.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: name, such as 'v5e:4x4' or 'cpu:8'.
      devices: JAX devices, for a mesh.
      grid: chips along each axis.
      chip_name: generation whose rates count, a key of `chips.CHIPS`.
      chip: rates of that generation.
    """

    name: str
    devices: list[Any]
    grid: tuple[int, ...]
    chip_name: str
    chip: Chip

    @property
    def is_simulated(self) -> bool:
        """True if CPU devices stand in for the chips."""
        return self.name.startswith('cpu:')

    @property
    def num_chips(self) -> int:
        """Number of chips."""
        return math.prod(self.grid)

    @property
    def devices_per_chip(self) -> int:
        """Number of JAX devices that share the compute and memory of one chip."""
        return len(self.devices) // self.num_chips


def make_topology(name: str, cpu_chip: str = 'v5e') -> Topology:
    """Makes the devices of a topology. Call it before JAX initialises a backend.

    Args:
      name: GENERATION:SHAPE, such as 'v5e:4x4' or 'v4:2x2x4', or 'cpu:N'.
      cpu_chip: generation whose rates count for simulated devices.

    Raises:
      ValueError: the topology does not exist, or JAX has already started with fewer devices.
      ImportError: libtpu is not installed.
    """
    generation, _, shape = name.partition(':')
    if generation not in ('cpu', *CHIPS) or not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', shape):
        raise ValueError(
            f'topology {name!r} must be one of {", ".join(CHIPS)} or cpu, a colon and a shape: '
            'v5e:4x4, v4:2x2x4, cpu:8'
        )
    grid = tuple(map(int, shape.split('x')))
    # Planning must not occupy an accelerator of this machine.
    jax.config.update('jax_platforms', 'cpu')
    if generation == 'cpu':
        return Topology(name, _make_cpu_devices(math.prod(grid)), grid, cpu_chip, CHIPS[cpu_chip])
    if importlib.util.find_spec('libtpu') is None:
        raise ImportError(INSTALL_HINT)
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # A host has four chips, or fewer in smaller slices.
    options: dict[str, Any] = {
        'chips_per_host_bounds': tuple(min(n, 2) for n in (*grid, 1)[:2]) + (1,)
    }
    if generation == 'v4':
        # On a TPU VM the two cores of a chip are one device; the compiler's default splits them.
        options['chip_config_name'] = 'megacore'
    try:
        described = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f'the TPU compiler has no topology {name!r}: {error}') from error
    return Topology(name, described.devices, grid, generation, CHIPS[generation])


def _make_cpu_devices(count: int) -> list[Any]:
    try:
        jax.config.update('jax_num_cpu_devices', count)
    except RuntimeError:
        # JAX has already started, and its number of devices is fixed; it may suffice.
        pass
    devices = jax.devices('cpu')
    if len(devices) < count:
        raise ValueError(f'JAX has started with {len(devices)} CPU devices, fewer than {count}')
    return devices[:count]
