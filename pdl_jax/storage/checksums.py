"""Checksums of the files in a folder, to detect damage after they were written."""

import json
import os
import zlib
from collections.abc import Iterator

from etils import epath

from pdl_jax.storage.outside_files import read_outside_file, refuse_irregular
from pdl_jax.storage.paths import explain_bucket_errors, file_size, is_remote, write_whole

_FILE = 'checksums.json'
# Orbax writes the commit time into its metadata after the checksums were made.
_LEFT_OUT = (_FILE, '_CHECKPOINT_METADATA')
_BLOCK_BYTES = 1 << 22


def write_checksums(folder: epath.Path) -> None:
    """Writes the size and CRC-32 of every file below `folder` into it.

    On a bucket only the sizes are written, see `check_files`.
    """
    names = [os.fspath(path.relative_to(folder)) for path in list_files(folder)]
    sums = {name: _describe(folder / name) for name in names if name not in _LEFT_OUT}
    (folder / _FILE).write_text(json.dumps(sums, indent=1) + '\n')


def add_checksum(folder: epath.Path, name: str) -> None:
    """Adds a file that was written later; a folder without checksums is left without.

    Raises:
      ValueError: the checksums are damaged.
      OSError: they cannot be written.
    """
    if sums := _read_checksums(folder):
        content = {key: {'bytes': size, 'crc32': crc} for key, (size, crc) in sums.items()}
        content[name] = _describe(folder / name)
        write_whole(folder / _FILE, (json.dumps(content, indent=1) + '\n').encode())


def check_files(folder: epath.Path) -> bool:
    """Compares the files of a folder with its checksums; a folder without checksums passes.

    On a bucket, whose service checks the content of its objects itself, only sizes are compared.

    Returns:
      Whether there are checksums.

    Raises:
      ValueError: names the first file that is missing, differs or lies elsewhere.
      OSError: the files cannot be read now.
    """
    sums = _read_checksums(folder)
    for name, (size, crc) in sums.items():
        if name.startswith('/') or '..' in name.split('/'):
            raise ValueError(f'{folder / _FILE} names {name!r}, which lies elsewhere')
        _check_file(folder / name, size, crc)
    return bool(sums)


def _read_checksums(folder: epath.Path) -> dict[str, tuple[int, int | None]]:
    """Reads (size, CRC) by file; nothing where there are no checksums."""
    path = folder / _FILE
    try:
        with explain_bucket_errors(path):
            content = read_outside_file(path)
    except FileNotFoundError:
        return {}
    try:
        return {
            name: (entry['bytes'], entry['crc32']) for name, entry in json.loads(content).items()
        }
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f'{path} holds other bytes than were written') from error


def _describe(path: epath.Path) -> dict[str, int | None]:
    crc = None if is_remote(path) else _compute_crc(path)
    return {'bytes': file_size(path), 'crc32': crc}


def _check_file(path: epath.Path, size: int, crc: int | None) -> None:
    refuse_irregular(path)
    try:
        with explain_bucket_errors(path):
            found = file_size(path)
    except (FileNotFoundError, ValueError) as error:
        # ValueError: no file can have such a name.
        raise ValueError(f'{path} is missing') from error
    if found != size:
        raise ValueError(f'{path} has {found} bytes, {size} were written')
    if crc is not None and not is_remote(path) and _compute_crc(path) != crc:
        raise ValueError(f'{path} holds other bytes than were written')


def list_files(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields all files below a folder, in the order of their paths."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from list_files(path)
        else:
            yield path


def _compute_crc(path: epath.Path) -> int:
    crc = 0
    with path.open('rb') as file:
        while block := file.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
