"""Converts published weights to a checkpoint that evaluation, prediction and training start from.

Whole networks become a checkpoint to predict and to evaluate with. Files that hold a part, such as
a backbone, become one that only training starts from. Every key of the file and every variable of
the network is accounted for: loaded, ignored and why, or missing.
"""

import argparse
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.config_file import load_config
from pdl_jax.commands.processes import announce

if TYPE_CHECKING:
    from pdl_jax.convert.contents import Contents
    from pdl_jax.convert.conversion import Conversion
    from pdl_jax.convert.source import Source
    from pdl_jax.data import catalog
    from pdl_jax.experiment import Experiment

SUMMARY = 'weights of other programs as a checkpoint'
EXAMPLES = """\
  pdl_jax convert --from=bowenc0221 --input=panoptic_deeplab_R50_os32_cityscapes.pth \\
      --output=runs/bowenc0221_r50
  pdl_jax predict --checkpoint=runs/bowenc0221_r50 --images='photos/*.jpg' --output=predictions"""

_SOURCES = (
    'bowenc0221',
    'convnext',
    'deeplab2',
    'deeplab_pytorch',
    'detectron2',
    'keras',
    'kmax_pytorch',
    'model_garden',
    'tensorflow',
    'timm',
    'torchvision',
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        '--from',
        required=True,
        choices=_SOURCES,
        dest='source',
        help='the program that published the weights',
    )
    parser.add_argument(
        '--input',
        required=True,
        help='a file of PyTorch, .safetensors, .pkl of detectron2, .npz, or the folder or the '
        'prefix (ckpt-1) of a TensorFlow checkpoint; `pdl_jax weights` lists published ones',
    )
    parser.add_argument('--output', required=True, help='directory of the checkpoint; or gs://')
    parser.add_argument(
        '--preset', default='', help='the network, if keys and shapes do not tell (output stride)'
    )
    parser.add_argument(
        '--config', default='', help="configuration (default: the project's for the dataset)"
    )
    parser.add_argument(
        '--dataset',
        default='',
        help='ade20k, cityscapes, coco, coco_ids, kitti_step, voc, the directory of prepared data, '
        "or a .json of categories (default: by the file's name or the number of classes, where "
        'these tell)',
    )
    parser.add_argument(
        '--weights',
        default='',
        choices=('model', 'ema'),
        help='which weights of a training checkpoint: those of the model, or their average over '
        'steps (default: of the model, where there are both)',
    )
    add_switch(parser, 'allow_unexpected', help='leave out keys that fit nowhere')
    add_switch(parser, 'allow_missing', help='leave out variables that the file does not have')


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    announce(f'converting {flags.input}')
    convert(
        flags.source,
        flags.input,
        flags.output,
        preset=flags.preset,
        config_file=flags.config,
        config_overrides=flags.config_overrides,
        dataset=flags.dataset,
        weights=flags.weights,
        allow_unexpected=flags.allow_unexpected,
        allow_missing=flags.allow_missing,
    )


