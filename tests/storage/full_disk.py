"""A disk that takes no larger files, for tests of full disks."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def small_files(max_bytes: int) -> Iterator[None]:
    """The kernel refuses to write larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
