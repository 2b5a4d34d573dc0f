"""Settings of the C library's memory allocator for programs that compute on a CPU."""

import ctypes
import sys

import jax

# Parameters of mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes a process that computes on a CPU keep freed memory instead of returning it.

    XLA:CPU allocates the temporaries of a program in one block per call. glibc maps blocks of more
    than 32 MiB afresh each time, and the kernel then zeroes every page at its first touch, which
    takes a fifth of a train step and a third of post-processing. Only the main thread can get such
    blocks from kept memory, so asynchronous dispatch is turned off as well: programs run in the
    thread that calls them. (A single arena for all threads would also work, but slows compilation
    down by half.)

    Call this before anything asks for devices, but after `jax.distributed.initialize`.

    Returns:
      True if the allocator was set; false with other devices or another C library than glibc.
    """
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    if jax.default_backend() != 'cpu' or not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MAX_INT) and mallopt(_TRIM_THRESHOLD, _MAX_INT))
