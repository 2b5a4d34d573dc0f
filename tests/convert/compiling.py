"""Quick compilation of programs that run a few times only."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import pytest

# Optimising them takes longer than it saves.
OPTIONS = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def run_fast(function, *arguments):
    """Compiles a function without optimisation and runs it."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=OPTIONS)(*arguments)


@contextlib.contextmanager
def compiling_fast() -> Iterator[None]:
    """Leaves programs unoptimised that are made in this context and name no other options."""
    with pytest.MonkeyPatch.context() as patch:
        # The same option as `ProcessGroup` sets, so that programs are found in the cache.
        options = {'xla_backend_optimization_level': 0}
        patch.setattr(jax, 'jit', functools.partial(jax.jit, compiler_options=options))
        yield
