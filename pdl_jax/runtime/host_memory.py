"""How a program on a CPU goes about the memory of its machine."""

import ctypes
import sys

import jax

# Parameters of mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes a process that computes on a CPU keep freed memory for its next request instead of giving it back to the system.

    XLA:CPU asks for the temporaries of a program in one block at every call. glibc maps blocks of more than 32 MiB anew each
    time, and the system then clears every page at its first touch: a fifth of a train step, a third of post-processing. Other
    threads than the first get no larger blocks otherwise, so programs run in the thread that calls them, which on a CPU has
    nothing better to do. (One arena for all threads would serve as well, if it did not slow compilation down by half.)

    Call this before anything asks for devices, but after `jax.distributed.initialize`.

    Returns:
      Whether it did. With other devices, or another C library than glibc, everything stays as it is.
    """
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    if jax.default_backend() != 'cpu' or not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MAX_INT) and mallopt(_TRIM_THRESHOLD, _MAX_INT))
