"""Arrays by key from files of other frameworks, which are untrusted: nothing in them is executed, and sizes are bounded.

PyTorch's files are read by its loader for plain tensors. The pickles of detectron2 are read by an unpickler that knows arrays and
plain containers only, and makes the arrays itself instead of letting NumPy do as the pickle says.
"""

import collections
import dataclasses
import pickle
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.storage.paths import file_size

_MAX_BYTES = 2**33
# In which training programs wrap the variables of the network.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model')
_PARALLEL_PREFIX = 'module.'
# Of arrays in pickles: floats, integers and booleans of any width.
_TYPE_CODES = frozenset({'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1'})


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array that is read when NumPy asks for it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      arrays: by key NumPy arrays, or objects that become one and have a `shape`.
      others: names of what is not an array, beside the arrays or beside the dict that they are wrapped in.
    """

    arrays: dict[str, Any]
    others: tuple[str, ...] = ()


def read_file(path: str) -> Contents:
    """Reads a file.

    Args:
      path: `.npz`, `.safetensors`, `.pkl` (detectron2), the prefix of a TensorFlow checkpoint (`ckpt-1` of `ckpt-1.index`), or
        a file of PyTorch under any other name; the last two also on gs://.

    Returns:
      The arrays without what training programs wrap them in: a dict ('state_dict', 'model'), a prefix 'module.' of all keys.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: the framework that reads it is not installed; the message names the extra.
      ValueError: the file is damaged, too large, or holds something else than arrays.
    """
    if epath.Path(f'{path}.index').exists():
        return _read_tensorflow(path)
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        raise FileNotFoundError(
            f'{path}: no such file; of a TensorFlow checkpoint give the prefix, ckpt-1 of ckpt-1.index and ckpt-1.data-...'
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


def _read_npz(file):
    try:
        with file.open('rb') as stream, np.load(stream, allow_pickle=False) as archive:
            # Unpacked sizes too: a small archive may unpack to more than the memory.
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
        # TypeError: a lone .npy array has no archive.
        raise ValueError(f'{file} cannot be read as an .npz of plain arrays: {error}') from error


def _read_safetensors(file):
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise _missing('safetensors', 'safetensors', 'convert') from error
    try:
        return Contents(safetensors.numpy.load(file.read_bytes()))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{file} cannot be read as safetensors of float16 or float32: {error}'
        ) from error


def _read_torch(file):
    try:
        import torch
    except ImportError as error:
        raise _missing('files of PyTorch', 'torch', 'convert') from error
    try:
        with file.open('rb') as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    _check_unpacked(archive)
            stream.seek(0)
            # On the CPU, wherever the tensors were saved.
            content = torch.load(stream, map_location='cpu', weights_only=True)
    except Exception as error:  # A damaged file raises whatever its bytes happen to mean.
        raise ValueError(
            f'{file} cannot be read as a PyTorch file of plain tensors: {error}'
        ) from error
    tensors, others = _unwrap(content, torch.Tensor, file)
    # A few bytes may claim to be a large tensor by repeating themselves.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _MAX_BYTES:
        raise ValueError(f'{file} unpacks to more than {_MAX_BYTES} bytes')
    return Contents(
        {key: _to_numpy(tensor, key, file, torch) for key, tensor in tensors.items()}, others
    )


def _to_numpy(tensor, key, file, torch):
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_complex()
        or tensor.is_meta
    ):
        raise ValueError(
            f'{file}: {key} is a tensor of a special kind ({tensor.layout}, {tensor.dtype}), not of plain numbers'
        )
    tensor = tensor.detach()
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _read_pickle(file):
    try:
        with file.open('rb') as stream:
            # Strings of Python 2 hold the bytes of arrays.
            content = _ArrayUnpickler(stream, encoding='latin1').load()
        arrays, others = _unwrap(content, _PickledArray, file)
        return Contents({key: array.to_numpy() for key, array in arrays.items()}, others)
    except Exception as error:  # A damaged or hostile pickle raises whatever its opcodes come to.
        raise ValueError(f'{file} cannot be read as a pickle of plain arrays: {error}') from error


def _read_tensorflow(path):
    try:
        import tensorflow as tf
    except ImportError as error:
        raise _missing('checkpoints of TensorFlow', 'tensorflow', 'tensorflow') from error
    try:
        reader = tf.train.load_checkpoint(path)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(f'{path} cannot be read as a TensorFlow checkpoint: {error}') from error

    def store(key, shape):
        # One at a time: the optimiser's averages, which nobody asks for, are twice the size of the network.
        return StoredArray(tuple(shape), lambda: reader.get_tensor(key))

    return Contents({key: store(key, shape) for key, shape in sorted(shapes.items())})


def _unwrap(content, kind, file):
    """The arrays of a kind in a dict, or in the dict that it wraps, and the names of everything else."""
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


def _check_unpacked(archive):
    size = sum(member.file_size for member in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f'it unpacks to {size} bytes, more than {_MAX_BYTES}')


def _missing(what, package, extra):
    return ImportError(
        f"{what} are read by {package}, which is not installed: pip install 'pdl_jax[{extra}]'"
    )


class _PickledType:
    """What a pickle says of a dtype."""

    def __init__(self, code, align=False, copy=True):
        self.code, self.order = code, '<'

    def __setstate__(self, state):
        self.order = state[1]

    def to_numpy(self):
        if (
            not isinstance(self.code, str)
            or self.code not in _TYPE_CODES
            or self.order not in ('<', '>', '|')
        ):
            raise ValueError(f'arrays of type {self.code!r} are not admitted')
        return np.dtype(self.order.replace('|', '=') + self.code)


class _PickledArray:
    """What a pickle says of an array."""

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        self.content = data, dtype, shape, 'F' if is_fortran else 'C'

    def to_numpy(self):
        data, dtype, shape, order = self.content
        if not isinstance(dtype, _PickledType):
            raise ValueError('an array has no type')
        data = data.encode('latin1') if isinstance(data, str) else data
        # It raises where shape and number of bytes disagree, and does not allocate.
        return np.frombuffer(data, dtype.to_numpy()).reshape(shape, order=order)


def _reconstruct(subtype, shape, code):
    return _PickledArray()


def _from_buffer(data, dtype, shape, order):
    array = _PickledArray()
    array.content = data, dtype, shape, order
    return array


def _scalar(dtype, data=b''):
    return _from_buffer(data, dtype, (), 'C')


def _encode(text, encoding='latin1'):
    """How pickles of old protocols spell bytes."""
    return str(text).encode('latin1')


class _ArrayUnpickler(pickle.Unpickler):
    """Knows arrays and ordered dicts, beside the containers that are opcodes of their own."""

    # By module and name in the pickle; NumPy's modules were renamed in its version 2.
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

    def find_class(self, module, name):
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f'{module}.{name} is neither an array nor a plain container'
            ) from None

    def persistent_load(self, pid):
        raise pickle.UnpicklingError('references to things outside of the file are not admitted')
