"""Flops of the convolutions and matrix products of a program, and how many of them padding wastes."""

import dataclasses
import math
import re

import numpy as np

from pdl_jax.planning.hlo import Module, Shape, Step

# Lanes and sublanes of a TPU register: what arrays are padded to where the compiler has not said otherwise.
TPU_TILE = (8, 128)


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or matrix product of one device.

    Attributes:
      op_name: where in the program it comes from.
      result: the shape of the result.
      count: how often it runs in a step.
      flops: of one run, two per multiply-add; taps outside of the image or between dilated pixels do not count.
      padded_flops: as if every tile of the operands and of the result were full of data.
    """

    op_name: str
    result: Shape
    count: int
    flops: int
    padded_flops: int


def find_products(module: Module) -> list[Product]:
    """All convolutions and matrix products that a step runs."""
    makers = {'convolution': _make_convolution, 'dot': _make_dot}
    return [
        makers[s.instruction.opcode](s) for s in module.walk() if s.instruction.opcode in makers
    ]


def padding_waste(products: list[Product]) -> float:
    """The share in [0, 1] of the padded flops that compute nothing."""
    padded = sum(p.count * p.padded_flops for p in products)
    return 1 - sum(p.count * p.flops for p in products) / padded if padded else 0.0


def _make_convolution(step: Step) -> Product:
    instruction = step.instruction
    shapes = [step.computation.instructions[name].shapes[0] for name in instruction.operands]
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes).groups()
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

    def pad(*places):
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


def _padding(shape):
    """How much larger the tiled dimensions are in memory, by dimension."""
    return {
        dim: padded / max(shape.dims[dim], 1) for dim, padded in shape.padded_dims(TPU_TILE).items()
    }


def _parse_window(text, num_dims):
    """The options of `_count_taps` for each spatial dimension."""
    fields = dict(re.findall(r'(\w+)=([\w\-x]+)', text))

    def read(key, default):
        values = fields[key].split('x') if key in fields else [default] * num_dims
        return [int(value.partition('_')[0]) for value in values]

    rows = zip(
        *(read(key, default) for key, default in (('size', '1'), ('stride', '1'), ('pad', '0_0'))),
        *(read(key, '1') for key in ('lhs_dilate', 'rhs_dilate')),
        strict=True,
    )
    names = ('size', 'stride', 'pad', 'image_dilation', 'window_dilation')
    return [dict(zip(names, row, strict=True)) for row in rows]


def _count_taps(num_in, num_out, *, size, stride, pad, image_dilation, window_dilation):
    """The pairs of an output position and a tap along one dimension that meet an input pixel."""
    positions = np.arange(num_out)[:, None] * stride + np.arange(size) * window_dilation - pad
    is_inside = (
        (positions >= 0) & (positions < num_in * image_dilation) & (positions % image_dilation == 0)
    )
    return int(is_inside.sum())
