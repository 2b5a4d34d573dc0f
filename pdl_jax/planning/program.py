"""A jitted function and its abstract arguments, to compile for devices that need not exist."""

import dataclasses
from typing import Any

import jax

from pdl_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function, its abstract arguments and what the analysis must know of a call.

    Attributes:
      name: 'train', 'eval' or 'postprocess'.
      function: the jitted function.
      arguments: shapes, dtypes and shardings of its arguments.
      num_images: images per call, over all devices.
      size: (height, width) of the network's input in pixels.
      resident_bytes: bytes per device that the run keeps in memory beside the arguments.
    """

    name: str
    function: jax.stages.Wrapped
    arguments: tuple[PyTree, ...]
    num_images: int
    size: tuple[int, int]
    resident_bytes: int = 0

    def compile(self, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
        """Compiles the function for the devices of `mesh`."""
        options: dict[str, Any] = {}
        if mesh.devices.flat[0].platform == 'cpu':
            # The plan reads XLA's optimised HLO; LLVM's optimisation would only take time.
            options = {'xla_backend_optimization_level': 0}
        with jax.set_mesh(mesh):
            return self.function.lower(*self.arguments).compile(compiler_options=options)
