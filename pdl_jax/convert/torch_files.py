"""Files of PyTorch, read without it: the zip archive of today and the stream of before 2020.

Both hold a pickle that describes tensors, and the numbers of the tensors outside of it.
"""

import functools
import io
import os
import re
import zipfile
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np
from etils import epath

from pdl_jax.convert.contents import StoredArray, check_layout
from pdl_jax.convert.pickled_values import Name, Storage, Tensor, make_storage
from pdl_jax.convert.pickles import load_pickle
from pdl_jax.storage.paths import file_size, is_remote

# Begins every file of before 2020, as a pickled integer.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_MAX_PICKLE_BYTES = 2**28
_MAX_STORAGE_BYTES = 2**30
_PICKLE = re.compile(r'([^/]*/)?data\.pkl')


def find_root(names: list[str]) -> str | None:
    """Finds the folder in a zip archive that PyTorch wrote; None if another program did."""
    return next((match[1] or '' for match in map(_PICKLE.fullmatch, names) if match), None)


def read_zip(file: epath.Path) -> tuple[Any, Callable[[Tensor], StoredArray]]:
    """Reads the pickle of a zip archive.

    Returns:
      The content, see `pickles.load_pickle`, and a function that makes arrays of its tensors.

    Raises:
      Exception: a damaged file can raise anything.
    """
    # It stays open for the tensors, which are read later.
    archive = zipfile.ZipFile(file.open('rb') if is_remote(file) else os.fspath(file))
    root = find_root(archive.namelist())
    if root is None:
        raise ValueError('it has no data.pkl')
    data = _read_member(archive, f'{root}data.pkl', _MAX_PICKLE_BYTES)
    order = '<'
    if f'{root}byteorder' in archive.namelist():
        order = '>' if _read_member(archive, f'{root}byteorder', 16) == b'big' else '<'
    storages: dict[str, Storage] = {}

    @functools.lru_cache(1)
    def read_storage(storage: Storage) -> bytes:
        return _read_member(archive, f'{root}data/{storage.key}', _MAX_STORAGE_BYTES)

    content = load_pickle(
        io.BytesIO(data), len(data), load_storage=lambda pid: _find_storage(pid, storages)
    )
    return content, lambda tensor: _make_array(tensor, read_storage, order)


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f'{name} unpacks to {size} bytes, more than {limit}')
    return archive.read(name)


def is_stream(head: bytes) -> bool:
    """Returns true for the first bytes of a file of before 2020."""
    return _MAGIC_NUMBER.to_bytes(10, 'little') in head


def read_stream(file: epath.Path) -> tuple[Any, Callable[[Tensor], StoredArray]]:
    """Reads the pickles of a stream; returns and raises what `read_zip` does."""
    size = file_size(file)
    storages: dict[str, Storage] = {}
    with file.open('rb') as stream:

        def load(load_storage: Callable[[Any], Any] | None = None) -> Any:
            return load_pickle(stream, size - stream.tell(), load_storage=load_storage)

        magic_number, version, system = load(), load(), load()
        if magic_number != _MAGIC_NUMBER or version != 1001 or not isinstance(system, dict):
            raise ValueError('it does not begin as files of PyTorch do')
        content = load(lambda pid: _find_storage(pid, storages))
        starts = _find_starts(stream, size, load(), storages)
    order = '>' if system.get('little_endian') is False else '<'

    @functools.lru_cache(1)
    def read_storage(storage: Storage) -> bytes:
        if storage.key not in starts:
            raise ValueError('the list of its storages is damaged')
        start, count = starts[storage.key]
        with file.open('rb') as stream:
            stream.seek(start)
            return stream.read(min(count, _MAX_STORAGE_BYTES))

    return content, lambda tensor: _make_array(tensor, read_storage, order)


def _find_storage(pid: Any, storages: dict[str, Storage]) -> Any:
    """Returns the storage that an id stands for, or the class of a whole module."""
    parts = list(pid) if isinstance(pid, tuple) else []
    if len(parts) == 4 and isinstance(parts[1], Name):
        return parts[1]
    if len(parts) not in (5, 6):
        raise ValueError('the id of a storage is damaged')
    if parts[5:] and parts[5] is not None:
        raise ValueError('it holds views of storages, which PyTorch no longer writes')
    storage = make_storage(parts[1], parts[2], parts[4])
    return storages.setdefault(storage.key, storage)


def _find_starts(
    stream: IO[bytes], size: int, keys: Any, storages: dict[str, Storage]
) -> dict[str, tuple[int, int]]:
    """Finds the first byte and the number of bytes of all storages behind the pickles."""
    starts: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages:
            raise ValueError('the list of its storages is damaged')
        count = int.from_bytes(stream.read(8), 'little')
        start, width = stream.tell(), _find_width(storages[key].code)
        if not width:
            raise ValueError(f'it holds tensors of a special kind ({storages[key].kind})')
        if start + count * width > size:
            raise ValueError(
                f'it ends before the {count} elements of a tensor: cut short? Download it again'
            )
        starts[key] = start, count * width
        stream.seek(start + count * width)
    return starts


def _find_width(code: str) -> int:
    """Returns the number of bytes of an element; 0 for a type that is not understood."""
    return int(code[-1]) if code and code != 'bf16' else 2 * bool(code)


def _make_array(
    tensor: Tensor, read_storage: Callable[[Storage], bytes], order: str
) -> StoredArray:
    """Checks a tensor against its storage; the numbers are read when they are used.

    Raises:
      ValueError: it is no tensor of plain numbers, or lies outside of its storage.
    """
    storage, code = tensor.storage, tensor.code
    if tensor.special or storage is None:
        raise ValueError(f'a tensor of a special kind ({tensor.special}), not of plain numbers')
    shape = check_layout(tensor.shape, 'the shape')
    stride = check_layout(tensor.stride, 'the stride')
    (offset,) = check_layout((tensor.offset,), 'the offset')
    width = _find_width(code)
    if len(shape) != len(stride):
        raise ValueError('a tensor with more sizes than strides, or fewer')
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * width > storage.size * _find_width(storage.code):
        raise ValueError('a tensor that lies outside of its storage')
    dtype = np.dtype(ml_dtypes.bfloat16) if code == 'bf16' else np.dtype(order + code)

    def read() -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, np.float32)
        data = np.frombuffer(read_storage(storage), np.uint8)
        if data.size < (last + 1) * width:
            raise ValueError('its numbers are cut short')
        numbers = data[: data.size // width * width].view(dtype)[offset:]
        steps = [step * width for step in stride]
        array = np.lib.stride_tricks.as_strided(numbers, shape, steps, writeable=False)
        # NumPy computes little with bfloat16, which float32 holds exactly.
        return np.ascontiguousarray(array, np.float32 if code == 'bf16' else None)

    return StoredArray(shape, read)
