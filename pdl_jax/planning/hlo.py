"""Parser of optimised HLO: shapes with layouts, instructions, computations and their run counts."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from pdl_jax.ops.rounding import ceil_div

# Bits per element; other types (token, opaque) have no size.
_BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32,
    's64': 64, 'u64': 64, 'f8e4m3fn': 8, 'f8e5m2': 8, 'f16': 16, 'bf16': 16, 'f32': 32, 'f64': 64,
    'c64': 64, 'c128': 128,
}  # fmt: skip
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$')
_NAME = re.compile(r'%([\w.-]+)')
# _CALLERS run the computations that these attributes name, once per execution.
_CALLS = re.compile(r'\b(?:calls|to_apply)=%?([\w.-]+)')
_CALLERS = ('fusion', 'call', 'async-start')
# Opcodes to look through for a constant.
_TRANSPARENT = ('copy', 'bitcast', 'convert', 'copy-start', 'copy-done')


@dataclasses.dataclass(frozen=True)
class Shape:
    """Type and layout of an array.

    Attributes:
      dtype: HLO name of the type, such as 'bf16'.
      dims: sizes of the logical dimensions.
      minor_to_major: order of the dimensions in memory.
      tile: tile sizes of the most minor dimensions, the most minor last; () in linear memory.
      memory_space: 0 for the main memory (HBM); other spaces of a TPU are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    memory_space: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Bytes in memory, including the padding to whole tiles."""
        size = self.size
        for dim, padded in self.padded_dims().items():
            size = size // max(self.dims[dim], 1) * padded
        return size * _BITS.get(self.dtype, 0) // 8

    def padded_dims(self, tile: tuple[int, ...] | None = None) -> dict[int, int]:
        """Rounds the sizes of the tiled dimensions up to whole tiles.

        Args:
          tile: default for layouts without tiles.

        Returns:
          Padded size by dimension, for the tiled dimensions only.
        """
        tile = self.tile or tile or ()
        pairs = zip(self.minor_to_major, reversed(tile), strict=False)
        return {dim: ceil_div(self.dims[dim], n) * n for dim, n in pairs}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: name, unique in its module.
      opcode: operation, such as 'fusion'.
      shapes: shapes of the result; several for a tuple.
      operands: names of the instructions whose values it reads.
      arguments: text between the parentheses; the number of a parameter, the value of a constant.
      attributes: text after the parentheses.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str

    @property
    def op_name(self) -> str:
        """JAX operation that it was compiled from; '' if unknown."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return match[1] if match else ''

    def attribute(self, name: str) -> str | None:
        """Returns the text of a simple attribute, such as 'window' with its braces, or None."""
        match = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^,\s]+)', self.attributes)
        return match[1] if match else None

    def computation(self, name: str) -> str:
        """Returns the computation that an attribute names, such as 'body' of a loop.

        Raises:
          ValueError: there is no such attribute.
        """
        value = self.attribute(name)
        if value is None:
            raise ValueError(f'the instruction {self.name} ({self.opcode}) has no {name}')
        return value.lstrip('%')

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that run once per execution of the instruction."""
        return tuple(_CALLS.findall(self.attributes)) if self.opcode in _CALLERS else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in order.

    Attributes:
      name: name, unique in its module.
      instructions: instructions by name.
      root: name of the instruction whose value is the result.
    """

    name: str
    instructions: dict[str, Instruction]
    root: str

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that read a value, by its name."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(i.arguments): i for i in self.instructions.values() if i.opcode == 'parameter'}


@dataclasses.dataclass(frozen=True)
class Step:
    """An instruction in the place where it runs.

    Attributes:
      instruction: the instruction.
      computation: the computation that holds it.
      count: executions per execution of the program.
      is_fused: true inside a fusion, whose intermediate values never reach memory.
    """

    instruction: Instruction
    computation: Computation
    count: int
    is_fused: bool


