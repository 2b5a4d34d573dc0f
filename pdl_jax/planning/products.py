"""Flops of the convolutions and matrix products of a program, and the share lost to padding."""

import dataclasses
import math
import re

import numpy as np

from pdl_jax.planning.hlo import Module, Shape, Step

# (sublanes, lanes) of a TPU register; arrays without a layout of their own are padded to it.
TPU_TILE = (8, 128)


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or matrix product of one device.

    Attributes:
      op_name: JAX operation that it was compiled from.
      result: shape of the result.
      count: executions per step.
      flops: flops per execution, two per multiply-add; taps outside the image or between the
        pixels of a dilated image do not count.
      padded_flops: flops if the padding in the tiles of operands and result is computed too.
    """

    op_name: str
    result: Shape
    count: int
    flops: int
    padded_flops: int


def find_products(module: Module) -> list[Product]:
    """Finds all convolutions and matrix products of a step."""
    makers = {'convolution': _make_convolution, 'dot': _make_dot}
    return [
        makers[s.instruction.opcode](s) for s in module.walk() if s.instruction.opcode in makers
    ]


def padding_waste(products: list[Product]) -> float:
    """Returns the share of the padded flops, in [0, 1], spent on padding."""
    padded = sum(p.count * p.padded_flops for p in products)
    return 1 - sum(p.count * p.flops for p in products) / padded if padded else 0.0


def _make_convolution(step: Step) -> Product:
    instruction = step.instruction
    shapes = [step.computation.instructions[name].shapes[0] for name in instruction.operands]
    match = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes)
    if match is None:
        raise ValueError(f'the convolution {instruction.name} has no dim_labels')
    labels = match.groups()
    out = instruction.shapes[0]
    left, right, result = (dict(zip(text, range(len(text)), strict=True)) for text in labels)
    groups = int(instruction.attribute('feature_group_count') or 1)
    batch_groups = int(instruction.attribute('batch_group_count') or 1)
    window = _parse_window(instruction.attribute('window') or '{}', len(labels[0]) - 2)
    taps = [
        _count_taps(shapes[0].dims[left[str(i)]], out.dims[result[str(i)]], **options)
        for i, options in enumerate(window)
    ]
    pixels = out.dims[result['b']] * math.prod(taps) // batch_groups
    channels_in, channels_out = shapes[1].dims[right['i']], out.dims[result['f']]
    flops = 2 * pixels * channels_in * channels_out

    factor = 1.0
    arrays = ((shapes[0], left, 'b', 'f'), (shapes[1], right, 'i', 'o'), (out, result, 'b', 'f'))
    padding = [_padding(shape) for shape, *_ in arrays]

    def pad(*places: tuple[int, int]) -> float:
        return max(padding[array].get(dim, 1.0) for array, dim in places)

    factor *= pad((0, left['b']), (2, result['b'])) * pad((1, right['o']), (2, result['f']))
    if groups == batch_groups == 1:
        factor *= pad((0, left['f']), (1, right['i']))
    for i in range(len(window)):
        factor *= pad((2, result[str(i)]))
    return Product(instruction.op_name, out, step.count, flops, round(flops * factor))


def _make_dot(step: Step) -> Product:
    instruction = step.instruction
    left, right = (
        step.computation.instructions[name].shapes[0] for name in instruction.operands[:2]
    )
    out = instruction.shapes[0]
    flops, factor = 2 * out.size, math.prod(_padding(out).values())
    sides = [(left, 'lhs_contracting_dims'), (right, 'rhs_contracting_dims')]
    dims = [
        [int(n) for n in re.findall(r'\d+', instruction.attribute(key) or '')] for _, key in sides
    ]
    for pair in zip(*dims, strict=True):
        flops *= left.dims[pair[0]]
        factor *= max(
            _padding(shape).get(dim, 1.0) for (shape, _), dim in zip(sides, pair, strict=True)
        )
    return Product(instruction.op_name, out, step.count, flops, round(flops * factor))


def _padding(shape: Shape) -> dict[int, float]:
    """Returns padded size / size of the tiled dimensions, by dimension."""
    return {
        dim: padded / max(shape.dims[dim], 1) for dim, padded in shape.padded_dims(TPU_TILE).items()
    }


def _parse_window(text: str, num_dims: int) -> list[dict[str, int]]:
    """Parses the options of `_count_taps` for each spatial dimension."""
    fields = dict(re.findall(r'(\w+)=([\w\-x]+)', text))

    def read(key: str, default: str) -> list[int]:
        values = fields[key].split('x') if key in fields else [default] * num_dims
        return [int(value.partition('_')[0]) for value in values]

    rows = zip(
        *(read(key, default) for key, default in (('size', '1'), ('stride', '1'), ('pad', '0_0'))),
        *(read(key, '1') for key in ('lhs_dilate', 'rhs_dilate')),
        strict=True,
    )
    names = ('size', 'stride', 'pad', 'image_dilation', 'window_dilation')
    return [dict(zip(names, row, strict=True)) for row in rows]


def _count_taps(
    num_in: int,
    num_out: int,
    *,
    size: int,
    stride: int,
    pad: int,
    image_dilation: int,
    window_dilation: int,
) -> int:
    """Counts the pairs (output position, tap) along one dimension that read an input pixel."""
    positions = np.arange(num_out)[:, None] * stride + np.arange(size) * window_dilation - pad
    is_inside = (
        (positions >= 0) & (positions < num_in * image_dilation) & (positions % image_dilation == 0)
    )
    return int(is_inside.sum())
