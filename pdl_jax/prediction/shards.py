"""Predictions in numbered shards, each there completely or not at all.

    OUTPUT/predictions.json                     what was predicted with what, and the categories
    OUTPUT/predictions-00012-of-00100.tar       of each image KEY.panoptic.png (of a semantic network KEY.semantic.png)
                                                and KEY.json
    OUTPUT/predictions-00012-of-00100.jsonl     a line for each image of the shard, in order: 'image' (its path), and 'key',
                                                'height', 'width' and 'segments' as in KEY.json, or 'error', why it was
                                                not predicted

The tar files are in the layout of WebDataset. The .jsonl is written last: whatever shard has it is complete. Both are the same
bytes whenever and by whichever process they are made with the same size of batches; with another, the last digits of scores may
differ.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from pdl_jax.storage.paths import explain_bucket_errors, is_remote, write_whole

_NAME = 'predictions'


def claim_output(output: epath.Path, description: Mapping[str, Any]) -> None:
    """Says in predictions.json what a directory holds, or checks that it says the same already.

    Raises:
      FileExistsError: the directory holds predictions of something else.
    """
    path = output / f'{_NAME}.json'
    # As it will be read.
    description = json.loads(json.dumps(description))
    if not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, f'{json.dumps(description, indent=1)}\n'.encode())
    # Also of what was just written: another process may have been there first or since.
    found = json.loads(path.read_text())
    differing = [key for key in {**description, **found} if description.get(key) != found.get(key)]
    if differing:
        key = differing[0]
        raise FileExistsError(
            f'{output} holds predictions with other {", ".join(differing)} ({found.get(key)!r}, now {description.get(key)!r}): '
            f'give the same flags to continue them, or another --output'
        )


def hash_list(paths: Sequence[str]) -> str:
    """Identifies a list of images."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b'\n')
    return digest.hexdigest()


def find_complete(output: epath.Path, num_shards: int) -> set[int]:
    """The numbers of the shards that need not be made."""
    names = {path.name for path in output.iterdir()}
    return {
        shard for shard in range(num_shards) if f'{_shard_name(shard, num_shards)}.jsonl' in names
    }


class ShardWriter:
    """Writes one shard; `add` its images in order, then `publish` it.

    The tar grows in a file of its own, so that memory is bounded: beside a local output under a name with a dot in front, for a
    bucket in the machine's folder of temporary files.

    Raises:
      OSError: the file cannot be written, or another process makes the same shard.
    """

    def __init__(self, output: epath.Path, shard: int, num_shards: int):
        self._output = output
        self._name = _shard_name(shard, num_shards)
        self._partial = None if is_remote(output) else output / f'.{self._name}.tar.partial'
        self._file = (
            tempfile.TemporaryFile() if self._partial is None else _open_alone(self._partial)
        )
        self._tar = tarfile.open(fileobj=self._file, mode='w', format=tarfile.USTAR_FORMAT)
        self._index = []

    def add(self, entry: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Adds an image.

        Args:
          entry: its line of the index.
          files: contents by the name in the archive.
        """
        self._index.append(f'{json.dumps(entry)}\n')
        for name, content in files.items():
            # Times and owners would make every archive another.
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))

    def publish(self) -> None:
        """Puts the shard in its place."""
        self._tar.close()
        final = self._output / f'{self._name}.tar'
        if self._partial is None:
            self._file.seek(0)
            with explain_bucket_errors(final), final.open('wb') as file:
                shutil.copyfileobj(self._file, file, 2**24)
        else:
            self._file.flush()
            self._partial.replace(final)
        write_whole(self._output / f'{self._name}.jsonl', ''.join(self._index).encode())
        self.close()

    def close(self) -> None:
        """Lets go of the file; a shard that was not published is gone."""
        self._file.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)


def _open_alone(path):
    """Opens a file for writing from its start, which no other process writes to meanwhile."""
    import fcntl  # Absent on Windows.

    file = open(path, 'ab')
    try:
        # Released by the system when the process ends, unlike a lock file.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Before this process had the lock, the other may have moved the file to its place.
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise FileNotFoundError(path)
    except OSError as error:
        file.close()
        raise OSError(
            f'another process makes {path}: give each process a --process_id of its own, and start again when the other has ended'
        ) from error
    file.seek(0)
    file.truncate()
    return file


def _shard_name(shard: int, num_shards: int) -> str:
    return f'{_NAME}-{shard:05d}-of-{num_shards:05d}'
