"""An unpickler that imports nothing and calls nothing that a file names.

Functions and classes in a pickle are names here. Those that NumPy and PyTorch use for arrays are
understood; an object of any other becomes an `Opaque`, which holds only the name. So a pickle
cannot execute anything, and training checkpoints can be read whose options are objects. Time and
memory are bounded by the size of the file: keys are plain values, because the hash of nested tuples
takes exponential time, and nothing but strings is converted to text.
"""

import codecs
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

from pdl_jax.convert.pickled_values import (
    KNOWN,
    Name,
    Opaque,
    PickledArray,
    PickledType,
    Tensor,
    put_items,
)

# Steps of a pickle; that of a large network and its optimiser has some hundred thousand.
_MAX_STEPS = 3_000_000
_MAX_NAME = 200
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_REBUILD = 'torch._utils._rebuild_'


def load_pickle(
    stream: IO[bytes], size: int, *, load_storage: Callable[[Any], Any] | None = None
) -> Any:
    """Reads one pickle.

    Args:
      stream: at its start; left at its end.
      size: number of bytes that are left in the stream.
      load_storage: finds the storage of a tensor by its id in the pickle.

    Returns:
      Plain values and containers, `PickledArray`, `Tensor`, and `Opaque` for everything else.

    Raises:
      Exception: a damaged pickle can raise anything.
    """
    machine = _Machine(load_storage)
    bounded = cast(IO[bytes], _BoundedStream(stream, size))
    while True:
        machine.count(1)
        code = bounded.read(1)
        opcode = _OPCODES.get(code.decode('latin1'))
        if opcode is None:
            raise pickle.UnpicklingError(f'{code!r} is no step of a pickle')
        if opcode.name == 'STOP':
            return machine.stack.pop()
        if opcode.name == 'STRING':
            argument = _read_quoted(bounded)
        else:
            argument = opcode.arg.reader(bounded) if opcode.arg else None
        if opcode.name in _CONSTANTS:
            machine.stack.append(argument)
        else:
            _STEPS[opcode.name](machine, argument)


def _read_quoted(stream: IO[bytes]) -> str:
    """Reads a string of Python 2, which may hold the bytes of an array."""
    line = stream.readline().rstrip(b'\r\n')
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b'"', b"'"):
        raise pickle.UnpicklingError('a string has no quotes')
    return codecs.escape_decode(line[1:-1])[0].decode('latin1')


class _BoundedStream:
    """A stream that allocates no more than the file holds, whatever size a pickle asks for."""

    def __init__(self, stream: IO[bytes], size: int):
        self._stream, self._left = stream, size

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise EOFError('it ends before its content does: cut short? Download it again')
        self._left -= size
        return self._stream.read(size)

    def readline(self) -> bytes:
        line = self._stream.readline()
        self._left -= len(line)
        return line