@dataclasses.dataclass(frozen=True)
class Module:
    """The compiled program of one device.

    Attributes:
      computations: computations by name.
      entry: name of the computation that runs first.
      num_partitions: number of devices that run it together.
    """

    computations: dict[str, Computation]
    entry: str
    num_partitions: int = 1

    def walk(self) -> Iterator[Step]:
        """Yields every instruction that runs, including those in loops, branches and fusions.

        All branches of a conditional count, and one iteration of a loop with an unknown trip count.
        """
        yield from self._walk(self.entry, 1, False)

    def _walk(self, name: str, count: int, is_fused: bool) -> Iterator[Step]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Step(instruction, computation, count, is_fused)
            for called in instruction.called:
                yield from self._walk(called, count, is_fused or instruction.opcode == 'fusion')
            if instruction.opcode == 'while':
                trips = self.count_trips(instruction, computation)
                times = count * (1 if trips is None else trips)
                yield from self._walk(instruction.computation('body'), times, is_fused)
            if instruction.opcode == 'conditional':
                for branch in _find_branches(instruction):
                    yield from self._walk(branch, count, is_fused)

    def count_trips(self, loop: Instruction, computation: Computation) -> int | None:
        """Finds the trip count of a while loop in a computation; None if data-dependent."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.computation('condition')]
        root = condition.instructions[condition.root]
        initial = computation.instructions[loop.operands[0]]
        if (
            root.opcode != 'compare'
            or root.attribute('direction') != 'LT'
            or initial.opcode != 'tuple'
        ):
            return None

        def read(name: str) -> int | None:
            # The bound is a constant of the condition or an initial value that the loop carries.
            value = condition.instructions[name]
            if value.opcode != 'get-tuple-element':
                return _read_constant(condition, name)
            index = int(value.attribute('index') or 0)
            return _read_constant(computation, initial.operands[index])

        start, end = map(read, root.operands)
        return None if start is None or end is None else max(end - start, 0)


def parse_module(text: str) -> Module:
    """Parses `compiled.as_text()`.

    Raises:
      ValueError: the text holds no program.
    """
    computations: dict[str, Computation] = {}
    entry: str | None = None
    name: str | None = None
    instructions: dict[str, Instruction] = {}
    root = ''
    for line in text.splitlines():
        if name is None:
            header = _HEADER.match(line)
            if header:
                name, instructions, root = header[2], {}, ''
                entry = name if header[1] else entry
        elif line.startswith('}'):
            computations[name] = Computation(name, instructions, root)
            name = None
        elif ' = ' in line:
            instruction = _parse_instruction(line)
            instructions[instruction.name] = instruction
            if line.lstrip().startswith('ROOT '):
                root = instruction.name
    if entry is None:
        raise ValueError(f'this is not the text of a compiled program: {text[:80]!r}')
    partitions = re.search(r'num_partitions=(\d+)', text.partition('\n')[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Parses all array shapes of a type in order, several for a tuple."""
    return tuple(_make_shape(*match.groups()) for match in _SHAPE.finditer(text))


def _make_shape(dtype: str, dims: str, layout: str | None) -> Shape:
    # '<=' marks the bound of a dynamic dimension.
    sizes = tuple(int(n.lstrip('<=')) for n in dims.split(',') if n)
    order, _, rest = (layout or '').partition(':')
    # The first group tiles the dimensions, further ones pack small elements within a tile.
    tile = re.match(r'T\(([\d,]+)\)', rest)
    space = re.search(r'S\((\d+)\)', rest)
    return Shape(
        dtype,
        sizes,
        tuple(int(n) for n in order.split(',') if n) or tuple(reversed(range(len(sizes)))),
        tuple(map(int, tile[1].split(','))) if tile else (),
        int(space[1]) if space else 0,
    )


def _parse_instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix('ROOT ').partition(' = ')
    end = _find_close(rest) if rest.startswith('(') else rest.index(' ')
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition('(')
    start = len(opcode)
    end = start + _find_close(rest[start:])
    arguments = rest[start + 1 : end - 1]
    return Instruction(
        name.lstrip('%'),
        opcode,
        parse_shapes(kind),
        tuple(_NAME.findall(arguments)),
        arguments,
        rest[end:],
    )


def _find_close(text: str) -> int:
    """Returns the position after the parenthesis that closes the first one."""
    depth = 0
    for match in re.finditer(r'[()]', text):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return match.end()
    return len(text)


def _find_branches(instruction: Instruction) -> list[str]:
    branches = instruction.attribute('branch_computations')
    if branches:
        return _NAME.findall(branches)
    return [instruction.computation(f'{which}_computation') for which in ('true', 'false')]


def _read_constant(computation: Computation, name: str) -> int | None:
    instruction = computation.instructions[name]
    while instruction.opcode in _TRANSPARENT:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode != 'constant' or not re.fullmatch(r'-?\d+', instruction.arguments):
        return None
    return int(instruction.arguments)
