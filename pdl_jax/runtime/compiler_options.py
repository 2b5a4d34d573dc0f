"""XLA compiler options per platform, and the cache of compiled programs."""

import os

import jax


def train_compiler_options(platform: str) -> dict[str, str]:
    """Returns the `compiler_options` of `jax.jit` for a train step.

    By default XLA:CPU schedules for as much concurrency as possible. A train step then keeps two
    thirds more in memory than in the order that needs least, and touching new memory makes the step
    of a ResNet-50 a sixth slower. Programs without gradients gain nothing from the memory-optimised
    order, and some need more memory.

    Args:
      platform: 'cpu', 'gpu' or 'tpu'.
    """
    if platform == 'cpu':
        return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
    return {}


def single_use_compiler_options(platform: str) -> dict[str, str]:
    """Returns the `compiler_options` of `jax.jit` for a program that runs once.

    On CPU LLVM's optimisation would take longer than it saves.

    Args:
      platform: 'cpu', 'gpu' or 'tpu'.
    """
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
    # JAX defines its options at run time.
    elif not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        folder = os.path.join(os.path.expanduser(workdir), 'compiled')
        jax.config.update('jax_compilation_cache_dir', folder)
