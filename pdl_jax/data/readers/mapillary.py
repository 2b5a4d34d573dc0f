"""Reads Mapillary Vistas as it is published, with the annotations of version 1.2 or 2.0.

Packages of version 2.0 hold both, in {training,validation}/v1.2 and v2.0; older packages hold only
1.2, directly in {training,validation}. The panoptic task reads the official annotation file and its
PNGs, in which void has no segment. The semantic task reads labels/*.png, whose values are positions
in the list of the configuration file, and treats labels that are not evaluated as void.
"""

import dataclasses
import os

from etils import epath

from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    check_choice,
    list_files,
    make_semantic_translation,
    make_split,
    pair_files,
)
from pdl_jax.data.json_fields import get_field
from pdl_jax.data.readers import panoptic_folder
from pdl_jax.data.text_files import read_json
from pdl_jax.storage import paths

SPLITS = {'train': 'training', 'val': 'validation'}
TASKS = ('panoptic', 'semantic')
_NAME = 'mapillary_vistas'
_PANOPTIC_FILES = {'1.2': 'panoptic_2018.json', '2.0': 'panoptic_2020.json'}


def read_split(
    root: str | os.PathLike,
    split: str,
    *,
    task: str = 'panoptic',
    version: str = '1.2',
    check_area: bool = True,
) -> AnnotatedSplit:
    """Reads a split: 65 classes in version 1.2, about twice as many in version 2.0.

    Args:
      root: folder with training, validation and config*.json.
      split: 'train' or 'val'.
      task: 'panoptic' or 'semantic'.
      version: version of the annotations, '1.2' or '2.0'.
      check_area: see `panoptic_folder.load_record`; the semantic task has no areas.

    Raises:
      ValueError: the split, task or version does not exist, or a file is malformed.
      FileNotFoundError: a folder, an image or a label is missing.
    """
    root = paths.make_path(root)
    check_choice('split', split, tuple(SPLITS), dataset=_NAME)
    check_choice('task', task, TASKS, dataset=_NAME)
    check_choice('version', version, tuple(_PANOPTIC_FILES), dataset=_NAME)
    folder = root / SPLITS[split]
    annotations_dir, config_path = folder / f'v{version}', root / f'config_v{version}.json'
    if version == '1.2' and not annotations_dir.is_dir():
        annotations_dir, config_path = folder, root / 'config.json'

    images_dir = folder / 'images'
    if task == 'panoptic':
        panoptic_dir = annotations_dir / 'panoptic'
        annotated = panoptic_folder.read_split(
            images_dir,
            panoptic_dir,
            panoptic_dir / _PANOPTIC_FILES[version],
            spec='own',
            check_area=check_area,
        )
        spec = dataclasses.replace(annotated.spec, name=_NAME)
        return dataclasses.replace(annotated, spec=spec)
    labels_dir = annotations_dir / 'labels'
    remedy = 'give the folder of the unpacked data set, which holds training and validation'
    spec, class_of_index = _read_config(config_path, remedy=remedy)
    translate = make_semantic_translation(
        spec,
        class_of_index,
        remedy=f'{config_path.name} lists {len(class_of_index)} labels; check --version',
    )
    pairs = pair_files(
        list_files(images_dir, ('.jpg',), remedy=remedy),
        list_files(labels_dir, ('.png',), remedy=remedy),
        images_dir=images_dir,
        labels_dir=labels_dir,
    )
    return make_split(
        spec,
        pairs,
        translate,
        images_dir=images_dir,
        labels_dir=labels_dir,
        options=sorted(class_of_index.items()),
    )


def _read_config(path: epath.Path, *, remedy: str) -> tuple[catalog.DatasetSpec, dict[int, int]]:
    """Returns the spec of the semantic task, and PNG value -> semantic class or void."""
    labels = get_field(read_json(path, remedy=remedy), 'labels', list, path.name)
    categories = []
    for index, label in enumerate(labels):
        where = f'labels[{index}] of {path.name}'
        name = get_field(label, 'readable', str, where)
        color = get_field(label, 'color', list, where)
        if get_field(label, 'evaluate', bool, where):
            categories.append({'id': index, 'name': name, 'isthing': 0, 'color': color})
    spec = catalog.from_categories(_NAME, categories, source=path.name)
    return spec, {i: spec.class_of_category.get(i, spec.ignore_label) for i in range(len(labels))}
