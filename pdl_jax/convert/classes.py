"""The classes that the logits of a network stand for, and the configuration for them.

A file does not say them: they are given, or the file's name or the number of logits is evidence.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from pdl_jax.convert.networks import Network
from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import without_things
from pdl_jax.data.readers import ade20k, voc
from pdl_jax.data.records import open_split
from pdl_jax.data.text_files import read_json
from pdl_jax.typing import LabelFormat, PyTree

# In the place of a data set: classes whose names nobody knows.
NEUTRAL = 'own'
# Data sets by name, and the configurations of the package for them.
_CONFIGS = {
    'ade20k': 'ade20k',
    'cityscapes': 'cityscapes',
    'coco': 'coco',
    'coco_ids': 'coco_model_garden',
    'kitti_step': 'cityscapes',
    'voc': 'voc_semantic',
}
_KMAX_CONFIGS = {
    'ade20k': 'ade20k_kmax',
    'cityscapes': 'cityscapes_kmax',
    'coco': 'coco_kmax',
}
# Parts of the names of published files and of their folders. The last ones are those of detectron2
# and of torchvision, whose files for COCO's pictures have VOC's classes.
_EVIDENCE = {
    'cityscapes': re.compile(r'cityscapes|model_final_(bd324a|380d9c|23d03a|0dff1b|a8a355)'),
    'kitti_step': re.compile(r'kitti'),
    'voc': re.compile(r'voc|pascal|^(deeplabv3|fcn|lraspp)_\w+-[0-9a-f]{8}'),
}
# Numbers of logits that no other data set is known to have.
_TELLING = {133: 'coco', 134: 'coco', 150: 'ade20k', 151: 'ade20k', 201: 'coco_ids'}
# The layers of class logits of queries.
_CLASS_LOGITS = 'class_logits'
_KITTI_STEP_THINGS = ('person', 'car')


def find_dataset(num_classes: int, file: str) -> tuple[str, str]:
    """Finds the data set that a network was trained on.

    Args:
      num_classes: number of its logits.
      file: path of its file.

    Returns:
      (name, evidence); ('', '') if there is no evidence, or for several.
    """
    if num_classes in _TELLING:
        return _TELLING[num_classes], f'by their number, {num_classes}'
    parts = [part.lower() for part in epath.Path(file).parts[-2:]]
    found = [
        name
        for name in list_datasets(num_classes)
        if name in _EVIDENCE and any(map(_EVIDENCE[name].search, parts))
    ]
    return (found[0], "by the file's name") if len(found) == 1 else ('', '')


def list_datasets(num_classes: int) -> list[str]:
    """Lists the names of the data sets with so many classes."""
    return [
        name
        for name in _CONFIGS
        if any(spec.num_classes == num_classes for spec in _list_specs(name))
    ]


def explain_unknown(num_classes: int, file: str) -> str:
    """Words what to do about a network whose classes nothing says."""
    names = list_datasets(num_classes)
    alike = f', as {" and ".join(names)} have, but nothing says that they are these' if names else (
        f', as none of {", ".join(_CONFIGS)} has'
    )  # fmt: skip
    flags = ''.join(f'--dataset={name}, ' for name in names)
    return (
        f'{file}: a head has {num_classes} classes{alike}: give {flags}--dataset=DIRECTORY, a '
        f'dataset that `pdl_jax prepare` wrote with the classes in the order of the logits, or '
        f'--dataset=FILE.json, their list [{{"id": 0, "name": "road", "isthing": 0}}, ...], the '
        f'last two with --config'
    )


def make_neutral_spec(num_classes: int) -> catalog.DatasetSpec:
    """Makes the description of stuff classes whose names nobody knows."""
    names = [{'id': i, 'name': f'class {i}', 'isthing': 0} for i in range(num_classes)]
    return catalog.from_categories(NEUTRAL, names)


def make_spec(dataset: str, num_classes: int, *, counts_void: bool = True) -> catalog.DatasetSpec:
    """Finds the description of a network's classes, in the order of its logits.

    DeepLab2's networks for COCO have 134 logits, the first for void; those of PyTorch programs have
    133, without void and with things before stuff; those of Model Garden 201, one per category id.
    Data for them are prepared with --spec=own and --spec=coco_ids.

    Args:
      dataset: 'ade20k', 'cityscapes', 'coco', 'coco_ids', 'kitti_step', 'voc', the directory of a
        prepared dataset, or a JSON file with the list of categories.
      num_classes: number of classes of the network.
      counts_void: whether they hold void, if the dataset counts it as a class.

    Raises:
      FileNotFoundError: there is no such directory or file.
      ValueError: the dataset has a different number of classes, or the list is malformed.
    """
    if dataset in _CONFIGS:
        specs = _list_specs(dataset)
    elif epath.Path(dataset).is_dir():
        splits = sorted(path.name for path in epath.Path(dataset).iterdir() if path.is_dir())
        specs = [open_split(dataset, split).spec for split in splits[:1]]
    elif dataset.endswith('.json'):
        content: Any = read_json(epath.Path(dataset), remedy='see --dataset')
        content = content.get('categories') if isinstance(content, Mapping) else content
        specs = [catalog.from_categories(NEUTRAL, content, source=dataset)]
    else:
        raise FileNotFoundError(
            f'--dataset={dataset} is neither one of {", ".join(_CONFIGS)} nor the directory of a '
            f'prepared dataset nor a .json of categories'
        )

    def count(spec: catalog.DatasetSpec) -> int:
        return spec.num_classes if counts_void else len(spec.label_format.valid_classes)

    for spec in specs:
        if count(spec) == num_classes:
            return spec
    counts = ' or '.join(dict.fromkeys(str(count(spec)) for spec in specs))
    raise ValueError(
        f'the network has {num_classes} classes, --dataset={dataset} {counts or "none"}: '
        f'choose the dataset that it was trained on'
    )


def order_classes(variables: PyTree, label_format: LabelFormat) -> PyTree:
    """Reorders the class logits of queries from things before stuff to the order of the classes.

    Args:
      variables: those of a mask transformer, whose logits end with that of void.
      label_format: the classes.
    """
    classes = label_format.valid_classes
    things = set(label_format.thing_classes)
    # False sorts before true.
    stored = sorted(range(len(classes)), key=lambda i: classes[i] not in things)
    order = [*np.argsort(stored), len(classes)]
    leaves: Any = flatten_dict(variables)
    return unflatten_dict(
        {
            path: value[..., order] if path[-2] == _CLASS_LOGITS else value
            for path, value in leaves.items()
        }
    )


def find_config(dataset: str, network: Network) -> str:
    """Names the project's configuration for a dataset.

    Args:
      dataset: see `make_spec`.
      network: the network that the configuration is to train.

    Raises:
      ValueError: there is none.
    """
    if dataset == NEUTRAL:
        # The least that a semantic network needs.
        return _CONFIGS['voc']
    configs = _CONFIGS if network.counts_void else _KMAX_CONFIGS
    if dataset not in configs:
        raise ValueError(
            f'--dataset={dataset} needs --config=FILE, the configuration that the network was '
            f'trained with'
        )
    return configs[dataset]


def _list_specs(dataset: str) -> list[catalog.DatasetSpec]:
    if dataset == 'ade20k':
        return [ade20k.make_spec('panoptic'), ade20k.make_spec('semantic')]
    if dataset == 'cityscapes':
        return [catalog.cityscapes()]
    if dataset == 'kitti_step':
        return [_make_kitti_step()]
    if dataset == 'coco_ids':
        return [catalog.coco_ids()]
    if dataset == 'voc':
        return [voc.make_spec('panoptic')]
    with_void = catalog.coco()
    return [
        with_void,
        dataclasses.replace(with_void, first_class=0, ignore_label=255, label_divisor=1000),
    ]


def _make_kitti_step() -> catalog.DatasetSpec:
    """Makes the spec of KITTI-STEP: the classes of Cityscapes, two of which are things."""
    stuff = without_things(catalog.cityscapes())
    categories: Any = (
        dataclasses.replace(c, is_thing=c.name in _KITTI_STEP_THINGS) for c in stuff.categories
    )
    return dataclasses.replace(stuff, name='kitti_step', categories=tuple(categories))
