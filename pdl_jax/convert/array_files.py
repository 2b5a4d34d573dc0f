"""Files of arrays by name: NumPy's .npz and safetensors."""

import functools
import math
import os
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from pdl_jax.convert.contents import StoredArray, check_layout
from pdl_jax.storage.json_files import parse_json
from pdl_jax.storage.paths import file_size, is_remote

_MAX_HEADER_BYTES = 2**24
_SAFETENSORS_TYPES: dict[str, Any] = {
    **{f'F{bits}': f'<f{bits // 8}' for bits in (16, 32, 64)},
    **{f'{kind}{bits}': f'<{kind.lower()}{bits // 8}' for kind in 'IU' for bits in (8, 16, 32, 64)},
    'BOOL': '?',
    'BF16': ml_dtypes.bfloat16,
}


def read_npz(file: epath.Path) -> dict[str, StoredArray]:
    """Reads the names and shapes of an .npz.

    Raises:
      Exception: a damaged file can raise anything.
    """
    # It stays open for the arrays, which are read later.
    archive = zipfile.ZipFile(file.open('rb') if is_remote(file) else os.fspath(file))
    arrays = {}
    for member in archive.infolist():
        key = member.filename.removesuffix('.npy')
        shape, dtype = _read_npy_header(archive, member)
        if dtype.kind not in 'fiub':
            raise ValueError(f'{key} holds {str(dtype):.40}, not numbers')
        count = math.prod(shape) * dtype.itemsize
        if count > member.file_size:
            raise ValueError(f'{key} has {member.file_size} bytes, its shape needs {count}')
        arrays[key] = StoredArray(shape, functools.partial(_read_npy, archive, member))
    return arrays


def _read_npy_header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise ValueError(f'{member.filename} has the unknown version {version}')
        shape, _, dtype = readers[version](stream)
    return check_layout(shape, 'the shape'), dtype


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_safetensors(file: epath.Path) -> dict[str, StoredArray]:
    """Reads the names and shapes of safetensors.

    The format: the length of a JSON header in 8 bytes, the header, and the numbers.

    Raises:
      Exception: a damaged file can raise anything.
    """
    size = file_size(file)
    with file.open('rb') as stream:
        length = int.from_bytes(stream.read(8), 'little')
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f'its header would have {length} of {size} bytes')
        header = parse_json(stream.read(length), source='its header')
    if not isinstance(header, dict):
        raise ValueError('its header is no object')
    arrays = {}
    for key, entry in header.items():
        if key == '__metadata__':
            continue
        code = entry['dtype']
        if not isinstance(code, str) or code not in _SAFETENSORS_TYPES:
            raise ValueError(
                f'{key:.80} has the type {code if isinstance(code, str) else type(code)!s:.20}: '
                f'save it as float32, float16 or bfloat16'
            )
        dtype = np.dtype(_SAFETENSORS_TYPES[code])
        shape = check_layout(entry['shape'], 'the shape')
        start, end = check_layout(entry['data_offsets'], 'the place')
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f'{key:.80} has {end - start} bytes, which its shape does not need')
        if 8 + length + end > size:
            raise ValueError(
                f'it has {size} bytes and needs {8 + length + end}: cut short? Download it again'
            )
        read = functools.partial(_read_slice, file, 8 + length + start, end - start, dtype, shape)
        arrays[key] = StoredArray(shape, read)
    return arrays


def _read_slice(
    file: epath.Path, start: int, count: int, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    with file.open('rb') as stream:
        stream.seek(start)
        array = np.frombuffer(stream.read(count), dtype).reshape(shape)
    # NumPy computes little with bfloat16, which float32 holds exactly.
    return array.astype(np.float32) if dtype == ml_dtypes.bfloat16 else array
