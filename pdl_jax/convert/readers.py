"""Readers of other frameworks' files, which are untrusted: sizes are bounded and no code runs.

PyTorch's files are read by its loader for plain tensors. The pickles of detectron2 are read by an
unpickler that accepts only arrays and plain containers, and that makes the arrays itself instead of
calling NumPy with the pickle's arguments.
"""

import collections
import dataclasses
import pickle
import types
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.storage.outside_files import refuse_irregular
from pdl_jax.storage.paths import file_size

_MAX_BYTES = 2**33
# Training programs store the variables of the network under one of these keys.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model')
_PARALLEL_PREFIX = 'module.'
# The dtypes of arrays in pickles: floats, integers and booleans of any width.
_TYPE_CODES = frozenset({'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1'})


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array that is read when it is converted to NumPy.

    Attributes:
      shape: shape of the array.
      read: function that reads it.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
      arrays: NumPy arrays, or objects with a `shape` that NumPy can convert, by key.
      others: names of entries that are not arrays, beside the arrays or beside the dict that wraps
        them.
    """

    arrays: dict[str, Any]
    others: tuple[str, ...] = ()


def read_file(path: str) -> Contents:
    """Reads a file.

    Args:
      path: `.npz`, `.safetensors`, `.pkl` (detectron2), the prefix of a TensorFlow checkpoint
        (`ckpt-1` of `ckpt-1.index`), or a file of PyTorch with any other name; the last two also on
        gs://.

    Returns:
      The arrays, taken out of a wrapping dict ('state_dict', 'model') and without a prefix
      'module.' of all keys.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: the package that reads it is not installed; the message names the extra.
      ValueError: the file is damaged, too large, or holds other things than arrays.
    """
    refuse_irregular(path)
    if epath.Path(f'{path}.index').exists():
        return _read_tensorflow(path)
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        raise FileNotFoundError(
            f'{path}: no such file; of a TensorFlow checkpoint give the prefix, ckpt-1 of '
            f'ckpt-1.index and ckpt-1.data-...'
        )
    if file_size(file) > _MAX_BYTES:
        raise ValueError(
            f'{path} has more than {_MAX_BYTES} bytes, larger than any published network'
        )
    readers = {'.npz': _read_npz, '.safetensors': _read_safetensors, '.pkl': _read_pickle}
    contents = readers.get(file.suffix, _read_torch)(file)
    if not contents.arrays:
        raise ValueError(f'{path} holds no arrays')
    if all(key.startswith(_PARALLEL_PREFIX) for key in contents.arrays):
        arrays = {
            key.removeprefix(_PARALLEL_PREFIX): value for key, value in contents.arrays.items()
        }
        return dataclasses.replace(contents, arrays=arrays)
    return contents


def _read_npz(file: epath.Path) -> Contents:
    try:
        with file.open('rb') as stream, np.load(stream, allow_pickle=False) as archive:
            # A small archive may unpack to more than the memory.
            _check_unpacked(archive.zip)
            return Contents({key: archive[key] for key in archive.files})
    except (
        EOFError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # A lone .npy array is no archive, which shows as a TypeError.
        raise ValueError(f'{file} cannot be read as an .npz of plain arrays: {error}') from error


def _read_safetensors(file: epath.Path) -> Contents:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise _make_import_error('safetensors', 'safetensors', 'convert') from error
    try:
        return Contents(safetensors.numpy.load(file.read_bytes()))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{file} cannot be read as safetensors of float16 or float32: {error}'
        ) from error


def _read_torch(file: epath.Path) -> Contents:
    try:
        import torch
    except ImportError as error:
        raise _make_import_error('files of PyTorch', 'torch', 'convert') from error
    try:
        with file.open('rb') as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    _check_unpacked(archive)
            stream.seek(0)
            # Tensors saved on a GPU are read on machines without one too.
            content = torch.load(stream, map_location='cpu', weights_only=True)
    except Exception as error:  # A damaged file can raise anything.
        raise ValueError(
            f'{file} cannot be read as a PyTorch file of plain tensors: {error}'
        ) from error
    tensors, others = _unwrap(content, torch.Tensor, file)
    # An expanded tensor stores a few bytes and repeats them.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _MAX_BYTES:
        raise ValueError(f'{file} unpacks to more than {_MAX_BYTES} bytes')
    return Contents(
        {key: _to_numpy(tensor, key, file, torch) for key, tensor in tensors.items()}, others
    )


def _to_numpy(tensor: Any, key: str, file: epath.Path, torch: types.ModuleType) -> np.ndarray:
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_complex()
        or tensor.is_meta
    ):
        raise ValueError(
            f'{file}: {key} is a tensor of a special kind ({tensor.layout}, {tensor.dtype}), not '
            f'of plain numbers'
        )
    tensor = tensor.detach()
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _read_pickle(file: epath.Path) -> Contents:
    try:
        with file.open('rb') as stream:
            # In pickles of Python 2, strings hold the bytes of arrays.
            content = _ArrayUnpickler(stream, encoding='latin1').load()
        arrays, others = _unwrap(content, _PickledArray, file)
        return Contents({key: array.to_numpy() for key, array in arrays.items()}, others)
    except Exception as error:  # A damaged or hostile pickle can raise anything.
        raise ValueError(f'{file} cannot be read as a pickle of plain arrays: {error}') from error


def _read_tensorflow(path: str) -> Contents:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise _make_import_error('checkpoints of TensorFlow', 'tensorflow', 'tensorflow') from error
    try:
        reader = tf.train.load_checkpoint(path)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(f'{path} cannot be read as a TensorFlow checkpoint: {error}') from error

    def store(key: str, shape: Sequence[int]) -> StoredArray:
        # Arrays are read on demand: optimiser slots, which are ignored, take twice the size of the
        # network.
        return StoredArray(tuple(shape), lambda: reader.get_tensor(key))

    return Contents({key: store(key, shape) for key, shape in sorted(shapes.items())})


def _unwrap(content: Any, kind: type, file: epath.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Finds the arrays in a dict or in the dict that it wraps.

    Returns:
      (arrays of type `kind` by key, names of all other entries).
    """
    for wrapper in (None, *_WRAPPERS):
        inner = content.get(wrapper) if wrapper and isinstance(content, dict) else content
        if not isinstance(inner, dict):
            continue
        arrays = {
            key: value
            for key, value in inner.items()
            if isinstance(key, str) and isinstance(value, kind)
        }
        if arrays:
            others = [key for key in inner if key not in arrays]
            others += [key for key in content if wrapper and key != wrapper]
            return arrays, tuple(map(str, others))
    raise ValueError(
        f'{file} holds no arrays by name, neither in itself nor in one of {", ".join(_WRAPPERS)}'
    )


