"""Paths that may be local folders or buckets."""

import os

from etils import epath


def make_path(path: str | os.PathLike) -> epath.Path:
    """Returns a path on which open, iterdir and exists work, for local folders as for gs://.

    Raises:
      ImportError: a gs:// path, and the package that reads buckets is missing.
    """
    path = epath.Path(os.path.expanduser(os.fspath(path)))
    if is_remote(path):
        try:
            path.exists()
        except ImportError as error:
            raise ImportError(
                f'{path} is a bucket and the package that reads buckets is not installed: '
                f'pip install gcsfs'
            ) from error
    return path


def is_remote(path: epath.Path) -> bool:
    """Whether the path is a bucket, where renames are not atomic."""
    return '://' in os.fspath(path)
