"""Counts parameters, multiply-adds and activations of a network, part by part, without running it.

    python -m pdl_jax.models.summary --model=deeplab2/resnet50_os32 --num_classes=19 --size=1025x2049
    python -m pdl_jax.models.summary --config=configs/coco.py --json

Parameters are the trainable ones. Multiply-adds are those of all convolutions, on one image. Activation memory is what the
results of all convolutions and the full-resolution outputs take, for one image.
"""

import dataclasses
import json
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from pdl_jax.models.blocks import Conv
from pdl_jax.models.classifier import Classifier
from pdl_jax.models.deeplab import PanopticDeepLab
from pdl_jax.presets import make_options

_OUTPUTS = 'full-resolution outputs'


@dataclasses.dataclass
class Counts:
    """What one part of a network, or all of it, costs for one image.

    Attributes:
      parameters: number of trainable values.
      multiply_adds: of its convolutions.
      activation_bytes: of their results.
    """

    parameters: int = 0
    multiply_adds: int = 0
    activation_bytes: int = 0


def summarize(model: nn.Module, size: tuple[int, int], *, depth: int = 1) -> dict[str, Counts]:
    """Counts a network by tracing it.

    Args:
      model: maps f32[1, H, W, 3] to outputs; all its products are `blocks.Conv`.
      size: (height, width) of the input in pixels.
      depth: of the module path that makes a part.

    Returns:
      The counts by part, in the order of the forward pass.
    """
    parts = {}

    def find_part(path):
        return parts.setdefault('/'.join(path[:depth]), Counts())

    def count(call, arguments, keywords, context):
        result = call(*arguments, **keywords)
        if isinstance(context.module, Conv) and context.method_name == '__call__':
            x, module = arguments[0], context.module
            channels = 1 if module.is_depthwise else x.shape[-1]
            part = find_part(module.path)
            part.multiply_adds += result.size * module.kernel_size**2 * channels
            part.activation_bytes += result.size * result.dtype.itemsize
        return result

    def run(key, image):
        with nn.intercept_methods(count):
            outputs, variables = model.init_with_output(key, image)
        if isinstance(model, PanopticDeepLab):
            outputs = model.upsample(outputs, size)
            for value in outputs.values():
                find_part((_OUTPUTS,)).activation_bytes += value.size * value.dtype.itemsize
        return variables

    variables = jax.eval_shape(run, jax.random.key(0), jnp.zeros((1, *size, 3)))
    for path, value in jax.tree.leaves_with_path(variables['params']):
        find_part([key.key for key in path]).parameters += value.size
    return parts


def add_up(parts: dict[str, Counts]) -> Counts:
    """The counts of the whole network."""
    fields = [field.name for field in dataclasses.fields(Counts)]
    return Counts(*(sum(getattr(part, field) for part in parts.values()) for field in fields))


def make_preset_model(preset: str, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """The network of a preset, in float32, whose ASPP averages over the whole input."""
    options = make_options(preset)
    if options.decoder == 'classifier':
        return Classifier(num_classes, options)
    return PanopticDeepLab(num_classes, options, pool_crop=size)


def format_table(parts: dict[str, Counts]) -> str:
    """The counts as text."""
    rows = [*parts.items(), ('total', add_up(parts))]
    width = max(len(name) for name, _ in rows)
    lines = [f'{"":{width}} | {"parameters":>13} | {"multiply-adds":>17} | {"activations":>12}']
    for name, part in rows:
        lines.append(
            f'{name:{width}} | {part.parameters:13,} | {part.multiply_adds:17,} | {part.activation_bytes / 2**20:8.1f} MiB'
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


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text)
    if not match or not all(map(int, match.groups())):
        raise ValueError(f'--size={text} must be HEIGHTxWIDTH in pixels, for example 1025x2049')
    return int(match[1]), int(match[2])


def _make_from_config(config: ConfigDict, num_classes: int | None) -> tuple[nn.Module, int]:
    # Imported here: the configuration stands above the networks.
    from pdl_jax.config import make_model

    num_classes = num_classes or config.data.num_classes
    if not num_classes:
        raise ValueError('config.data.num_classes is 0 (that of the data): add --num_classes=N')
    return make_model(config, num_classes), num_classes


def main(argv: list[str]) -> None:
    """Runs the command with parsed flags."""
    values = flags.FLAGS
    try:
        if len(argv) > 1:
            raise ValueError(f'unexpected arguments {argv[1:]}: options start with --')
        if (values.config is None) == (values.model is None):
            raise ValueError('give either --config=FILE or --model=PRESET')
        if values.config is not None:
            model, num_classes = _make_from_config(values.config, values.num_classes)
            augment = values.config.augment
            default_size = f'{augment.crop_height_px}x{augment.crop_width_px}'
            size = _parse_size(values.size or default_size)
            name = values.config.model.preset
        else:
            name = values.model
            if not values.num_classes:
                raise ValueError('--model needs --num_classes=N')
            num_classes = values.num_classes
            is_classifier = make_options(name).decoder == 'classifier'
            size = _parse_size(values.size or ('224x224' if is_classifier else '1025x2049'))
            model = make_preset_model(name, num_classes, size)
        parts = summarize(model, size, depth=values.depth)
    except ValueError as error:
        sys.exit(f'error: {error}')
    if values.json:
        print(to_json(parts, name=name, num_classes=num_classes, size=size))
        return
    print(f'{name}, {num_classes} classes, {size[0]}x{size[1]} pixels')
    print(format_table(parts))


def _define_flags() -> None:
    config_flags.DEFINE_config_file(
        'config', None, 'A configuration; --config.field=value sets a field.'
    )
    flags.DEFINE_string('model', None, 'A preset, see pdl_jax/models/presets.py.')
    flags.DEFINE_integer('num_classes', None, 'Number of classes.', lower_bound=1)
    flags.DEFINE_string(
        'size',
        None,
        'HEIGHTxWIDTH of the input (default: the training crop; 1025x2049 for a preset).',
    )
    flags.DEFINE_integer('depth', 1, 'Levels of the module tree to tell apart.', lower_bound=1)
    flags.DEFINE_bool('json', False, 'Print JSON.')


if __name__ == '__main__':
    _define_flags()
    app.run(main)
