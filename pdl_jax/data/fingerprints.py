"""Identity of annotations and files: hashes of their contents."""

import concurrent.futures
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from pdl_jax.storage.outside_files import read_outside_file

# Threads that read files for a fingerprint. The files are small, so latency dominates.
NUM_READERS = 16


def fingerprint_files(folder: epath.Path, names: Sequence[str], *, options: Any = None) -> str:
    """Returns the SHA-256 in hex of files' names and contents, and of options.

    Args:
      folder: folder that `names` are relative to; not part of the fingerprint.
      names: names of the files, in a stable order.
      options: JSON types.
    """
    with concurrent.futures.ThreadPoolExecutor(NUM_READERS) as pool:
        hashes = pool.map(lambda name: hash_files([folder / name]), names)
        return hash_content([list(zip(names, hashes, strict=True)), options])


def hash_content(content: Any) -> str:
    """Returns the SHA-256 in hex of JSON types."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_files(files: Sequence[epath.Path]) -> str:
    """Returns the SHA-256 in hex of the contents of some files; they lie in memory one by one."""
    digest = hashlib.sha256(read_outside_file(files[0]))
    for file in files[1:]:
        # The lengths keep what follows apart from the content before.
        data = read_outside_file(file)
        digest.update(len(data).to_bytes(8, 'little') + data)
    return digest.hexdigest()
