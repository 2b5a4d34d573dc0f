"""A jitted function that is compiled once, by all processes together."""

from collections.abc import Callable
from typing import Any

import jax

from pdl_jax.runtime.processes import compile_together
from pdl_jax.runtime.progress import stage
from pdl_jax.typing import PyTree


class CompiledOnFirstCall:
    """Compiles a jitted function at its first call and keeps the program.

    The program takes arguments of the shapes, types and shardings of the first call only. Processes
    wait for each other, so that none waits inside a collective while another still compiles.

    Args:
      function: jitted.
      name: name of the function for messages, such as 'the train step'.
    """

    def __init__(self, function: Callable[..., Any], *, name: str):
        self._function = function
        self._name = name
        self._compiled: jax.stages.Compiled | None = None

    def compile(self, *arguments: PyTree) -> jax.stages.Compiled:
        """Compiles for arguments like these, unless it is done; returns the program.

        Args:
          arguments: arrays, or shapes with shardings.
        """
        if self._compiled is None:
            with stage(f'compiling {self._name}'):
                self._compiled = compile_together(self._function, *arguments, name=self._name)
        return self._compiled

    def __call__(self, *arguments: PyTree) -> Any:
        """Calls the program, compiling it if this is the first call."""
        return self.compile(*arguments)(*arguments)
