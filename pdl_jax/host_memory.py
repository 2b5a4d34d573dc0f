"""How a program on a CPU goes about the memory of its machine."""

import ctypes
import sys

# Parameters of mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next request instead of giving it back to the system.

    XLA:CPU asks for the temporaries of a program in one block at every call. glibc maps blocks of more than 32 MiB anew each
    time, and the system then clears every page at its first touch: a third of the time of post-processing.

    Returns:
      Whether it did; with another C library than glibc everything stays as it is.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MAX_INT) and mallopt(_TRIM_THRESHOLD, _MAX_INT))
