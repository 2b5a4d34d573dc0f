"""Reads the text of optimised HLO: shapes with their layouts, instructions, computations, and how often each runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bits; what is not here (token, opaque) takes none.
_BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32, 's64': 64, 'u64': 64,
    'f8e4m3fn': 8, 'f8e5m2': 8, 'f16': 16, 'bf16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128,
}  # fmt: skip
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$')
_NAME = re.compile(r'%([\w.-]+)')
# Opcodes that run the computations named by these attributes as often as they run themselves.
_CALLS = re.compile(r'\b(?:calls|to_apply)=%?([\w.-]+)')
_CALLERS = ('fusion', 'call', 'async-start')
_TRANSPARENT = ('copy', 'bitcast', 'convert', 'copy-start', 'copy-done')


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a program.

    Attributes:
      dtype: HLO's name, such as 'bf16'.
      dims: sizes of the logical dimensions.
      minor_to_major: the order of the dimensions in memory.
      tile: of the most minor dimensions, the most minor one last; () where memory is linear.
      memory_space: 0 is the main memory (HBM); on a TPU others are on the chip.
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
        """Bytes in memory, the padding to whole tiles included."""
        size = self.size
        for dim, padded in self.padded_dims().items():
            size = size // max(self.dims[dim], 1) * padded
        return size * _BITS.get(self.dtype, 0) // 8

    def padded_dims(self, tile: tuple[int, ...] | None = None) -> dict[int, int]:
        """The sizes of the tiled dimensions in whole tiles, by dimension.

        Args:
          tile: to take where the layout has none.
        """
        tile = self.tile or tile or ()
        pairs = zip(self.minor_to_major, reversed(tile), strict=False)
        return {dim: -(-self.dims[dim] // n) * n for dim, n in pairs}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its module.
      opcode: such as 'fusion'.
      shapes: of the result; several of a tuple.
      operands: names of the instructions that it takes.
      arguments: the text between the parentheses: of a parameter its number, of a constant its value.
      attributes: the text behind them.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str

    @property
    def op_name(self) -> str:
        """Where in the program it comes from."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return match[1] if match else ''

    def attribute(self, name: str) -> str | None:
        """The text of a simple attribute, such as 'window' with its braces."""
        match = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^,\s]+)', self.attributes)
        return match[1] if match else None

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that run as often as the instruction does."""
        return tuple(_CALLS.findall(self.attributes)) if self.opcode in _CALLERS else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in order; the last is the root.

    Attributes:
      name: unique in its module.
      instructions: by name.
      root: the name of the one whose value is the result.
    """

    name: str
    instructions: dict[str, Instruction]
    root: str

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take a value, by its name."""
        users = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by number."""
        return {int(i.arguments): i for i in self.instructions.values() if i.opcode == 'parameter'}


@dataclasses.dataclass(frozen=True)
class Step:
    """An instruction where it runs.

    Attributes:
      instruction: the instruction.
      computation: that holds it.
      count: how often it runs in one run of the program.
      is_fused: whether it is part of a fusion, whose intermediate values never reach memory.
    """

    instruction: Instruction
    computation: Computation
    count: int
    is_fused: bool


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program of one device.

    Attributes:
      computations: by name.
      entry: the name of the one that runs.
      num_partitions: devices that run it together.
    """

    computations: dict[str, Computation]
    entry: str
    num_partitions: int = 1

    def walk(self) -> Iterator[Step]:
        """Yields every instruction that runs, those inside of loops, branches and fusions too.

        All branches of a conditional count; so does one pass of a loop whose number of passes cannot be read.
        """
        yield from self._walk(self.entry, 1, False)

    def _walk(self, name, count, is_fused):
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Step(instruction, computation, count, is_fused)
            for called in instruction.called:
                yield from self._walk(called, count, is_fused or instruction.opcode == 'fusion')
            if instruction.opcode == 'while':
                trips = self.count_trips(instruction, computation)
                times = count * (1 if trips is None else trips)
                yield from self._walk(instruction.attribute('body').lstrip('%'), times, is_fused)
            if instruction.opcode == 'conditional':
                for branch in _find_branches(instruction):
                    yield from self._walk(branch, count, is_fused)

    def count_trips(self, loop: Instruction, computation: Computation) -> int | None:
        """The number of passes of a while loop; None where it depends on data."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute('condition').lstrip('%')]
        root = condition.instructions[condition.root]
        initial = computation.instructions[loop.operands[0]]
        if (
            root.opcode != 'compare'
            or root.attribute('direction') != 'LT'
            or initial.opcode != 'tuple'
        ):
            return None

        def read(name):
            # A number of the condition, or one that the loop carries from its start.
            value = condition.instructions[name]
            if value.opcode != 'get-tuple-element':
                return _read_constant(condition, name)
            return _read_constant(computation, initial.operands[int(value.attribute('index'))])

        start, end = map(read, root.operands)
        return None if start is None or end is None else max(end - start, 0)


def parse_module(text: str) -> Module:
    """Parses `compiled.as_text()`.

    Raises:
      ValueError: the text holds no program.
    """
    computations, entry, name = {}, None, None
    instructions, root = {}, None
    for line in text.splitlines():
        if name is None:
            header = _HEADER.match(line)
            if header:
                name, instructions, root = header[2], {}, None
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
        raise ValueError(f'this is no text of a compiled program: {text[:80]!r}')
    partitions = re.search(r'num_partitions=(\d+)', text.partition('\n')[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """All arrays of a type, in order: one, or those of a tuple."""
    return tuple(_make_shape(*match.groups()) for match in _SHAPE.finditer(text))


def _make_shape(dtype, dims, layout):
    # '<=' marks the bound of a dynamic dimension.
    dims = tuple(int(n.lstrip('<=')) for n in dims.split(',') if n)
    order, _, rest = (layout or '').partition(':')
    order = tuple(int(n) for n in order.split(',') if n) or tuple(reversed(range(len(dims))))
    # The first group tiles the dimensions, further ones pack small elements within a tile.
    tile = re.match(r'T\(([\d,]+)\)', rest)
    space = re.search(r'S\((\d+)\)', rest)
    return Shape(
        dtype,
        dims,
        order,
        tuple(map(int, tile[1].split(','))) if tile else (),
        int(space[1]) if space else 0,
    )


def _parse_instruction(line):
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


def _find_close(text):
    """The position behind the parenthesis that closes the first one."""
    depth = 0
    for match in re.finditer(r'[()]', text):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return match.end()
    return len(text)


def _find_branches(instruction):
    branches = instruction.attribute('branch_computations')
    if branches:
        return _NAME.findall(branches)
    return [
        instruction.attribute(f'{which}_computation').lstrip('%') for which in ('true', 'false')
    ]


def _read_constant(computation, name):
    instruction = computation.instructions[name]
    while instruction.opcode in _TRANSPARENT:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode != 'constant' or not re.fullmatch(r'-?\d+', instruction.arguments):
        return None
    return int(instruction.arguments)
