"""Predictions in numbered shards, each of which is complete or missing.

    OUTPUT/predictions.json                  the network, the list of images and the categories
    OUTPUT/predictions-00012-of-00100.tar    per image KEY.panoptic.png (a semantic network writes
                                             KEY.semantic.png) and KEY.json
    OUTPUT/predictions-00012-of-00100.jsonl  one line per image of the shard, in order: 'image' (its
                                             path), and 'key', 'height', 'width' and 'segments' as
                                             in KEY.json, or 'error', the reason if there is no
                                             prediction

The tar files have the layout of WebDataset. The .jsonl is written last, so a shard that has it is
complete. Making a shard again gives the same bytes at any time and in any process; only another
batch size may change the last digits of scores.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from etils import epath

from pdl_jax.storage import file_lock
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, read_json
from pdl_jax.storage.paths import (
    explain_bucket_errors,
    explain_write_errors,
    is_remote,
    write_whole,
)

_NAME = 'predictions'


def claim_output(output: epath.Path, description: Mapping[str, Any]) -> None:
    """Writes predictions.json, or checks that an existing one has the same content.

    Args:
      output: directory of the shards, local or gs://; made if it is missing.
      description: the content, JSON types.

    Raises:
      FileExistsError: the directory holds predictions with another description.
    """
    path = output / f'{_NAME}.json'
    # Tuples become lists and keys become strings, as in the file that is read below.
    description = json.loads(json.dumps(description))
    if not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, f'{json.dumps(description, indent=1)}\n'.encode())
    # Read back even what was just written: another process may have written the file too.
    found = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
    if not isinstance(found, dict):
        raise ValueError(f'{path} is damaged: it holds no object: give another --output')
    differing = [key for key in {**description, **found} if description.get(key) != found.get(key)]
    if differing:
        key = differing[0]
        raise FileExistsError(
            f'{output} holds predictions with other {", ".join(differing)} ({found.get(key)!r}, '
            f'now {description.get(key)!r}): give the same flags to continue them, or another '
            f'--output'
        )


def hash_list(paths: Sequence[str]) -> str:
    """Returns the SHA-256 in hex of a list of image paths."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b'\n')
    return digest.hexdigest()


def find_complete(output: epath.Path, num_shards: int) -> set[int]:
    """Returns the numbers of the complete shards below `output`."""
    names = {path.name for path in output.iterdir()}
    return {
        shard for shard in range(num_shards) if f'{_shard_name(shard, num_shards)}.jsonl' in names
    }


class ShardWriter:
    """Writes one shard; `add` its images in order, then `publish` it.

    To bound memory, the tar grows in a file: beside a local output under a name that starts with a
    dot, for a bucket in the system's folder of temporary files.
    """

    def __init__(self, output: epath.Path, shard: int, num_shards: int) -> None:
        """Opens the file.

        Args:
          output: directory of the shards, local or gs://.
          shard: number of the shard, 0 .. num_shards - 1.
          num_shards: number of shards in all.

        Raises:
          OSError: the file cannot be written, or another process makes the same shard.
        """
        self._output = output
        self._name = _shard_name(shard, num_shards)
        self._partial = None if is_remote(output) else output / f'.{self._name}.tar.partial'
        # The file that grows, for messages.
        self._path = tempfile.gettempdir() if self._partial is None else self._partial
        self._file: BinaryIO = (
            tempfile.TemporaryFile() if self._partial is None else _open_locked(self._partial)
        )
        self._tar = tarfile.open(fileobj=self._file, mode='w', format=tarfile.USTAR_FORMAT)
        self._index: list[str] = []

    def add(self, entry: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Adds an image.

        Args:
          entry: line of the index, JSON types.
          files: name in the archive -> content.

        Raises:
          OSError: the disk is full.
        """
        self._index.append(f'{json.dumps(entry)}\n')
        with explain_write_errors(self._path):
            for name, content in files.items():
                # A fresh TarInfo has no time and no owner, so that equal content gives equal
                # archives.
                member = tarfile.TarInfo(name)
                member.size = len(content)
                self._tar.addfile(member, io.BytesIO(content))

    def publish(self) -> None:
        """Moves the shard to its place, or uploads it, and closes the file.

        Raises:
          OSError: the disk is full, or the bucket fails.
        """
        final = self._output / f'{self._name}.tar'
        try:
            with explain_write_errors(self._path):
                self._tar.close()
                self._file.flush()
            if self._partial is None:
                self._file.seek(0)
                with explain_bucket_errors(final), final.open('wb') as file:
                    shutil.copyfileobj(self._file, file, 2**24)
            else:
                self._partial.replace(final)
            write_whole(self._output / f'{self._name}.jsonl', ''.join(self._index).encode())
        finally:
            self.close()

    def close(self) -> None:
        """Closes the file; a shard that was not published is lost."""
        # A full disk was told when it was written to.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)


def _open_locked(path: epath.Path) -> BinaryIO:
    """Opens a file for writing from its start and locks it until it is closed."""
    # Mode 'ab' does not truncate what another process may still be writing.
    file = open(path, 'ab')
    try:
        file_lock.lock_exclusively(
            file.fileno(),
            path,
            message=f'another process makes {path}: give each process its own --process_id, and '
            f'start again when the other process has ended',
        )
    except OSError:
        file.close()
        raise
    file.seek(0)
    file.truncate()
    return file


def _shard_name(shard: int, num_shards: int) -> str:
    return f'{_NAME}-{shard:05d}-of-{num_shards:05d}'
