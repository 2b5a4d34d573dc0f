"""Quick compilation of programs that run once."""

import jax

# Optimising them takes longer than it saves.
_OPTIONS = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def run_fast(function, *arguments):
    """Compiles a function without optimisation and runs it."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=_OPTIONS)(*arguments)
