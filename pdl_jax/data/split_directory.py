"""The directory of a prepared split, which appears complete or not at all, even after a crash."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator

from etils import epath

from pdl_jax.storage import file_lock, paths

# Written last, so a split that has it is complete.
INFO_FILE = 'dataset_info.json'

_OWN_FILES = re.compile(
    r'(dataset_info|features|metadata)\.json|panoptic_records-\w+\.array_record-\d+-of-\d+'
)


def is_complete(directory: epath.Path) -> bool:
    """Returns whether `directory` holds a prepared split."""
    return (directory / INFO_FILE).exists()


def refuse_foreign_files(directory: epath.Path) -> None:
    """Checks that `directory` is missing or holds only files of a prepared split.

    Raises:
      FileExistsError: it holds other files, which a new split must not replace.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f'{os.fspath(directory)} is a file: choose another --out or --split')
    names = sorted(path.name for path in directory.iterdir())
    foreign = [name for name in names if not _OWN_FILES.fullmatch(name)]
    if foreign:
        raise FileExistsError(
            f'{os.fspath(directory)} holds other files ({", ".join(foreign[:3])}): '
            f'choose another --out or --split'
        )


@contextlib.contextmanager
def claim_workspace(directory: epath.Path) -> Iterator[epath.Path]:
    """Makes an empty local directory to build `directory` in, for one process at a time.

    It lies beside a local `directory`, so that publishing is a rename; for a bucket it lies in the
    system's folder of temporary files. It is removed at the end. A killed process leaves it behind,
    and the next one with the same `directory` empties it.

    Args:
      directory: the place of the split, local or gs://.

    Yields:
      The empty directory.

    Raises:
      OSError: another process holds it.
    """
    if paths.is_remote(directory):
        name = hashlib.sha256(os.fspath(directory).encode()).hexdigest()[:16]
        workspace = epath.Path(tempfile.gettempdir()) / f'pdl_jax_{name}.partial'
    else:
        workspace = directory.parent / f'.{directory.name}.partial'
    workspace.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workspace, os.O_RDONLY)
    try:
        file_lock.lock_exclusively(
            descriptor,
            workspace,
            message=f'another process is preparing this split in {workspace}: wait for it',
        )
        try:
            _empty(workspace)
            yield workspace
        finally:
            workspace.rmtree(missing_ok=True)
    finally:
        os.close(descriptor)


def publish(built: epath.Path, directory: epath.Path) -> None:
    """Moves a built split to its place, replacing an older one.

    Args:
      built: local directory with the complete split.
      directory: the place of the split, local or gs://.

    Raises:
      FileExistsError: `directory` holds files of something else.
    """
    refuse_foreign_files(directory)
    if directory.exists():
        # Remove the info file first: a half-deleted split must not count as complete.
        (directory / INFO_FILE).unlink(missing_ok=True)
        directory.rmtree()
    if not paths.is_remote(directory):
        built.rename(directory)
        return
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(built.iterdir(), key=lambda p: (p.name == INFO_FILE, p.name)):
        (directory / path.name).write_bytes(path.read_bytes())


@contextlib.contextmanager
def explain_full_disk(directory: epath.Path) -> Iterator[None]:
    """Turns the various errors of a full disk into one that names the directory and the remedy.

    Raises:
      OSError: no space was left.
    """
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f'no space left while writing {os.fspath(directory)}: free some (a split takes about '
            f'as much as its images and PNGs) and run the same command again',
        ) from error


def _is_full_disk(error: BaseException | None) -> bool:
    full = paths.FULL_DISK_ERRORS
    while error is not None:
        # ArrayRecord's writer raises exceptions without errno: only their text tells.
        text = str(error)
        if getattr(error, 'errno', None) in full or any(os.strerror(e) in text for e in full):
            return True
        error = error.__cause__ or error.__context__
    return False


def _empty(workspace: epath.Path) -> None:
    for path in workspace.iterdir():
        path.rmtree() if path.is_dir() else path.unlink()
