"""Counts parameters, multiply-adds and activations of a network by part, without running it."""

import argparse
from typing import TYPE_CHECKING

from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.config_file import add_config_flag
from pdl_jax.commands.sizes import parse_size

if TYPE_CHECKING:
    import flax.linen as nn

SUMMARY = 'parameters, multiply-adds and activations of a network'
# The input of a preset by its system.
_SIZES = {
    'classification': '224x224',
    'deeperlab': '641x641',
    'kmax_deeplab': '1281x1281',
    'max_deeplab': '641x641',
}
EXAMPLES = """\
  pdl_jax summary --model=deeplab2/resnet50_os32 --num_classes=19 --size=1025x2049
  pdl_jax summary --config=coco --json"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser, is_required=False)
    parser.add_argument('--model', metavar='PRESET', help='a name of pdl_jax/presets')
    parser.add_argument('--num_classes', type=int, help='number of logits')
    parser.add_argument(
        '--size', help='HEIGHTxWIDTH of the input (default: the training crop; 1025x2049)'
    )
    parser.add_argument('--depth', type=int, default=1, help='levels of the module tree to list')
    add_switch(parser, 'json', help='print JSON')


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if bool(flags.config) == bool(flags.model):
        raise ValueError('give either --config=FILE or --model=PRESET')
    if flags.depth < 1 or (flags.num_classes is not None and flags.num_classes < 1):
        raise ValueError('--depth and --num_classes must be positive')
    from pdl_jax.models.summary import format_table, summarize, to_json

    num_channels = 3
    if flags.config:
        name, num_classes, size, model, num_channels = _find_config(flags)
    else:
        name, num_classes, size, model = _find_preset(flags)
    parts = summarize(model, size, depth=flags.depth, num_channels=num_channels)
    if flags.json:
        print(to_json(parts, name=name, num_classes=num_classes, size=size))
        return
    print(f'{name}, {num_classes} classes, {size[0]}x{size[1]} pixels')
    print(format_table(parts))


def _find_preset(flags: argparse.Namespace) -> tuple[str, int, tuple[int, int], 'nn.Module']:
    from pdl_jax.models.any_network import make_module
    from pdl_jax.presets import find_preset, make_any_network

    system = find_preset(flags.model).system
    options = make_any_network(flags.model)
    if not flags.num_classes:
        raise ValueError('--model needs --num_classes=N')
    # The ASPP averages over the whole input.
    size = parse_size('size', flags.size or _SIZES.get(system, '1025x2049'))
    return flags.model, flags.num_classes, size, make_module(flags.num_classes, options, size)


def _find_config(flags: argparse.Namespace) -> tuple[str, int, tuple[int, int], 'nn.Module', int]:
    from pdl_jax.commands.config_file import load_config
    from pdl_jax.experiment import Experiment
    from pdl_jax.typing import LabelFormat

    experiment = Experiment.from_config(load_config(flags.config, flags.config_overrides))
    num_classes = flags.num_classes or experiment.data.num_classes
    if not num_classes:
        raise ValueError('config.data.num_classes is 0 (that of the data): add --num_classes=N')
    height, width = experiment.augment.crop_size
    size = parse_size('size', flags.size or f'{height}x{width}')
    # Any void label and any things will do: the network depends on the number of classes only.
    system = experiment.system.make_system(LabelFormat(num_classes, (), num_classes, 256))
    if system.network is None:
        raise ValueError(f'{type(system).__name__} is no network of convolutions to be counted')
    num_channels = experiment.data.num_channels
    return experiment.preset, num_classes, size, system.network, num_channels
