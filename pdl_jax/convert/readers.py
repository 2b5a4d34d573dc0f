"""Readers of other frameworks' files, which are untrusted: sizes are bounded and no code runs.

The content decides how a file is read, and its name where that does not tell. Files of PyTorch,
pickles and safetensors are read without the programs that wrote them, see `pickles`. Arrays are
read when they are used, so a file that fits no network costs no memory.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.convert import array_files, contents, file_kinds, torch_files
from pdl_jax.convert.contents import Contents, StoredArray, describe_error
from pdl_jax.convert.pickled_values import Opaque, PickledArray, Tensor
from pdl_jax.convert.pickles import load_pickle
from pdl_jax.convert.state_dicts import (
    MissingWeightsError,
    Weights,
    choose_weights,
    clean_keys,
)
from pdl_jax.storage.outside_files import refuse_irregular
from pdl_jax.storage.paths import file_size

_KINDS = (Tensor, PickledArray, StoredArray)
_NAMES = {
    'zip': 'a PyTorch file of plain tensors',
    'stream': 'a PyTorch file of plain tensors',
    'npz': 'an .npz of plain arrays',
    'safetensors': 'safetensors of plain numbers',
    'pickle': 'a pickle of plain arrays',
}
# Pickles begin with their protocol or, in old ones, with an opcode.
_PICKLE_STARTS = (b'\x80', b'(', b'}', b']', b'c')
_RESAVE = (
    'write its weights alone, where its classes can be imported and if you trust it (this executes '
    'code of the file): python -c "import torch, sys; torch.save(torch.load(sys.argv[1], '
    "'cpu', weights_only=False){entry}.state_dict(), 'weights.pth')\""
)


def read_file(path: str, *, weights: str = '') -> Contents:
    """Reads a file.

    Args:
      path: a file of PyTorch, safetensors, a pickle of arrays (detectron2), an `.npz`, or the
        prefix of a TensorFlow checkpoint (`ckpt-1` of `ckpt-1.index`) or the folder that holds it
        alone; local or on gs://.
      weights: 'model' or 'ema' for a file that has both; '' takes the model's, see
        `state_dicts.choose_weights`.

    Returns:
      The arrays, taken out of wrapping dicts ('state_dict', 'model') and without the prefixes of
      wrapping modules ('module.').

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: the package that reads it is not installed; the message names the extra.
      ValueError: the file is damaged, too large, or holds other things than arrays; the message
        says what it is, and what to do.
    """
    refuse_irregular(path)
    if epath.Path(f'{path}.index').exists():
        return _read_tensorflow(path)
    file = epath.Path(path)
    if prefix := file_kinds.find_prefix(file):
        return _read_tensorflow(prefix)
    size = _check_file(file)
    head = file_kinds.read_head(file)
    if foreign := file_kinds.describe_foreign(file, head, size):
        raise ValueError(f'{file} is {foreign}')
    kind = _find_kind(file, head)
    try:
        values, make = _read_values(file, kind)
        found = choose_weights(values, _KINDS, weights)
        return _make_contents(values, found, make, file)
    except MissingWeightsError as error:
        raise ValueError(f'{file}: {error}') from error
    except Exception as error:  # A damaged or hostile file can raise anything.
        raise ValueError(
            f'{file} cannot be read as {_NAMES[kind]}: {describe_error(error)}'
        ) from error


def _check_file(file: epath.Path) -> int:
    """Checks that there is a file; returns its size in bytes."""
    if not file.exists():
        raise FileNotFoundError(
            f'{file}: no such file; of a TensorFlow checkpoint give the prefix, ckpt-1 of '
            f'ckpt-1.index and ckpt-1.data-...'
        )
    if file.is_dir():
        raise ValueError(f'{file} {file_kinds.describe_folder(file)}')
    size = file_size(file)
    if size > contents.MAX_BYTES:
        raise ValueError(
            f'{file} has more than {contents.MAX_BYTES} bytes, larger than any published network'
        )
    return size


def _find_kind(file: epath.Path, head: bytes) -> str:
    if torch_files.is_stream(head):
        return 'stream'
    if head.startswith(b'PK'):
        names = file_kinds.list_names(file)
        is_torch = torch_files.find_root(names) is not None if names else file.suffix != '.npz'
        return 'zip' if is_torch else 'npz'
    if file.suffix == '.npz':
        return 'npz'
    if head[8:9] == b'{' or file.suffix == '.safetensors':
        return 'safetensors'
    if file.suffix == '.pkl' or head.startswith(_PICKLE_STARTS):
        return 'pickle'
    raise ValueError(
        f'{file} is no file of weights that is known here (PyTorch, safetensors, a pickle or .npz '
        f'of arrays, a TensorFlow checkpoint): it begins with {head[:8]!r}'
    )


def _read_values(file: epath.Path, kind: str) -> tuple[Any, Callable[[Any], StoredArray]]:
    """Reads what a file holds; returns it, and a function that makes an array of each value."""
    if kind == 'pickle':
        with file.open('rb') as stream:
            return load_pickle(stream, file_size(file)), _store
    if kind == 'safetensors':
        return array_files.read_safetensors(file), _store
    if kind != 'stream':
        # A small archive may unpack to more than the memory.
        with file.open('rb') as stream, zipfile.ZipFile(stream) as archive:
            _check_size(sum(member.file_size for member in archive.infolist()))
    if kind == 'npz':
        return array_files.read_npz(file), _store
    values, make = (torch_files.read_zip if kind == 'zip' else torch_files.read_stream)(file)
    return values, lambda value: make(value) if isinstance(value, Tensor) else _store(value)


def _store(value: StoredArray | PickledArray) -> StoredArray:
    if isinstance(value, StoredArray):
        return value
    # A view of the bytes in the pickle.
    array = value.to_numpy()
    return StoredArray(array.shape, lambda: array)


def _check_size(num_bytes: int) -> None:
    if num_bytes > contents.MAX_BYTES:
        raise ValueError(f'it unpacks to {num_bytes} bytes, more than {contents.MAX_BYTES}')


def _make_contents(
    values: Any,
    found: tuple[Weights, tuple[str, ...]] | None,
    make: Callable[[Any], StoredArray],
    file: epath.Path,
) -> Contents:
    """Makes the arrays of the weights that were found, under the network's own keys."""
    if found is None:
        raise ValueError(_explain_absence(values))
    weights, notes = found
    arrays: dict[str, StoredArray] = {}
    others: list[str] = []
    for key, value in weights.values.items():
        if isinstance(value, Opaque):
            raise ValueError(f'{key!s:.80} is {value.name}, neither an array nor a plain container')
        if not isinstance(key, str) or not isinstance(value, _KINDS):
            others.append(key if isinstance(key, str) else f'a key of type {type(key).__name__}')
            continue
        try:
            array = make(value)
        except ValueError as error:
            raise ValueError(f'{key} is {error}') from error
        arrays[key] = StoredArray(array.shape, _name_errors(array.read, key, file))
    # Tensors may store a few bytes and repeat them.
    _check_size(sum(4 * int(np.prod(array.shape, dtype=object)) for array in arrays.values()))
    cleaned, counters, prefixes = clean_keys(arrays)
    if prefixes:
        notes += (f'takes keys without the prefixes of wrapping modules: {prefixes}',)
    return Contents(dict(cleaned), (*others, *counters, *weights.beside), notes)