def convert(
    source_name: str,
    file: str,
    output: str,
    *,
    preset: str = '',
    config_file: str = '',
    config_overrides: list[str] | None = None,
    dataset: str = '',
    weights: str = '',
    allow_unexpected: bool = False,
    allow_missing: bool = False,
) -> 'Conversion':
    """Converts a file; prints the account of it.

    Args:
      source_name: a key of `convert.sources.SOURCES`.
      file: see `convert.readers.read_file`.
      output: directory of the checkpoint, local or gs://.
      preset: which network it is; '' finds it by keys and shapes, or takes the configuration's.
      config_file: the configuration whose data, model and post-processing the checkpoint keeps; ''
        takes the project's for the dataset.
      config_overrides: see `config_file.load_config`.
      dataset: see `convert.classes.make_spec`; '' finds it where the file's name or the number of
        classes tells.
      weights: see `convert.readers.read_file`.
      allow_unexpected: leave out keys that fit nowhere.
      allow_missing: leave out variables that the file does not have.

    Raises:
      ImportError: the framework that reads the file is not installed.
      OSError: a file is missing or cannot be written.
      ValueError: the file is damaged or does not fit.
    """
    from pdl_jax.convert import classes, write
    from pdl_jax.convert.conversion import check_account, choose_network, load
    from pdl_jax.convert.readers import read_file
    from pdl_jax.convert.rules import format_account
    from pdl_jax.convert.source import list_config_fields
    from pdl_jax.convert.sources import SOURCES
    from pdl_jax.storage.checkpoint import check_output

    source = SOURCES[source_name]
    check_output(output)
    contents = read_file(file, weights=weights)
    for note in contents.notes:
        print(f'{file}: {note}')
    fields: dict[str, Any] = {}
    if config_file:
        config: Any = load_config(config_file, config_overrides)
        preset = preset or config.model.preset
        options = _make_experiment(config, {'model.preset': preset}).system
        conversion = choose_network(contents, source, preset, write.find_network(options))
    elif preset:
        conversion = choose_network(contents, source, preset)
    else:
        conversion = _guess_network(contents, source, file)
    print(format_account(conversion.account))
    what = 'a backbone' if conversion.is_backbone_only else f'{conversion.num_classes} classes'
    print(f'{file} is {conversion.network.name}, {what}')
    check_account(conversion, allow_unexpected=allow_unexpected, allow_missing=allow_missing)
    variables = load(conversion, contents)
    experiment, spec = None, None
    is_partial = write.is_partial(conversion)
    is_reordered = source.has_things_first and conversion.has_class_queries
    if is_reordered or not is_partial:
        dataset, spec = _find_classes(conversion, dataset, file)
    if is_reordered and spec:
        variables = classes.order_classes(variables, spec.label_format)
    if spec and not is_partial:
        if not config_file:
            config_file = classes.find_config(dataset, conversion.network)
            fields = list_config_fields(source, conversion.network, dataset)
        fields |= write.list_conversion_fields(conversion, variables, spec)
        experiment = _make_experiment(load_config(config_file, config_overrides), fields)
    description = write.describe(
        conversion, variables, source, file=file, experiment=experiment, spec=spec
    )
    write.write_checkpoint(output, variables, description)
    print(f'wrote {output}')
    return conversion


def _guess_network(contents: 'Contents', source: 'Source', file: str) -> 'Conversion':
    """Finds the network of a file; names the other sources that it fits."""
    from pdl_jax.convert.conversion import find_networks, guess_network
    from pdl_jax.convert.sources import SOURCES

    try:
        return guess_network(contents, source)
    except ValueError as error:
        others = (other for other in SOURCES.values() if other is not source)
        fitting = [other.name for other in others if find_networks(contents, other)[0]]
        if not fitting or find_networks(contents, source)[0]:
            raise
        raise ValueError(
            f'{file} is no network of --from={source.name}, but one of --from={fitting[0]}'
        ) from error


def _find_classes(
    conversion: 'Conversion', dataset: str, file: str
) -> tuple[str, 'catalog.DatasetSpec']:
    """Finds the data set that a network was trained on, and says how.

    Returns:
      Its name or directory, and the description of its classes.
    """
    from pdl_jax.convert import classes

    num_classes, counts_void = conversion.num_classes, conversion.network.counts_void
    make_spec = functools.partial(
        classes.make_spec, num_classes=num_classes, counts_void=counts_void
    )
    if dataset:
        return dataset, make_spec(dataset)
    dataset, evidence = classes.find_dataset(num_classes, file)
    if dataset:
        print(f'{file}: takes the classes for those of {dataset}, {evidence}')
        return dataset, make_spec(dataset)
    if not conversion.network.is_semantic:
        raise ValueError(classes.explain_unknown(num_classes, file))
    names = ' or '.join(f'--dataset={name}' for name in classes.list_datasets(num_classes))
    print(
        f"{file}: nothing says what its {num_classes} classes are, so they are called 'class 0' to "
        f"'class {num_classes - 1}'; {f'{names} or ' if names else ''}--dataset=FILE.json, the "
        f'list of its categories, names them'
    )
    return classes.NEUTRAL, classes.make_neutral_spec(num_classes)


def _make_experiment(config: Any, fields: Mapping[str, Any]) -> 'Experiment':
    from pdl_jax.experiment import Experiment

    config.update_from_flattened_dict(fields)
    return Experiment.from_config(config)
