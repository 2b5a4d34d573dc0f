"""Paths that may be local folders or buckets."""

import contextlib
import errno
import os
import re
import shlex
import zlib
from collections.abc import Iterator

from etils import epath

# Schemes of the buckets that are read and written.
_BUCKETS = ('gs',)
_WEB = ('http', 'https', 'ftp')
# A full disk, a quota, and the kernel's limit on the size of a file.
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_path(path: str | os.PathLike) -> epath.Path:
    """Makes a path with open, iterdir and exists, for local folders and for gs://.

    Raises:
      ValueError: see `refuse_address`.
      ImportError: the path is on gs:// and the package that reads buckets is missing.
      OSError: the bucket cannot be reached.
    """
    refuse_address(path)
    made = epath.Path(os.path.expanduser(os.fspath(path)))
    if is_remote(made):
        try:
            with explain_bucket_errors(made):
                made.exists()
        except ImportError as error:
            raise ImportError(
                f'{made} is a bucket and the package that reads buckets is not installed: '
                f'pip install gcsfs'
            ) from error
    return made


def refuse_address(path: str | os.PathLike) -> None:
    """Checks that a path is a local one or one on gs://.

    Raises:
      ValueError: it is the address of a web page or of another service, or a bucket's that lost a
        slash, as pathlib writes it; the message says what to do.
    """
    address = os.fspath(path)
    scheme, separator, rest = address.partition(':/')
    if not separator or not re.fullmatch(r'[A-Za-z][\w+.-]+', scheme):
        return
    if not rest.startswith('/'):
        # A folder may have a colon at the end of its name, but not this name.
        if scheme in _BUCKETS:
            raise ValueError(f'{address} lacks a slash: give {scheme}://{rest}')
        return
    if scheme in _BUCKETS:
        return
    remedy = 'copy the files to one of these'
    if scheme.lower() in _WEB:
        name = re.split(r'[?#]', address.rstrip('/'))[0].rpartition('/')[2]
        name = name if name and not re.search(r'[^\w.+-]', name) else 'FILE'
        remedy = f'download it first, curl -L -o {name} {shlex.quote(address)}, and give its path'
    elif scheme == 'hf':
        name = rest.rstrip('/').rpartition('/')[2].partition('@')[0]
        remedy = f'`pdl_jax pull {address} {name or "DIR"}`, and give {name or "DIR"}'
    elif scheme.lower() == 'file':
        remedy = f'give {rest.removeprefix("/")}'
    raise ValueError(
        f'{address} is an address ({scheme}://), and only local paths and gs:// are read and '
        f'written: {remedy}'
    )


def is_remote(path: str | os.PathLike) -> bool:
    """Returns true for a path in a bucket, where renames are not atomic."""
    return '://' in os.fspath(path)


def file_size(path: epath.Path) -> int:
    """Returns the size of a file in bytes."""
    # A local epath's stat looks up the name of the file's owner, which a container may lack.
    return path.stat().length if is_remote(path) else os.path.getsize(path)


@contextlib.contextmanager
def explain_bucket_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns the many kinds of errors of a bucket's client into one that names the path.

    The client has retried several times before it raises any.

    Raises:
      OSError: the bucket failed.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, ImportError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise OSError(
            f'{os.fspath(path)}: the bucket answers {type(error).__name__}: {error}'.strip()
        ) from error


@contextlib.contextmanager
def explain_write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns errors of writing, which often lack the path, into one that names it and the remedy.

    Raises:
      OSError: the original error, with its kind and errno and a clearer text; or the bucket failed.
    """
    try:
        with explain_bucket_errors(path):
            yield
    except OSError as error:
        # Errors without errno are already sentences of this package.
        if error.errno is None:
            raise
        remedy = 'check the path and its permissions'
        if error.errno in FULL_DISK_ERRORS:
            remedy = 'free some space'
        named = type(error)(f'could not write {os.fspath(path)}: {error.strerror}: {remedy}')
        named.errno = error.errno
        raise named from error


def append_whole(path: epath.Path, content: bytes) -> None:
    """Appends to a local file, or leaves it as it was.

    Raises:
      OSError: the disk is full; the message names the file.
    """
    with explain_write_errors(path), open(path, 'ab', buffering=0) as file:
        size = file.tell()
        try:
            # A disk that runs full takes a part.
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file, or replaces an older one, so that a reader finds it complete or not at all.

    Raises:
      OSError: the disk is full, or the bucket fails; the message names the file.
    """
    if is_remote(path):
        # An object appears when its last byte has arrived, and a rename would be a copy.
        with explain_bucket_errors(path):
            path.write_bytes(content)
        return
    # Several processes may write the same file at the same time, and its name may be as long as
    # names can be.
    name = f'.{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.partial'
    temporary = path.parent / name
    try:
        with explain_write_errors(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