def _name_errors(read: Callable[[], np.ndarray], key: str, file: epath.Path) -> Any:
    def read_array() -> np.ndarray:
        try:
            return read()
        except Exception as error:  # A damaged file can raise anything.
            raise ValueError(f'{file}: {key} cannot be read: {describe_error(error)}') from error

    return read_array


def _explain_absence(values: Any) -> str:
    """Words why a file has no arrays by name."""
    if isinstance(values, Opaque):
        return f'it is a whole object of {values.name}: {_RESAVE.format(entry="")}'
    entries = values if isinstance(values, Mapping) else {}
    for key, value in entries.items():
        if isinstance(value, Opaque) and isinstance(key, str):
            resave = _RESAVE.format(entry=f'[{key!r}]')
            return (
                f'{key!r} is an object of {value.name}, neither an array nor a plain container; if '
                f'it is a whole model, {resave}'
            )
        for inner in value.values() if isinstance(value, Mapping) else ():
            if isinstance(inner, Opaque):
                return f'it holds {inner.name}, neither an array nor a plain container'
    shown = ', '.join(repr(key) for key in list(entries)[:8] if isinstance(key, str))
    return f'it holds no arrays by name{f", only {shown}" if shown else ""}'


def _read_tensorflow(path: str) -> Contents:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            f'{path}: checkpoints of TensorFlow are read by tensorflow, which is not installed: '
            f"pip install 'pdl_jax[tensorflow]'"
        ) from error
    try:
        reader = tf.train.load_checkpoint(path)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(f'{path} cannot be read as a TensorFlow checkpoint: {error}') from error

    def store(key: str, shape: Sequence[int]) -> StoredArray:
        # Arrays are read on demand: optimiser slots, which are ignored, take twice the size of the
        # network.
        return StoredArray(tuple(shape), lambda: reader.get_tensor(key))

    if not shapes:
        raise ValueError(f'{path} holds no arrays')
    return Contents({key: store(key, shape) for key, shape in sorted(shapes.items())})
