"""Converted weights as a checkpoint that evaluation, prediction and training start from."""

import dataclasses
import importlib.util
import pathlib
import sys
from typing import Any

from etils import epath
from ml_collections import ConfigDict

import pdl_jax
from pdl_jax.config import config_to_json, make_model_options
from pdl_jax.convert.conversion import Conversion, has_folded_norm
from pdl_jax.convert.source import Source, list_backbones
from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import without_things
from pdl_jax.data.readers import voc
from pdl_jax.data.records import open_split
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.training.initialize import describe_backbone
from pdl_jax.typing import PyTree

# The configurations beside the package, by dataset.
_CONFIGS = {'cityscapes': 'cityscapes.py', 'coco': 'coco.py', 'voc': 'voc_semantic.py'}
_ROOT = pathlib.Path(pdl_jax.__file__).resolve().parents[1]


def find_dataset(num_classes: int) -> str:
    """The name of the dataset whose networks have so many logits.

    Raises:
      ValueError: none has.
    """
    for name in _CONFIGS:
        if any(spec.num_classes == num_classes for spec in _list_specs(name)):
            return name
    raise ValueError(
        f'a head has {num_classes} classes, as none of {", ".join(_CONFIGS)} has: give --dataset=DIRECTORY, a dataset that '
        f'`python -m pdl_jax.data.prepare` wrote with the classes in the order of the logits, and --config'
    )


def make_spec(dataset: str, num_classes: int) -> catalog.DatasetSpec:
    """What the logits of a network mean.

    COCO's networks have 134 logits in DeepLab2, 0 for void, or 133 without it in PyTorch, things before stuff. Data for the
    latter are prepared with --spec=own.

    Args:
      dataset: 'cityscapes', 'coco', 'voc', or the directory of a prepared dataset.
      num_classes: logits of the network.

    Raises:
      FileNotFoundError: there is no such directory.
      ValueError: the dataset has another number of classes.
    """
    if dataset in _CONFIGS:
        specs = _list_specs(dataset)
    elif epath.Path(dataset).is_dir():
        splits = sorted(path.name for path in epath.Path(dataset).iterdir() if path.is_dir())
        specs = [open_split(dataset, split).spec for split in splits[:1]]
    else:
        raise FileNotFoundError(
            f'--dataset={dataset} is neither one of {", ".join(_CONFIGS)} nor the directory of a prepared dataset'
        )
    for spec in specs:
        if spec.num_classes == num_classes:
            return spec
    counts = ' or '.join(str(spec.num_classes) for spec in specs)
    raise ValueError(
        f'the semantic head has {num_classes} classes, --dataset={dataset} {counts or "none"}: choose its dataset'
    )


def load_config(path: str) -> ConfigDict:
    """Runs a configuration file.

    Raises:
      FileNotFoundError: there is none.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f'{path}: no such configuration; those of the project lie in configs/ of its checkout, others are given as '
            f'--config=FILE'
        )
    spec = importlib.util.spec_from_file_location(f'{file.stem}_config', file)
    module = importlib.util.module_from_spec(spec)
    # Configurations import configs.common.
    sys.path.insert(0, str(_ROOT))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(_ROOT))
    return module.get_config()


def load_test_config(dataset: str, source: Source) -> ConfigDict:
    """The project's configuration for a dataset, with how a source tests its networks there.

    Raises:
      FileNotFoundError: the package lies without its configurations.
      ValueError: there is none for this dataset.
    """
    if dataset not in _CONFIGS:
        raise ValueError(
            f'--dataset={dataset} needs --config=FILE, the configuration that the network was trained with'
        )
    config = load_config(str(_ROOT / 'configs' / _CONFIGS[dataset]))
    config.update_from_flattened_dict(source.config_fields.get(dataset, {}))
    return config


def is_partial(conversion: Conversion) -> bool:
    """Whether a file lacks a part of the network, so that training can start from it but nothing can be predicted."""
    return conversion.is_backbone_only or bool(conversion.account.missing)


def describe(
    conversion: Conversion,
    variables: PyTree,
    source: Source,
    *,
    file: str,
    config: ConfigDict | None = None,
    spec: catalog.DatasetSpec | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Args:
      conversion: of the file.
      variables: of `conversion.load`.
      source: of the file.
      file: its name.
      config: of a network that is not partial; its preset and number of classes are set.
      spec: of a network that is not partial.

    Returns:
      'origin': where the weights come from; where nothing is lacking also 'config' and 'dataset', enough to predict.
    """
    is_folded = has_folded_norm(variables)
    origin = {
        'source': source.name,
        'file': file,
        'preset': conversion.network.name,
        'is_partial': is_partial(conversion),
        'has_folded_norm': is_folded,
    }
    if is_partial(conversion):
        return {
            'origin': {**origin, 'backbone': describe_backbone(_find_training(conversion, source))}
        }
    config.model.preset = conversion.network.name
    config.data.num_classes = spec.num_classes
    # Training on would normalise by the statistics of a batch and undo the folded scale.
    config.model.is_backbone_norm_frozen = config.model.is_backbone_norm_frozen or is_folded
    options = make_model_options(config)
    spec = without_things(spec) if options.is_semantic else spec
    origin['backbone'] = describe_backbone(options)
    return {'config': config_to_json(config), 'dataset': spec.to_dict(), 'origin': origin}


def check_output(output: str) -> None:
    """Checks that a directory holds no checkpoints yet.

    Raises:
      FileExistsError: it does.
    """
    folder = epath.Path(output) / 'checkpoints'
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f'{folder} holds checkpoints already: choose another --output or delete it'
        )


def write_checkpoint(output: str, variables: PyTree, description: dict[str, Any]) -> None:
    """Writes step 0 of a workdir.

    Raises:
      OSError: it could not be written.
    """
    checkpointer = Checkpointer(output, keep=1)
    checkpointer.save(variables, step=0, input_position={}, description=description)
    checkpointer.close()


def _list_specs(dataset):
    if dataset == 'cityscapes':
        return [catalog.cityscapes()]
    if dataset == 'voc':
        return [voc.make_spec('panoptic')]
    with_void = catalog.coco()
    return [
        with_void,
        dataclasses.replace(with_void, first_class=0, ignore_label=255, label_divisor=1000),
    ]


def _find_training(conversion, source):
    """The network that a backbone was trained in, which need not be the one it is converted for."""
    options = conversion.network.options
    trained = [
        network.options
        for network in list_backbones(source)
        if network.options.backbone == options.backbone
    ]
    return (
        trained[0]
        if conversion.is_backbone_only and trained and options not in trained
        else options
    )
