"""Reading files that others made: only regular ones, and only up to a size."""

import os
import stat

from etils import epath

from pdl_jax.storage import paths

# Above any image within `data.images.MAX_PIXELS`, below the memory of a host.
MAX_FILE_BYTES = 2**29
# Above the annotations of any data set: COCO's largest file has 450 MB.
MAX_JSON_BYTES = 2**30


def read_outside_file(path: str | os.PathLike, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Reads a whole file, after its kind and size have been looked at.

    Args:
      path: the file, local or in a bucket.
      max_bytes: larger files are refused before they are read.

    Returns:
      The bytes of the file.

    Raises:
      ValueError: the file is a pipe, a device, a socket or a directory, or too large; the message
        names it.
      OSError: the file is missing or cannot be read.
    """
    paths.refuse_address(path)
    name = os.path.expanduser(os.fspath(path))
    if paths.is_remote(name):
        # No request besides those of the reading itself: buckets answer slowly.
        with epath.Path(name).open('rb') as file:
            data = file.read(max_bytes + 1)
        _check_size(name, len(data), max_bytes, 'more than ')
        return data
    # Opening a pipe that nobody writes to would wait for ever without O_NONBLOCK.
    descriptor = os.open(name, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
    try:
        status = os.fstat(descriptor)
        _check_kind(name, status.st_mode)
        _check_size(name, status.st_size, max_bytes)
        with open(descriptor, 'rb', closefd=False) as file:
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def refuse_irregular(path: str | os.PathLike) -> None:
    """Checks that a local path is no pipe, device or socket, for callers that open it themselves.

    A missing file passes: opening it tells.

    Raises:
      ValueError: it is one; the message names it.
    """
    paths.refuse_address(path)
    name = os.path.expanduser(os.fspath(path))
    if not paths.is_remote(name) and os.path.exists(name) and not os.path.isdir(name):
        _check_kind(name, os.stat(name).st_mode)


def _check_kind(name: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFIFO: 'a named pipe',
        stat.S_IFCHR: 'a device',
        stat.S_IFBLK: 'a device',
        stat.S_IFSOCK: 'a socket',
        stat.S_IFDIR: 'a directory',
    }
    kind = kinds.get(stat.S_IFMT(mode), 'no regular file')
    raise ValueError(f'{name} is {kind}: give a regular file')


def _check_size(name: str, size: int, max_bytes: int, prefix: str = '') -> None:
    if size > max_bytes:
        shown = max_bytes if prefix else size
        raise ValueError(
            f'{name} has {prefix}{shown} bytes, the limit is {max_bytes}: shrink or split the file'
        )
