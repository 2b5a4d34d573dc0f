"""A lock on the directory of a run: two runs would remove each other's saves."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from pdl_jax.storage.file_lock import lock_exclusively
from pdl_jax.storage.paths import explain_write_errors, is_remote, refuse_address

_FILE = '.run.lock'
_ADVICE = 'wait for its end, stop it, or choose another --workdir'
# A file server keeps the lock of a host that was lost for about so long.
_LEASE_SECONDS = 100.0
_POLL_SECONDS = 1.0


@contextlib.contextmanager
def lock_workdir(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds the directory of a run for one program at a time.

    The operating system releases the lock when its process ends, however it ends. Buckets and file
    systems without locks are not protected.

    Args:
      workdir: local or gs://; a local one is made if it is missing.

    Raises:
      ValueError: the workdir is an address that cannot be written.
      OSError: another program holds the directory; the message names its process, host and start.
        A program on another host is waited for, because that host may have been lost.
    """
    refuse_address(workdir)
    if is_remote(workdir):
        yield
        return
    folder = os.path.abspath(os.path.expanduser(os.fspath(workdir)))
    path = os.path.join(folder, _FILE)
    with explain_write_errors(folder):
        os.makedirs(folder, exist_ok=True)
    descriptor = _wait_for_lock(path, folder)
    try:
        # A full disk does not end a run before it has to save.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_describe_process()).encode(), 0)
        yield
    finally:
        # Removed before the lock is released: who waits for this file finds it gone, and makes a
        # new one.
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _wait_for_lock(path: str, folder: str) -> int:
    """Returns the descriptor of the locked file."""
    end = time.monotonic() + _LEASE_SECONDS
    is_told = False
    while True:
        with explain_write_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock_exclusively(descriptor, path, message='')
            return descriptor
        except (ImportError, OSError) as error:
            if not isinstance(error, OSError) or error.errno != errno.EBUSY:
                logging.warning('%s is not protected from a second run: %s', folder, error)
                return descriptor
            is_moved = not _is_in_place(descriptor, path)
            holder = _read_holder(descriptor)
            os.close(descriptor)
        if is_moved:
            continue
        is_elsewhere = holder.get('host') not in (None, socket.gethostname())
        if not is_elsewhere or time.monotonic() > end:
            raise OSError(f'{folder} is in use by {_name(holder)}: {_ADVICE}')
        if not is_told:
            is_told = True
            logging.warning('%s is in use by %s: waiting for its end', folder, _name(holder))
        time.sleep(_POLL_SECONDS)


def _is_in_place(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _describe_process() -> dict[str, Any]:
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    return {'pid': os.getpid(), 'host': socket.gethostname(), 'since': since}


def _read_holder(descriptor: int) -> dict[str, Any]:
    """Reads who holds the lock; empty where that is not known, as in the holder's first moment."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return {key: holder[key] for key in ('pid', 'host', 'since')}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return 'another run'
    return f'another run, process {holder["pid"]} on {holder["host"]} since {holder["since"]}'
