"""A lock on a local file or folder, for one process at a time."""

import errno
import os


def lock_exclusively(descriptor: int, path: str | os.PathLike, *, message: str) -> None:
    """Locks an open file or folder until its descriptor is closed, without waiting.

    The operating system releases the lock when the process ends, however it ends; a lock file
    would stay behind.

    Args:
      descriptor: descriptor of the open file or folder.
      path: the path that was opened.
      message: text of the error if another process holds the lock.

    Raises:
      OSError: EBUSY, another process holds the lock, or moved or removed `path` before this process
        had it; another errno, the file system has no locks.
    """
    import fcntl  # Missing on Windows, where reading prepared splits still works.

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_in_place = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (BlockingIOError, FileNotFoundError) as error:
        raise OSError(errno.EBUSY, message) from error
    if not is_in_place:
        raise OSError(errno.EBUSY, message)
