"""Checksums of the files of a folder, by which damage is told from what was written."""

import json
import os
import zlib

from etils import epath

from pdl_jax.storage.paths import explain_bucket_errors, file_size, is_remote

_FILE = 'checksums.json'
# Orbax dates it when everything else is written.
_LEFT_OUT = (_FILE, '_CHECKPOINT_METADATA')
_BLOCK_BYTES = 1 << 22


def write_checksums(folder: epath.Path) -> None:
    """Writes the size and CRC-32 of every file below `folder` into it; on a bucket, see `check_files`, the sizes alone."""
    sums = {}
    for path in _list_files(folder):
        name = os.fspath(path.relative_to(folder))
        if name not in _LEFT_OUT:
            sums[name] = {
                'bytes': file_size(path),
                'crc32': None if is_remote(path) else _compute_crc(path),
            }
    (folder / _FILE).write_text(json.dumps(sums, indent=1) + '\n')


def check_files(folder: epath.Path) -> None:
    """Compares the files of a folder with its checksums; without any, nothing is known and nothing checked.

    On a bucket, which watches over the content of its objects, only their sizes are compared.

    Raises:
      ValueError: names the first file that is missing, differs or lies elsewhere.
      OSError: the files cannot be read now.
    """
    path = folder / _FILE
    with explain_bucket_errors(path):
        content = path.read_bytes() if path.exists() else b'{}'
    try:
        sums = {
            name: (entry['bytes'], entry['crc32']) for name, entry in json.loads(content).items()
        }
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f'{path} holds other bytes than were written') from error
    for name, (size, crc) in sums.items():
        if name.startswith('/') or '..' in name.split('/'):
            raise ValueError(f'{path} names {name!r}, which lies elsewhere')
        _check_file(folder / name, size, crc)


def _check_file(path, size, crc):
    try:
        with explain_bucket_errors(path):
            found = file_size(path)
    except FileNotFoundError as error:
        raise ValueError(f'{path} is missing') from error
    if found != size:
        raise ValueError(f'{path} has {found} bytes, {size} were written')
    if crc is not None and not is_remote(path) and _compute_crc(path) != crc:
        raise ValueError(f'{path} holds other bytes than were written')


def _list_files(folder):
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _list_files(path)
        else:
            yield path


def _compute_crc(path):
    crc = 0
    with path.open('rb') as file:
        while block := file.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
