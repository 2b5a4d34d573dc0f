"""Bytes that a program transfers between a chip and its main memory."""

from pdl_jax.planning.hlo import Computation, Instruction, Module, Shape, Step

# Opcodes that transfer nothing: they only name values, or the computations they call are counted.
_FREE = (
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional',
    'call', 'after-all', 'partition-id', 'replica-id', 'iota', 'domain', 'opt-barrier',
    'add-dependency', 'async-start', 'async-update', 'async-done',
)  # fmt: skip
_SLICES = ('slice', 'dynamic-slice', 'gather')


def count_bytes(module: Module) -> int:
    """Counts the bytes that one execution on one device reads and writes in the main memory.

    The sum covers operands and results of all instructions outside fusions, including the padding
    of their layouts. A slice or an update counts only the part it touches. Values in on-chip
    memory count nothing.
    """
    return sum(
        step.count * count_step_bytes(step, module) for step in module.walk() if not step.is_fused
    )


def count_step_bytes(step: Step, module: Module) -> int:
    """Counts the bytes that one execution of one instruction transfers."""
    instruction, computation = step.instruction, step.computation
    opcode = instruction.opcode
    if opcode in _FREE or 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0
    shapes = [computation.instructions[name].shapes for name in instruction.operands]
    if opcode.endswith('-done'):
        # Count the transfer at its end: the result of the start is a tuple of source and target.
        written = _main_memory(instruction.shapes)
        return written + (_size(instruction.shapes) if opcode.startswith('slice') else 0)
    if opcode.endswith('-start'):
        return 0 if opcode.startswith('slice') else sum(map(_main_memory, shapes))
    read = sum(
        _count_read(computation, instruction, position, module)
        for position, shape in enumerate(shapes)
        if _main_memory(shape)
    )
    return read + _count_written(computation, instruction, module)


def _count_read(
    computation: Computation, instruction: Instruction, position: int, module: Module
) -> int:
    """Counts the bytes that an instruction reads of one of its operands."""
    operand = computation.instructions[instruction.operands[position]]
    return min(
        _size(operand.shapes),
        _count_use(computation, instruction, position, module, _size(operand.shapes)),
    )


def _count_use(
    computation: Computation, user: Instruction, position: int, module: Module, whole: int
) -> int:
    opcode = user.opcode
    if opcode in _SLICES and position == 0:
        return _size(user.shapes)
    if opcode in ('dynamic-update-slice', 'scatter') and position == 0:
        # The update happens in place.
        return 0
    if opcode == 'fusion':
        inner = module.computations[user.called[0]]
        return _count_uses(inner, inner.parameters[position].name, module, whole)
    return whole


def _count_uses(computation: Computation, name: str, module: Module, whole: int) -> int:
    """Counts the bytes that all users of a value inside a fusion read of it."""
    total = 0
    for user in computation.users[name]:
        if user.opcode == 'bitcast':
            total += _count_uses(computation, user.name, module, whole)
        elif user.opcode != 'tuple':
            position = user.operands.index(name)
            total += _count_use(computation, user, position, module, whole)
    return min(total, whole)


def _count_written(computation: Computation, instruction: Instruction, module: Module) -> int:
    """Counts the bytes that an instruction writes."""
    if instruction.opcode == 'fusion':
        inner = module.computations[instruction.called[0]]
        root = inner.instructions[inner.root]
        results = (
            [inner.instructions[name] for name in root.operands]
            if root.opcode == 'tuple'
            else [root]
        )
        return sum(
            _written_part(inner, result, module)
            for result, shape in zip(results, instruction.shapes, strict=False)
            if shape.memory_space == 0
        )
    return (
        _written_part(computation, instruction, module) if _main_memory(instruction.shapes) else 0
    )


def _written_part(computation: Computation, result: Instruction, module: Module) -> int:
    whole = _size(result.shapes)
    while result.opcode == 'bitcast':
        result = computation.instructions[result.operands[0]]
    if result.opcode == 'dynamic-update-slice':
        return min(whole, _size(computation.instructions[result.operands[1]].shapes))
    if result.opcode == 'scatter':
        return min(whole, _size(computation.instructions[result.operands[-1]].shapes))
    if result.opcode == 'fusion':
        inner = module.computations[result.called[0]]
        return min(whole, _written_part(inner, inner.instructions[inner.root], module))
    return whole


def _size(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.num_bytes for shape in shapes)


def _main_memory(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.num_bytes for shape in shapes if shape.memory_space == 0)
