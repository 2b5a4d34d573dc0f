"""Rules of gathers, scatters and sorting, in the patterns that inference has."""

from typing import Any

import numpy as np
from jax.extend import core

from pdl_jax.prediction.export.onnx_graph.elementwise import result_of
from pdl_jax.prediction.export.onnx_graph.graph import Tensor
from pdl_jax.prediction.export.onnx_graph.lowering import Lowering, is_static, rule
from pdl_jax.prediction.export.onnx_graph.shapes import complete, convert, place, reshape


class _Shaped:
    """Shape and dtype of an intermediate value."""

    def __init__(self, shape: tuple[Any, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype


@rule('gather')
def _add_gather(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    folded = low.fold(equation, operands)
    if folded is not None:
        return folded
    x, index = operands
    numbers, sizes = equation.params['dimension_numbers'], equation.params['slice_sizes']
    collapsed, mapped = tuple(numbers.collapsed_slice_dims), tuple(numbers.start_index_map)
    batching = tuple(numbers.operand_batching_dims)
    result = result_of(equation)
    if not batching and not collapsed:
        return [_take_slice(low, x, index, mapped, sizes, result)]
    if not batching and len(collapsed) == 1 and collapsed == mapped:
        return [_take_along(low, x, index, mapped[0], numbers, sizes, result)]
    is_of_entries = all(n == 1 for n in sizes) and collapsed == mapped and not numbers.offset_dims
    if is_of_entries and len(batching) == len(x.shape) - 1:
        return [_take_entries(low, x, index, mapped[0], result)]
    if _is_of_vectors(numbers, sizes, x.shape, len(index.shape)):
        name = low.add(
            'GatherND', low.whole(x).name, _indices(low, index), batch_dims=len(batching)
        )
        return [low.tensor(name, result)]
    raise ValueError(f'a gather of this kind has no counterpart in ONNX: {numbers}, {sizes}')


def _is_of_vectors(numbers: Any, sizes: Any, shape: tuple[Any, ...], index_rank: int) -> bool:
    """Whether all of the last axes is taken, on the same places of the first, as of GatherND."""
    num_batching = len(numbers.operand_batching_dims)
    num_before = num_batching + len(numbers.start_index_map)
    offset = index_rank - 1
    return (
        tuple(numbers.operand_batching_dims) == tuple(range(num_batching))
        and tuple(numbers.start_indices_batching_dims) == tuple(range(num_batching))
        and tuple(numbers.collapsed_slice_dims) == tuple(range(num_batching, num_before))
        and tuple(numbers.start_index_map) == tuple(range(num_batching, num_before))
        and tuple(numbers.offset_dims) == tuple(range(offset, offset + len(shape) - num_before))
        and all(n == 1 for n in sizes[:num_before])
        and all(n == m for n, m in zip(sizes[num_before:], shape[num_before:], strict=True))
    )


def _take_slice(
    low: Lowering, x: Tensor, index: Tensor, mapped: tuple[int, ...], sizes: Any, result: Any
) -> Tensor:
    """Cuts one block out, whose start is moved into the map."""
    x = low.whole(x)
    limits = low.sizes(tuple(x.shape[axis] - sizes[axis] for axis in mapped))
    extent = low.sizes(tuple(sizes[axis] for axis in mapped))
    zeros = low.integers([0] * len(mapped))
    start = low.add('Min', low.add('Max', _indices(low, index), zeros), limits)
    end = low.add('Add', start, extent)
    return low.tensor(low.add('Slice', x.name, start, end, low.integers(list(mapped))), result)


def _take_along(
    low: Lowering, x: Tensor, index: Tensor, axis: int, numbers: Any, sizes: Any, result: Any
) -> Tensor:
    """Takes whole rows, columns or the like by their numbers."""
    kept = [i for i in range(len(x.shape)) if i != axis]
    num_index_axes = len(index.shape) - 1
    rank = len(result.shape)
    before = [i for i in range(rank) if i not in tuple(numbers.offset_dims)]
    is_in_place = before == list(range(axis, axis + num_index_axes))
    if not is_in_place or any(sizes[i] != x.shape[i] for i in kept):
        raise ValueError(f'a gather of this kind has no counterpart in ONNX: {numbers}, {sizes}')
    if index.value is not None and num_index_axes == 1:
        numbers_taken = low.full(index).reshape(-1)
        if is_static((x.shape[axis],)):
            numbers_taken = np.clip(numbers_taken, 0, x.shape[axis] - 1)
            if np.array_equal(numbers_taken, np.arange(x.shape[axis])):
                return x
        x = complete(low, x)
        steps = np.diff(numbers_taken)
        if np.all(steps == 1):
            bounds = low.integers([numbers_taken[0]]), low.integers([numbers_taken[-1] + 1])
            name = low.add('Slice', x.name, *bounds, low.integers([place(x, axis)]))
        else:
            name = low.add(
                'Gather', x.name, low.integers(numbers_taken.tolist()), axis=place(x, axis)
            )
        return low.tensor(name, result, is_channels_first=x.is_channels_first)
    is_one = num_index_axes == 0
    x = complete(low, x) if num_index_axes == 1 or (is_one and axis == 3) else low.whole(x)
    taken = _indices(low, index)
    taken = taken if is_one else low.add('Squeeze', taken, low.integers([-1]))
    last = low.add('Sub', low.size(x.shape[axis]), low.integers([1]))
    taken = low.add('Min', low.add('Max', taken, low.integers([0])), last)
    name = low.add('Gather', x.name, taken, axis=place(x, axis))
    if is_one:
        return low.tensor(low.add('Squeeze', name, low.integers([place(x, axis)])), result)
    return low.tensor(name, result, is_channels_first=x.is_channels_first)


def _take_entries(low: Lowering, x: Tensor, index: Tensor, axis: int, result: Any) -> Tensor:
    """Takes single entries along an axis, on the same places of the others."""
    if len(x.shape) == len(index.shape) - 1 and len(x.shape) > 2:
        # One index per place, as of `take_along_axis`; the last axis of the index is its own.
        index = low.whole(index)
        narrow = _Shaped(index.shape[:-1], index.dtype)
        squeezed = low.tensor(low.add('Squeeze', index.name, low.integers([-1])), narrow)
        x = complete(low, x)
        if x.is_channels_first:
            squeezed = low.channels_first(squeezed)
        name = low.add('Cast', squeezed.name, to=np.dtype(np.int64))
        name = low.add('GatherElements', x.name, name, axis=place(x, axis))
        return low.tensor(name, result, is_channels_first=x.is_channels_first)
    x = low.whole(x)
    if len(x.shape) == 1 or (is_static((x.shape[0],)) and x.shape[0] == 1):
        table = reshape(low, x, _Shaped((x.shape[-1],), x.dtype))
        flat = low.whole(index)
        flat = low.add('Squeeze', flat.name, low.integers([-1]))
        return low.tensor(low.add('Gather', table.name, flat, axis=0), result)
    name = low.add('GatherND', x.name, _indices(low, index), batch_dims=len(x.shape) - 1)
    return low.tensor(name, result)


def _indices(low: Lowering, index: Tensor) -> str:
    return low.add('Cast', low.whole(index).name, to=np.dtype(np.int64))


@rule('dynamic_slice')
def _add_dynamic_slice(
    low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]
) -> list[Tensor]:
    x, *starts = operands
    sizes = equation.params['slice_sizes']
    names = [low.add('Unsqueeze', low.whole(s).name, low.integers([0])) for s in starts]
    name = low.add('Concat', *names, axis=0)
    index = low.tensor(name, _Shaped((len(starts),), starts[0].dtype))
    return [_take_slice(low, x, index, tuple(range(len(sizes))), sizes, result_of(equation))]


_SCATTERS = {'scatter': 'none', 'scatter-add': 'add', 'scatter-min': 'min', 'scatter-max': 'max'}


@rule(*_SCATTERS)
def _add_scatter(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x, index, updates = (low.whole(operand) for operand in operands)
    numbers = equation.params['dimension_numbers']
    rank = len(x.shape)
    batching = tuple(range(rank - 1))
    is_known = (
        not numbers.update_window_dims
        and tuple(numbers.inserted_window_dims) == (rank - 1,)
        and tuple(numbers.scatter_dims_to_operand_dims) == (rank - 1,)
        and tuple(numbers.operand_batching_dims) == batching
        and len(updates.shape) == rank
    )
    if not is_known:
        raise ValueError(f'a scatter of this kind has no counterpart in ONNX: {numbers}')
    flat = low.add('Squeeze', index.name, low.integers([-1]))
    flat = low.add('Cast', flat, to=np.dtype(np.int64))
    reduction = _SCATTERS[equation.primitive.name]
    attributes: dict[str, Any] = {} if reduction == 'none' else {'reduction': reduction}
    name = low.add('ScatterElements', x.name, flat, updates.name, axis=rank - 1, **attributes)
    return [low.tensor(name, result_of(equation))]


@rule('top_k')
def _add_top_k(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    x = low.whole(operands[0])
    count = low.integers([equation.params['k']])
    names = low.graph.add('TopK', x.name, count, num_outputs=2, axis=len(x.shape) - 1)
    values, places = equation.outvars
    return [low.tensor(names[0], values.aval), convert(low, names[1], np.int64, places.aval)]


@rule('sort')
def _add_sort(low: Lowering, equation: core.JaxprEqn, operands: list[Tensor]) -> list[Tensor]:
    axis = equation.params['dimension']
    operands = [low.whole(x) for x in operands]
    rank = len(operands[0].shape)
    if equation.params['num_keys'] != 1 or axis != rank - 1:
        raise ValueError('sorting by several keys or along other axes has no counterpart in ONNX')
    count = low.size(operands[0].shape[axis])
    values, places = low.graph.add(
        'TopK', operands[0].name, count, num_outputs=2, axis=axis, largest=0
    )
    names = [values]
    names += [low.add('GatherElements', x.name, places, axis=axis) for x in operands[1:]]
    return [low.tensor(n, v.aval) for n, v in zip(names, equation.outvars, strict=True)]
