"""XLA compiler options per platform, and the cache of compiled programs."""

import os

import jax


def train_compiler_options(platform: str) -> dict[str, str]:
    """What to give `jax.jit` for a train step on 'cpu', 'gpu' or 'tpu'.

    XLA:CPU orders operations so that as many as possible could run side by side. Of a train step it then keeps two thirds more in
    memory than in the order that needs least, and touching new memory takes time: that of the R50 is a sixth slower. Programs
    without gradients gain nothing, some need more memory.
    """
    if platform == 'cpu':
        return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
    return {}


def single_use_compiler_options(platform: str) -> dict[str, str]:
    """What to give `jax.jit` for a program that runs once: on 'cpu' LLVM would optimise for longer than it saves."""
    return {'xla_backend_optimization_level': '1'} if platform == 'cpu' else {}


def cache_programs(workdir: str) -> None:
    """Keeps compiled programs in WORKDIR/compiled, so that the same command compiles once.

    JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=false keeps
    none.
    """
    if jax.process_count() > 1 and jax.default_backend() == 'cpu':
        # On CPU only process 0 hits the compilation cache; it would then wait for the others to
        # compile for longer than Gloo's timeout.
        jax.config.update('jax_enable_compilation_cache', False)
    elif not jax.config.jax_compilation_cache_dir:
        folder = os.path.join(os.path.expanduser(workdir), 'compiled')
        jax.config.update('jax_compilation_cache_dir', folder)