class _Machine:
    """The stack on which a pickle puts its objects together."""

    def __init__(self, load_storage: Callable[[Any], Any] | None):
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._load_storage = load_storage
        self._num_steps = 0

    def count(self, num_steps: int) -> None:
        """Counts steps, and gives up after too many."""
        self._num_steps += num_steps
        if self._num_steps > _MAX_STEPS:
            raise pickle.UnpicklingError(f'it takes more than {_MAX_STEPS} steps')

    def mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def drop_marked(self, _: Any) -> None:
        self.pop_mark()

    def get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def make_tuple(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        if isinstance(self.stack[-1], list):
            self.stack[-1].append(value)

    def extend(self, _: Any) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        put_items(self.stack[-1], [(key, value)])

    def set_items(self, _: Any) -> None:
        items = self.pop_mark()
        put_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def make_dict(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        put_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def find(self, argument: str | None) -> None:
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise pickle.UnpicklingError('the name of a class is no text')
        else:
            module, _, name = argument.partition(' ')
        self.stack.append(Name(f'{module}.{name}'[:_MAX_NAME]))

    def instantiate(self, argument: str | None) -> None:
        arguments = self.pop_mark()
        if argument is None:
            function = arguments.pop(0)
        else:
            self.find(argument)
            function = self.stack.pop()
        self.stack.append(self._call(function, arguments))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, arguments))

    def reduce_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.reduce(None)

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], PickledArray | PickledType):
            self.stack[-1].set_state(state)

    def load_persistent(self, argument: str | None) -> None:
        pid = self.stack.pop() if argument is None else argument
        if self._load_storage is None:
            raise pickle.UnpicklingError('references to objects outside of the file')
        self.stack.append(self._load_storage(pid))

    def _call(self, function: Any, arguments: Any) -> Any:
        """Returns the result of a function, or the object of a class."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple | list):
            raise pickle.UnpicklingError('something that is no function is called')
        name = function.name
        if name == 'torch._tensor._rebuild_from_type_v2':
            # A tensor with attributes: a function, the type of its result, and its arguments.
            function, _, arguments, _ = arguments
            name = function.name if isinstance(function, Name) else ''
        if name in KNOWN and isinstance(arguments, tuple | list):
            # A pickle may name one long list again and again.
            self.count(sum(len(x) for x in arguments if isinstance(x, list)))
            return KNOWN[name](*arguments)
        if name.startswith(_REBUILD):
            return Tensor(None, special=name.removeprefix(_REBUILD))
        return Opaque(name)


_Step = Callable[[_Machine, Any], None]


def _refuse(machine: _Machine, argument: Any) -> None:
    raise pickle.UnpicklingError('codes of registered classes and outer buffers are not allowed')


def _push(make: Callable[[], Any]) -> _Step:
    return lambda machine, _: machine.stack.append(make())


def _push_marked(make: Callable[[list[Any]], Any]) -> _Step:
    def push(machine: _Machine, _: Any) -> None:
        items = machine.pop_mark()
        machine.stack.append(make(items))

    return push


def _make_tuple(count: int) -> _Step:
    return lambda machine, _: machine.make_tuple(count)


# Opcodes whose argument is the object.
_CONSTANTS = frozenset(
    'INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES '
    'SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT '
    'BINFLOAT'.split()
)
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(('PROTO', 'FRAME'), lambda machine, _: None),
    **dict.fromkeys(
        ('EXT1', 'EXT2', 'EXT4', 'NEXT_BUFFER', 'READONLY_BUFFER'),
        _refuse,
    ),
    **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), _Machine.get),
    **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'), _Machine.put),
    **dict.fromkeys(('GLOBAL', 'STACK_GLOBAL'), _Machine.find),
    **dict.fromkeys(('INST', 'OBJ'), _Machine.instantiate),
    **dict.fromkeys(('REDUCE', 'NEWOBJ'), _Machine.reduce),
    **dict.fromkeys(('PERSID', 'BINPERSID'), _Machine.load_persistent),
    # Sets are lists here, which hash nothing.
    **dict.fromkeys(('EMPTY_LIST', 'EMPTY_SET'), _push(list)),
    **dict.fromkeys(('LIST', 'FROZENSET'), _push_marked(list)),
    **dict.fromkeys(('APPENDS', 'ADDITEMS'), _Machine.extend),
    'NONE': _push(lambda: None),
    'NEWTRUE': _push(lambda: True),
    'NEWFALSE': _push(lambda: False),
    'EMPTY_TUPLE': _push(tuple),
    'EMPTY_DICT': _push(dict),
    'TUPLE': _push_marked(tuple),
    'TUPLE1': _make_tuple(1),
    'TUPLE2': _make_tuple(2),
    'TUPLE3': _make_tuple(3),
    'APPEND': _Machine.append,
    'SETITEM': _Machine.set_item,
    'SETITEMS': _Machine.set_items,
    'DICT': _Machine.make_dict,
    'POP': _Machine.pop,
    'DUP': lambda machine, _: machine.stack.append(machine.stack[-1]),
    'MARK': _Machine.mark,
    'POP_MARK': _Machine.drop_marked,
    'NEWOBJ_EX': _Machine.reduce_with_keywords,
    'BUILD': _Machine.build,
}
