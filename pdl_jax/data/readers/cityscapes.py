"""Reads Cityscapes as it is published: leftImg8bit with gtFine or gtCoarse, sorted by city.

The panoptic task reads the 16-bit *_instanceIds.png, with the same result as the COCO panoptic
format of csCreatePanopticImgs: values from 1000 on are label id * 1000 + n, one object each; the
bare label id of a thing is a group of objects, a crowd. Labels that the benchmark ignores are void.
"""

import functools
import os

import numpy as np

from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    check_choice,
    list_files,
    make_semantic_translation,
    make_split,
    pair_files,
    translate_by_table,
    without_things,
)
from pdl_jax.storage import paths

SPLITS = ('train', 'val', 'train_extra')
TASKS = ('panoptic', 'semantic')
# Label ids 0 .. 33 of cityscapesscripts/helpers/labels.py occur in PNGs.
NUM_LABEL_IDS = 34
# Divisor of the official files; our label_divisor is another constant with the same value.
_INSTANCE_BASE = 1000

_WRONG_VALUE = 'use the PNGs of the official packages, or create them with cityscapesscripts'


def read_split(root: str | os.PathLike, split: str, *, task: str = 'panoptic') -> AnnotatedSplit:
    """Reads a split with the 19 classes of the benchmark.

    Args:
      root: folder with leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; gtCoarse for train_extra.
      split: 'train', 'val' or 'train_extra', which is coarse and semantic only.
      task: 'panoptic', or 'semantic' from *_labelIds.png.

    Raises:
      ValueError: the split or task does not exist.
      FileNotFoundError: a folder, an image or a label is missing.
    """
    root = paths.make_path(root)
    if split == 'test':
        raise ValueError(
            "split 'test' of Cityscapes has no labels (its PNGs are dummies, void all over) and is "
            "scored by the benchmark's server only: prepare train or val"
        )
    check_choice('split', split, SPLITS, dataset='Cityscapes')
    check_choice('task', task, TASKS, dataset='Cityscapes')
    kind = 'gtFine'
    if split == 'train_extra':
        kind = 'gtCoarse'
        if task == 'panoptic':
            raise ValueError(
                "split 'train_extra' of Cityscapes has coarse labels, which outline few objects "
                'singly: pass --task=semantic'
            )
    images_dir, labels_dir = root / 'leftImg8bit' / split, root / kind / split
    remedy = 'unpack the leftImg8bit and gt packages of Cityscapes into one folder and give that'
    image_paths = list_files(images_dir, ('_leftImg8bit.png',), remedy=remedy, is_nested=True)

    spec = catalog.cityscapes()
    if task == 'panoptic':
        label_suffix, annotation_suffix = f'_{kind}_instanceIds.png', f'_{kind}_panoptic.png'
        translate = functools.partial(_translate_instance_ids, spec=spec)
    else:
        label_suffix = annotation_suffix = f'_{kind}_labelIds.png'
        spec = without_things(spec)
        class_of_id = {
            i: spec.class_of_category.get(i, spec.ignore_label) for i in range(NUM_LABEL_IDS)
        }
        translate = make_semantic_translation(spec, class_of_id, remedy=_WRONG_VALUE)
    label_paths = list_files(labels_dir, (label_suffix,), remedy=remedy, is_nested=True)
    pairs = pair_files(
        image_paths,
        label_paths,
        images_dir=images_dir,
        labels_dir=labels_dir,
        annotation_suffix=annotation_suffix,
    )
    return make_split(spec, pairs, translate, images_dir=images_dir, labels_dir=labels_dir)


def _translate_instance_ids(ids: np.ndarray, *, name: str, spec: catalog.DatasetSpec) -> np.ndarray:
    """Translates official instance ids i32[H, W] to the panoptic label i32[H, W]."""
    present = np.flatnonzero(np.bincount(ids.ravel()))
    table = np.full(present[-1] + 1, -1, np.int32)
    counts: dict[int, int] = {}
    for value in present:
        label_id = value if value < _INSTANCE_BASE else value // _INSTANCE_BASE
        category_class = spec.class_of_category.get(int(label_id))
        if category_class is None:
            if label_id < NUM_LABEL_IDS:
                table[value] = spec.label_format.void_label
            continue
        instance = 0
        if value >= _INSTANCE_BASE and spec.category_of_class[category_class].is_thing:
            instance = counts[category_class] = counts.get(category_class, 0) + 1
        if instance >= spec.label_divisor:
            raise ValueError(
                f'{name} holds more than {spec.label_divisor - 1} instances of '
                f'{spec.class_names[category_class]!r}: {_WRONG_VALUE}'
            )
        table[value] = category_class * spec.label_divisor + instance
    return translate_by_table(ids, table=table, name=name, remedy=_WRONG_VALUE)
