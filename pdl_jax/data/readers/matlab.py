"""Reads one field of a struct from the bytes of a MATLAB 5 file.

scipy.io.loadmat reads such files too, but it allocates the sizes that they state and recurses as
deep as they nest, so a few damaged bytes can end the process.
"""

import math
import struct
import zlib
from typing import NamedTuple

import numpy as np

# Limit of the file and of a decompressed variable: far above the label of an image, far below the
# memory of a host.
_MAX_BYTES = 2**24
# Codes of the MATLAB 5 format: kinds of elements, classes of variables, types of numbers.
_COMPRESSED, _MATRIX, _STRUCT = 15, 14, 2
_NUMERIC = range(6, 16)
_TYPES = {
    1: 'i1', 2: 'u1', 3: '<i2', 4: '<u2', 5: '<i4', 6: '<u4', 7: '<f4', 9: '<f8', 12: '<i8',
    13: '<u8',
}  # fmt: skip


def read_field(data: bytes, variable: str, field: str) -> np.ndarray:
    """Reads variable.field.

    Args:
      data: the bytes of the file.
      variable: name of a struct.
      field: name of an array of numbers in the struct.

    Returns:
      The array, with the dtype in which the file stores it.

    Raises:
      ValueError, zlib.error: the file is damaged, too large, or lacks the field.
    """
    if len(data) > _MAX_BYTES:
        raise ValueError(f'{len(data)} bytes exceed the limit of {_MAX_BYTES}')
    # 'IM' marks little-endian numbers.
    if not data.startswith(b'MATLAB 5.0') or data[126:128] != b'IM':
        raise ValueError('it does not start with the header of version 5')
    content = memoryview(data)[128:]
    while content:
        kind, element, content = _split_element(content)
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(element, _MAX_BYTES)
            if not inflater.eof:
                raise ValueError(f'it is truncated, or larger than {_MAX_BYTES} bytes')
            kind, element, _ = _split_element(memoryview(inflated))
        if kind != _MATRIX:
            raise ValueError(f'it has an element of kind {kind} where a variable must be')
        matrix = _split_matrix(element)
        if matrix.name == variable:
            return _read_numbers(_get_member(matrix, field))
    raise ValueError(f'there is no variable {variable}')


class _Matrix(NamedTuple):
    """A variable or a field: its class in MATLAB, its size, its name and its content."""

    kind: int
    size: tuple[int, ...]
    name: str
    content: memoryview


def _split_matrix(element: memoryview) -> _Matrix:
    _, flags, rest = _split_element(element)
    _, size, rest = _split_element(rest)
    _, name, rest = _split_element(rest)
    kind = int.from_bytes(flags[:1], 'little')
    size = tuple(np.frombuffer(size, '<i4').tolist())
    return _Matrix(kind, size, bytes(name).decode('latin-1'), rest)


def _get_member(matrix: _Matrix, field: str) -> _Matrix:
    """Returns a field of a struct. The fields follow a list of their names, padded with zeros."""
    if matrix.kind != _STRUCT or math.prod(matrix.size) != 1:
        raise ValueError(f'{matrix.name} is no single struct')
    _, name_length, rest = _split_element(matrix.content)
    _, names, rest = _split_element(rest)
    length = int.from_bytes(name_length, 'little')
    if not length:
        raise ValueError(f'{matrix.name} has no fields')
    for start in range(0, len(names), length):
        kind, element, rest = _split_element(rest)
        name = bytes(names[start : start + length]).split(b'\0')[0]
        if kind == _MATRIX and name == field.encode():
            return _split_matrix(element)
    raise ValueError(f'{matrix.name} has no field {field}')


def _read_numbers(matrix: _Matrix) -> np.ndarray:
    # MATLAB stores numbers in the smallest type that holds them, independent of their class.
    kind, values, _ = _split_element(matrix.content)
    if matrix.kind not in _NUMERIC or kind not in _TYPES:
        raise ValueError(f'the field holds no numbers (class {matrix.kind}, kind {kind})')
    numbers = np.frombuffer(values, _TYPES[kind])
    if min(matrix.size, default=-1) < 0 or math.prod(matrix.size) != numbers.size:
        raise ValueError(f'the field has {numbers.size} numbers, but size {list(matrix.size)}')
    return numbers.reshape(matrix.size, order='F')


def _split_element(content: memoryview) -> tuple[int, memoryview, memoryview]:
    """Returns kind and content of the first element, and the rest."""
    if len(content) < 8:
        raise ValueError('it is truncated')
    kind, size = struct.unpack_from('<II', content)
    start, end = 8, 8 + size
    if kind > 0xFFFF:
        # Content of up to four bytes shares eight bytes with its kind and size.
        kind, size = kind & 0xFFFF, kind >> 16
        start, end = 4, 8
    elif kind != _COMPRESSED:
        end += -size % 8
    if start + size > min(end, len(content)):
        raise ValueError('it is truncated')
    return kind, content[start : start + size], content[end:]
