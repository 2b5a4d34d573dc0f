"""Counts parameters, multiply-adds and activations of a network, part by part, without running it.

Parameters are the trainable ones. Multiply-adds are those of all convolutions and of axial
attention's products, on one image.
Activation memory is what the results of all convolutions and the full-resolution outputs take, for
one image.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.models.axial_attention import AxialAttention
from pdl_jax.models.blocks import Conv
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.typing import Array, PyTree

_OUTPUTS = 'full-resolution outputs'


@dataclasses.dataclass
class Counts:
    """The costs of one part of a network, or of all of it, for one image.

    Attributes:
      parameters: number of trainable values.
      multiply_adds: number of multiply-adds of its convolutions and axial attention.
      activation_bytes: size of the results of its convolutions.
    """

    parameters: int = 0
    multiply_adds: int = 0
    activation_bytes: int = 0


def summarize(
    model: nn.Module, size: tuple[int, int], *, depth: int = 1, num_channels: int = 3
) -> dict[str, Counts]:
    """Counts a network by tracing it.

    Args:
      model: maps f32[1, H, W, C] to outputs; all its products are `blocks.Conv` or
        `AxialAttention`.
      size: (height, width) of the input in pixels.
      depth: number of names of a module path that make a part.
      num_channels: channels of the input.

    Returns:
      The counts by part, in the order of the forward pass.
    """
    parts = {}

    def find_part(path: Sequence[str]) -> Counts:
        return parts.setdefault('/'.join(path[:depth]), Counts())

    def count(
        call: Callable[..., Any],
        arguments: Any,
        keywords: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        result = call(*arguments, **keywords)
        module = context.module
        if context.method_name != '__call__':
            return result
        if isinstance(module, AxialAttention):
            part = find_part(module.path)
            part.multiply_adds += module.count_multiply_adds(arguments[0].shape)
        if isinstance(module, Conv):
            x = arguments[0]
            channels = 1 if module.is_depthwise else x.shape[-1] // module.groups
            part = find_part(module.path)
            part.multiply_adds += result.size * module.kernel_size**2 * channels
            part.activation_bytes += result.size * result.dtype.itemsize
        return result

    def run(key: Array, image: Array) -> PyTree:
        with nn.intercept_methods(count):
            outputs, variables = model.init_with_output(key, image)
        if isinstance(model, DeepLab):
            outputs = model.upsample(outputs, size)
            for value in outputs.values():
                find_part((_OUTPUTS,)).activation_bytes += value.size * value.dtype.itemsize
        return variables

    variables = eval_shape(run, jax.random.key(0), jnp.zeros((1, *size, num_channels)))
    for path, value in jax.tree.leaves_with_path(variables['params']):
        find_part([key.key for key in path]).parameters += value.size
    return parts


def add_up(parts: dict[str, Counts]) -> Counts:
    """The counts of the whole network."""
    fields = [field.name for field in dataclasses.fields(Counts)]
    return Counts(*(sum(getattr(part, field) for part in parts.values()) for field in fields))


def format_table(parts: dict[str, Counts]) -> str:
    """The counts as text."""
    rows = [*parts.items(), ('total', add_up(parts))]
    width = max(len(name) for name, _ in rows)
    lines = [f'{"":{width}} | {"parameters":>13} | {"multiply-adds":>17} | {"activations":>12}']
    for name, part in rows:
        lines.append(
            f'{name:{width}} | {part.parameters:13,} | {part.multiply_adds:17,} | '
            f'{part.activation_bytes / 2**20:8.1f} MiB'
        )
    return '\n'.join(lines)


def to_json(parts: dict[str, Counts], *, name: str, num_classes: int, size: tuple[int, int]) -> str:
    """The counts as one JSON object: of the whole network, and of its 'parts'."""
    return json.dumps(
        {
            'model': name,
            'num_classes': num_classes,
            'size': list(size),
            **dataclasses.asdict(add_up(parts)),
            'parts': {key: dataclasses.asdict(part) for key, part in parts.items()},
        },
        indent=2,
    )
