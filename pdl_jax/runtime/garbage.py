"""Settings of Python's garbage collector for programs that trace large networks."""

import gc

# Containers that are made before the young ones are searched, and collections of one generation
# before one of the next.
_THRESHOLDS = (200_000, 20, 20)


def collect_garbage_rarely() -> None:
    """Makes the collector of reference cycles run less often, in the whole process.

    Tracing a network makes containers by the million and hardly any cycles. With Python's
    thresholds the collector searches all of them again and again, which takes a sixth of the time
    until the program reaches the compiler.
    """
    gc.set_threshold(*_THRESHOLDS)