def _check_unpacked(archive: zipfile.ZipFile) -> None:
    size = sum(member.file_size for member in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f'it unpacks to {size} bytes, more than {_MAX_BYTES}')


def _make_import_error(what: str, package: str, extra: str) -> ImportError:
    return ImportError(
        f"{what} are read by {package}, which is not installed: pip install 'pdl_jax[{extra}]'"
    )


class _PickledType:
    """A dtype as a pickle describes it."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        self.code, self.order = code, '<'

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def to_numpy(self) -> np.dtype:
        if (
            not isinstance(self.code, str)
            or self.code not in _TYPE_CODES
            or self.order not in ('<', '>', '|')
        ):
            raise ValueError(f'arrays of type {self.code!r} are not allowed')
        return np.dtype(self.order.replace('|', '=') + self.code)


class _PickledArray:
    """An array as a pickle describes it."""

    content: tuple[Any, Any, Any, Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.content = data, dtype, shape, 'F' if is_fortran else 'C'

    def to_numpy(self) -> np.ndarray:
        data, dtype, shape, order = self.content
        if not isinstance(dtype, _PickledType):
            raise ValueError('an array has no type')
        data = data.encode('latin1') if isinstance(data, str) else data
        # This allocates nothing, and raises if the shape does not fit the number of bytes.
        return np.frombuffer(data, dtype.to_numpy()).reshape(shape, order=order)


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _PickledArray:
    return _PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _PickledArray:
    array = _PickledArray()
    array.content = data, dtype, shape, order
    return array


def _scalar(dtype: Any, data: Any = b'') -> _PickledArray:
    return _from_buffer(data, dtype, (), 'C')


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    """Recovers bytes, which pickles of old protocols store as text."""
    return str(text).encode('latin1')


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of arrays and ordered dicts, and of containers that have their own opcodes."""

    # Keys are module and name in the pickle; NumPy 2 renamed its modules.
    _KNOWN = {
        ('collections', 'OrderedDict'): collections.OrderedDict,
        ('_codecs', 'encode'): _encode,
        ('numpy', 'dtype'): _PickledType,
        ('numpy', 'ndarray'): _PickledArray,
        **{
            (f'numpy.{core}.{module}', name): known
            for core in ('core', '_core')
            for module, name, known in (
                ('multiarray', '_reconstruct', _reconstruct),
                ('multiarray', 'scalar', _scalar),
                ('numeric', '_frombuffer', _from_buffer),
            )
        },
    }

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f'{module}.{name} is neither an array nor a plain container'
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError('references to objects outside of the file are not allowed')
