"""Paths that may be local folders or buckets."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath


def make_path(path: str | os.PathLike) -> epath.Path:
    """Returns a path on which open, iterdir and exists work, for local folders as for gs://.

    Raises:
      ImportError: a gs:// path, and the package that reads buckets is missing.
      OSError: the bucket cannot be reached.
    """
    path = epath.Path(os.path.expanduser(os.fspath(path)))
    if is_remote(path):
        try:
            with explain_bucket_errors(path):
                path.exists()
        except ImportError as error:
            raise ImportError(
                f'{path} is a bucket and the package that reads buckets is not installed: '
                f'pip install gcsfs'
            ) from error
    return path


def is_remote(path: str | os.PathLike) -> bool:
    """Whether the path is a bucket, where renames are not atomic."""
    return '://' in os.fspath(path)


def file_size(path: epath.Path) -> int:
    """Bytes of a file. A local epath would also look up its owner's name, which a container may lack."""
    return path.stat().length if is_remote(path) else os.path.getsize(path)


@contextlib.contextmanager
def explain_bucket_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns the many errors of a bucket's client, which has tried several times by then, into one kind that names the path.

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


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file, or replaces an older one, so that a reader finds it complete or not at all.

    Raises:
      OSError: the disk is full, or the bucket fails.
    """
    if is_remote(path):
        # An object appears when its last byte has arrived, and a rename would be a copy.
        with explain_bucket_errors(path):
            path.write_bytes(content)
        return
    # Processes may write the same file at the same time.
    temporary = path.parent / f'.{path.name}.{os.getpid()}.partial'
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
