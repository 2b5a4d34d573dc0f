"""Programs that run once."""

import jax

# Compiling them well costs more than it gains.
_OPTIONS = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def run_fast(function, *arguments):
    """Compiles in a hurry and runs."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=_OPTIONS)(*arguments)
