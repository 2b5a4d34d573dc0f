"""Functions that all processes compile together at their first call."""

from typing import Any

import jax

from pdl_jax.runtime.processes import compile_together
from pdl_jax.runtime.progress import stage
from pdl_jax.typing import PyTree


class CompiledOnFirstCall:
    """A jitted function that is compiled at the first call, by all processes at the same time.

    The first call compiles for the shapes and shardings of its arguments and waits for the other
    processes, see `compile_together`; that call and all later ones run the compiled program, which
    refuses other shapes. A transfer guard around the first call does not apply to compilation.

    Args:
      function: a jitted function.
      name: name of the function, for messages, such as 'the train step'.
    """

    def __init__(self, function: jax.stages.Wrapped, *, name: str):
        self._function = function
        self._name = name
        self._compiled: jax.stages.Compiled | None = None

    def __call__(self, *arguments: PyTree) -> Any:
        """Runs the function.

        Raises:
          RuntimeError: another process failed while this one compiled.
          TypeError: the arguments do not have the shapes of the first call.
        """
        if self._compiled is None:
            with stage(f'compiling {self._name}'), jax.transfer_guard('allow'):
                self._compiled = compile_together(self._function, *arguments, name=self._name)
        return self._compiled(*arguments)
