"""The objects that pickles of NumPy and PyTorch are made of, by the names of their functions."""

import dataclasses
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pdl_jax.convert.contents import check_layout

_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))
# The dtypes of arrays in pickles: floats, integers and booleans of any width.
_TYPE_CODES = frozenset({'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1'})
# Types of storages and dtypes of tensors in PyTorch; bfloat16 has no NumPy code of its own.
_STORAGES = {
    'DoubleStorage': 'f8',
    'FloatStorage': 'f4',
    'HalfStorage': 'f2',
    'BFloat16Storage': 'bf16',
    'LongStorage': 'i8',
    'IntStorage': 'i4',
    'ShortStorage': 'i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': 'b1',
    'UntypedStorage': 'u1',
}
_DTYPES = {'torch.uint16': 'u2', 'torch.uint32': 'u4', 'torch.uint64': 'u8', 'torch.uint8': 'u1'}


@dataclasses.dataclass(frozen=True)
class Name:
    """A function or class that a pickle names."""

    name: str


@dataclasses.dataclass(frozen=True)
class Opaque:
    """An object of a class, or the result of a function, that is not understood.

    Attributes:
      name: the class or function.
    """

    name: str


class _OddKey:
    """A key that is no plain value; equal to itself only."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers behind tensors, which a file of PyTorch keeps outside of its pickle.

    Attributes:
      kind: name of its type in PyTorch.
      key: name of the storage in the file.
      size: number of elements.
    """

    kind: str
    key: str
    size: int

    @property
    def code(self) -> str:
        """A NumPy code or 'bf16'; '' for a type that is not understood."""
        return _STORAGES.get(self.kind, '')


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as a pickle describes it; offset and strides count elements of the storage.

    Attributes:
      storage: its numbers.
      code: the type of an element, as `Storage.code`.
      special: the kind of tensor if it is not made of plain numbers, else ''.
    """

    storage: Storage | None
    offset: Any = 0
    shape: Any = ()
    stride: Any = ()
    code: str = ''
    special: str = ''


class PickledType:
    """A dtype as a pickle describes it."""

    def __init__(self, code: Any = None, *_: Any):
        self.code, self.order = code, '<'

    def set_state(self, state: Any) -> None:
        """Takes the byte order from the state in the pickle."""
        self.order = state[1]

    def to_numpy(self) -> np.dtype:
        """Returns the dtype.

        Raises:
          ValueError: it is none of numbers.
        """
        code, order = self.code, self.order
        is_known = isinstance(code, str) and code in _TYPE_CODES
        if not is_known or not isinstance(order, str) or order not in ('<', '>', '|'):
            shown = repr(code)[:20] if isinstance(code, str) else type(code).__name__
            raise ValueError(f'arrays of type {shown} are not allowed')
        return np.dtype(order.replace('|', '=') + code)


class PickledArray:
    """An array as a pickle describes it."""

    content: tuple[Any, Any, Any, Any]

    def set_state(self, state: Any) -> None:
        """Takes shape, type and bytes from the state in the pickle."""
        _, shape, dtype, is_fortran, data = state
        self.content = data, dtype, shape, 'F' if is_fortran else 'C'

    def to_numpy(self) -> np.ndarray:
        """Returns the array.

        Raises:
          ValueError: it is none of numbers, or its shape does not fit the number of bytes.
        """
        if not hasattr(self, 'content'):
            raise ValueError('an array has no content')
        data, dtype, shape, order = self.content
        if not isinstance(dtype, PickledType):
            raise ValueError('an array has no type')
        data = data.encode('latin1') if isinstance(data, str) else data
        if not isinstance(data, bytes | bytearray):
            raise ValueError('an array has no bytes')
        # This allocates nothing, and raises if the shape does not fit the number of bytes.
        array = np.frombuffer(data, dtype.to_numpy())
        return array.reshape(check_layout(shape, 'the shape'), order='F' if order == 'F' else 'C')


def put_items(target: Any, items: Iterable[Any]) -> None:
    """Puts pairs of key and value into a dict; objects that are not understood are none."""
    if isinstance(target, dict):
        for key, value in items:
            # The hash of nested tuples takes exponential time.
            target[key if type(key) in _PLAIN_KEYS else _OddKey()] = value


def _make_dict(items: Any = (), *_: Any) -> dict[Any, Any]:
    """Makes the dict of an `OrderedDict`, which old protocols give a list of pairs."""
    if isinstance(items, dict):
        return items
    made: dict[Any, Any] = {}
    if isinstance(items, list):
        put_items(
            made, (pair for pair in items if isinstance(pair, tuple | list) and len(pair) == 2)
        )
    return made


def _make_default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _encode(text: Any = '', *_: Any) -> Any:
    """Recovers bytes, which pickles of old protocols store as text."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError('text of an array is no text')
    return text


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = 'C', *_: Any) -> PickledArray:
    array = PickledArray()
    array.content = data, dtype, shape, order
    return array


def _scalar(dtype: Any, data: Any = b'', *_: Any) -> PickledArray:
    return _from_buffer(data, dtype, ())


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """Makes a tensor; `rest` is what no weights need, and marks of lazy operations."""
    if not isinstance(storage, Storage):
        return Tensor(None, special='without a storage')
    special = _find_marks(rest[2:3]) or ('' if storage.code else storage.kind)
    return Tensor(storage, offset, shape, stride, storage.code, special)


def _make_tensor_of_type(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """Makes a tensor of a type that has no storage of its own."""
    if not isinstance(storage, Storage) or len(rest) < 3 or not isinstance(rest[2], Name):
        return Tensor(None, special='without a storage')
    dtype = rest[2].name
    special = _find_marks(rest[3:4]) or ('' if dtype in _DTYPES else dtype)
    return Tensor(storage, offset, shape, stride, _DTYPES.get(dtype, ''), special)


def _find_marks(metadata: tuple[Any, ...]) -> str:
    marks = metadata[0] if metadata and isinstance(metadata[0], dict) else {}
    return ', '.join(mark for mark in ('conj', 'neg') if marks.get(mark))


def _get_first(first: Any, *_: Any) -> Any:
    return first


def make_storage(kind: Any, key: Any, size: Any) -> Storage:
    """Makes a storage from the parts of its id in a pickle.

    Raises:
      ValueError: a part has the wrong type.
    """
    if not isinstance(kind, Name) or not isinstance(key, str):
        raise ValueError('the id of a storage is damaged')
    (size,) = check_layout((size,), 'the size')
    return Storage(kind.name.rpartition('.')[2].removeprefix('_'), key, size)


# Functions and classes by name.
KNOWN: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _make_dict,
    'collections.Counter': _make_dict,
    'collections.defaultdict': _make_default_dict,
    '_codecs.encode': _encode,
    'numpy.dtype': PickledType,
    'numpy.ndarray': _reconstruct,
    'torch.Size': _get_first,
    'torch._utils._rebuild_tensor': _make_tensor,
    'torch._utils._rebuild_tensor_v2': _make_tensor,
    'torch._utils._rebuild_tensor_v3': _make_tensor_of_type,
    'torch._utils._rebuild_parameter': _get_first,
    'torch._utils._rebuild_parameter_with_state': _get_first,
    **{
        # NumPy 2 renamed its modules.
        f'numpy.{core}.{module}.{name}': function
        for core in ('core', '_core')
        for module, name, function in (
            ('multiarray', '_reconstruct', _reconstruct),
            ('multiarray', 'scalar', _scalar),
            ('numeric', '_frombuffer', _from_buffer),
        )
    },
}
