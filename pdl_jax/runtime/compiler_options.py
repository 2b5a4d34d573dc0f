"""XLA compiler options per platform, and the cache of compiled programs."""

import os

import jax

_MAX_USER_CACHE_BYTES = 2 * 1024**3


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


def cache_programs(folder: str, *, max_bytes: int = -1) -> None:
    """Keeps compiled programs in a folder, so that the same command compiles once.

    JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=false keeps
    none.

    Args:
      folder: the folder; made if there is none.
      max_bytes: size at which the programs that were used least recently make room; -1 for none.
    """
    if jax.process_count() > 1 and jax.default_backend() == 'cpu':
        # On CPU only process 0 hits the compilation cache; it would then wait for the others to
        # compile for longer than Gloo's timeout.
        jax.config.update('jax_enable_compilation_cache', False)
    # JAX defines its options at run time.
    elif not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(folder))
        jax.config.update('jax_compilation_cache_max_size', max_bytes)


def cache_user_programs() -> None:
    """Keeps compiled programs for this user, see `cache_programs`.

    The folder is pdl_jax/compiled in $XDG_CACHE_HOME, by default ~/.cache. None is kept where it
    cannot be written.
    """
    caches = os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
    folder = os.path.join(os.path.expanduser(caches), 'pdl_jax', 'compiled')
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        cache_programs(folder, max_bytes=_MAX_USER_CACHE_BYTES)
