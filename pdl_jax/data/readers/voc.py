"""Reads Pascal VOC 2012 as it is published, and the annotations of SBD that extend it.

SegmentationClass/*.png hold the classes 0 .. 20, of which 0 is background, and 255 (void) along
outlines and on ambiguous objects. The semantic task uses them unchanged.

The panoptic task has the 20 classes of things, and background as stuff. Background, things and void
come from SegmentationClass; SegmentationObject/*.png number the objects. An object has the class of
most of its pixels, and pixels of a thing class that belong to no object are void.

Semantic networks are commonly trained on split 'trainaug': VOC's train, and the images of the
Semantic Boundaries Dataset (its lists train and val) that are in neither train nor val of VOC,
10,582 images with the official lists. VOC's annotation wins where an image has both. SBD's
benchmark_RELEASE/dataset/{img,cls,inst} hold the images and, as MATLAB files, the classes and the
objects; its objects have no void outlines. Without SBD the split is read from the widespread folder
of PNGs SegmentationClassAug and the list trainaug.txt, which have no objects.
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    ImagePair,
    LoadedRecord,
    check_choice,
    list_files,
    list_files_with_objects,
    list_pair_files,
    load_image,
    make_semantic_translation,
    make_split,
    pair_files,
    translate_by_table,
    without_things,
)
from pdl_jax.data.categories import read_table
from pdl_jax.data.fingerprints import fingerprint_files
from pdl_jax.data.objects import find_majorities, number_within_classes
from pdl_jax.data.readers import matlab
from pdl_jax.data.text_files import read_names
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

SPLITS = ('train', 'val', 'trainval', 'trainaug')
TASKS = ('panoptic', 'semantic')
BACKGROUND, VOID = 0, 255

_MISSING_VOC = 'unpack VOCtrainval_11-May-2012.tar and give the folder VOCdevkit/VOC2012'
_MISSING_AUG = 'pass --sbd=benchmark_RELEASE/dataset, which needs no such files'
_MISSING_SBD = 'unpack benchmark.tgz and pass the folder benchmark_RELEASE/dataset'
_WRONG_VALUE = 'use the PNGs of VOCtrainval_11-May-2012.tar, which hold 0 .. 20 and 255'
_WRONG_OBJECT = 'use the PNGs of VOCtrainval_11-May-2012.tar, which hold 0 .. 255'
_WRONG_MAT = 'use the files of benchmark.tgz, in which SBD is published'


def make_spec(task: str) -> catalog.DatasetSpec:
    """Returns background and the 20 classes of the challenge, by their values in the PNGs.

    Args:
      task: 'panoptic' or 'semantic'.
    """
    background = read_table(_BACKGROUND, is_thing=False)
    things = read_table(_THINGS, is_thing=True)
    spec = catalog.DatasetSpec(
        'voc', background + things, first_class=0, ignore_label=VOID, label_divisor=1000
    )
    return spec if task == 'panoptic' else without_things(spec)


def read_split(
    root: str | os.PathLike,
    split: str,
    *,
    task: str = 'semantic',
    sbd_root: str | os.PathLike = '',
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      root: the folder VOCdevkit/VOC2012.
      split: 'train' (1,464 images), 'val' (1,449), 'trainval' or 'trainaug'.
      task: 'semantic' or 'panoptic'.
      sbd_root: the folder benchmark_RELEASE/dataset of SBD, for split 'trainaug'.

    Raises:
      ValueError: the split or task does not exist, or a list is malformed.
      FileNotFoundError: a folder, a list, an image or a label is missing.
    """
    root = paths.make_path(root)
    check_choice('split', split, SPLITS, dataset='Pascal VOC')
    check_choice('task', task, TASKS, dataset='Pascal VOC')
    if split != 'trainaug':
        if sbd_root:
            raise ValueError(f'--sbd extends split trainaug, not {split!r}: leave it out')
        return _read_voc(root, _read_list(root, split), task)
    if sbd_root:
        train = _read_list(root, 'train')
        voc = _read_voc(root, train, task)
        known = {*train, *_read_list(root, 'val')}
        return _join(voc, _read_sbd(paths.make_path(sbd_root), known, task))
    if task == 'panoptic':
        raise ValueError(
            'split trainaug needs SBD for its objects: pass --sbd=benchmark_RELEASE/dataset, or '
            '--task=semantic'
        )
    names = _read_list(root, split, remedy=_MISSING_AUG)
    return _read_voc(root, names, task, labels_folder='SegmentationClassAug', remedy=_MISSING_AUG)


def _read_list(root: epath.Path, name: str, *, remedy: str = _MISSING_VOC) -> tuple[str, ...]:
    return read_names(root / 'ImageSets' / 'Segmentation' / f'{name}.txt', remedy=remedy)


def _read_voc(
    root: epath.Path,
    names: Sequence[str],
    task: str,
    *,
    labels_folder: str = 'SegmentationClass',
    remedy: str = _MISSING_VOC,
) -> AnnotatedSplit:
    images_dir, labels_dir = root / 'JPEGImages', root / labels_folder
    image_paths = list_files(images_dir, ('.jpg',), remedy=_MISSING_VOC)
    label_paths = list_files(labels_dir, ('.png',), remedy=remedy)
    pairs = pair_files(
        image_paths, label_paths, images_dir=images_dir, labels_dir=labels_dir, names=names
    )
    spec = make_spec(task)
    classes = make_split(
        spec,
        pairs,
        make_semantic_translation(spec, _get_class_of_value(spec), remedy=_WRONG_VALUE),
        images_dir=images_dir,
        labels_dir=labels_dir,
    )
    if task == 'semantic':
        return classes

    objects_dir = root / 'SegmentationObject'
    object_paths = list_files(objects_dir, ('.png',), remedy=_MISSING_VOC)
    pair_files(
        image_paths, object_paths, images_dir=images_dir, labels_dir=objects_dir, names=names
    )
    items = tuple((pair, object_paths[pair.image_id]) for pair in pairs)
    load = functools.partial(
        _load_voc_objects, load_classes=classes.load, spec=spec, objects_dir=objects_dir
    )
    fingerprint = fingerprint_files(
        objects_dir, [path for _, path in items], options=classes.fingerprint
    )
    files = functools.partial(
        list_files_with_objects,
        images_dir=images_dir,
        labels_dir=labels_dir,
        objects_dir=objects_dir,
    )
    return AnnotatedSplit(spec, items, load, fingerprint, list_files=files)


def _load_voc_objects(
    item: tuple[ImagePair, str],
    *,
    load_classes: Callable[[ImagePair], LoadedRecord],
    spec: catalog.DatasetSpec,
    objects_dir: epath.Path,
) -> LoadedRecord:
    pair, object_path = item
    record = load_classes(pair)
    name = f'SegmentationObject/{object_path}'
    objects = images.decode_index_map(read_outside_file(objects_dir / object_path), name=name)
    if objects.shape != record.panoptic.shape:
        raise ValueError(
            f'{name} has (height, width) {objects.shape}, SegmentationClass/{pair.label_path} has '
            f'{record.panoptic.shape}: {_WRONG_OBJECT}'
        )
    classes = record.panoptic // spec.label_divisor
    is_thing = spec.label_format.thing_table()[classes]
    table = np.full(VOID + 1, spec.label_format.void_label, np.int32)
    class_of_object = find_majorities(objects[is_thing], classes[is_thing])
    class_of_object = {n: c for n, c in class_of_object.items() if BACKGROUND < n < VOID}
    for number, label in number_within_classes(class_of_object, spec).items():
        table[number] = label
    labels = translate_by_table(objects, table=table, name=name, remedy=_WRONG_OBJECT)
    return dataclasses.replace(record, panoptic=np.where(is_thing, labels, record.panoptic))


def _read_sbd(root: epath.Path, known: Collection[str], task: str) -> AnnotatedSplit:
    """Reads the images of SBD whose names are not in `known`."""
    listed: dict[str, None] = {}
    for name in ('train', 'val'):
        listed |= dict.fromkeys(read_names(root / f'{name}.txt', remedy=_MISSING_SBD))
    images_dir, labels_dir = root / 'img', root / ('inst' if task == 'panoptic' else 'cls')
    pairs = pair_files(
        list_files(images_dir, ('.jpg',), remedy=_MISSING_SBD),
        list_files(labels_dir, ('.mat',), remedy=_MISSING_SBD),
        images_dir=images_dir,
        labels_dir=labels_dir,
        names=[name for name in listed if name not in known],
        annotation_suffix='.png',
    )
    spec = make_spec(task)
    decode = functools.partial(_decode_sbd_objects, spec=spec)
    if task == 'semantic':
        decode = functools.partial(_decode_sbd_classes, spec=spec)
    load = functools.partial(_load_sbd, decode=decode, images_dir=images_dir, labels_dir=labels_dir)
    fingerprint = fingerprint_files(
        labels_dir, [pair.label_path for pair in pairs], options=[list(pair) for pair in pairs]
    )
    files = functools.partial(list_pair_files, images_dir=images_dir, labels_dir=labels_dir)
    return AnnotatedSplit(spec, pairs, load, fingerprint, list_files=files)


def _load_sbd(
    pair: ImagePair,
    *,
    decode: Callable[..., np.ndarray],
    images_dir: epath.Path,
    labels_dir: epath.Path,
) -> LoadedRecord:
    name = f'{labels_dir.name}/{pair.label_path}'
    panoptic = decode(read_outside_file(labels_dir / pair.label_path), name=name)
    image = load_image(
        images_dir / pair.image_path, size=panoptic.shape, name=pair.image_path, label_name=name
    )
    return LoadedRecord(
        image=image,
        panoptic=panoptic,
        image_id=pair.image_id,
        file_name=pair.image_path,
        annotation_file_name=pair.annotation_file_name,
    )


def _decode_sbd_classes(data: bytes, *, name: str, spec: catalog.DatasetSpec) -> np.ndarray:
    classes = _read_struct(data, 'GTcls', 'Segmentation', name)
    _check_map(classes, name)
    translate = make_semantic_translation(spec, _get_class_of_value(spec), remedy=_WRONG_MAT)
    return translate(classes, name=name)


def _decode_sbd_objects(data: bytes, *, name: str, spec: catalog.DatasetSpec) -> np.ndarray:
    objects = _read_struct(data, 'GTinst', 'Segmentation', name)
    _check_map(objects, name)
    categories = _read_struct(data, 'GTinst', 'Categories', name).ravel().tolist()
    wrong = [c for c in categories if c not in spec.label_format.thing_classes]
    if wrong or len(categories) >= VOID:
        raise ValueError(
            f'{name}: GTinst.Categories holds {len(categories)} classes of objects, '
            f'{wrong[:3]} of them none of 1 .. 20: {_WRONG_MAT}'
        )
    table = np.full(VOID + 1, -1, np.int32)
    table[BACKGROUND] = BACKGROUND
    table[VOID] = spec.label_format.void_label
    for number, label in number_within_classes(dict(enumerate(categories, start=1)), spec).items():
        table[number] = label
    return translate_by_table(objects, table=table, name=name, remedy=_WRONG_MAT)


def _read_struct(data: bytes, variable: str, field: str, name: str) -> np.ndarray:
    """Returns a field of a struct in a MATLAB file, an i32 array of integers 0 .. 255."""
    try:
        array = matlab.read_field(data, variable, field)
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f'{name} is damaged, or no MATLAB file with {variable}.{field}: {error}: {_WRONG_MAT}'
        ) from error
    # MATLAB's numbers are floats by default, even counts, so the dtype is not checked.
    if not np.isin(array, np.arange(VOID + 1)).all():
        raise ValueError(
            f'{name}: {variable}.{field} must hold integers 0 .. 255, got others of '
            f'type {array.dtype}: {_WRONG_MAT}'
        )
    return array.astype(np.int32)


def _check_map(values: np.ndarray, name: str) -> None:
    if values.ndim != 2 or not 0 < values.size <= images.MAX_PIXELS:
        raise ValueError(
            f'{name}: Segmentation must be [height, width] of at most {images.MAX_PIXELS} pixels, '
            f'got {list(values.shape)}: {_WRONG_MAT}'
        )


def _get_class_of_value(spec: catalog.DatasetSpec) -> dict[int, int]:
    return {**spec.class_of_category, VOID: spec.ignore_label}


def _join(first: AnnotatedSplit, second: AnnotatedSplit) -> AnnotatedSplit:
    """Returns the images of two splits with the same spec."""
    items = [(0, item) for item in first.items] + [(1, item) for item in second.items]
    load = functools.partial(_call_of_part, functions=(first.load, second.load))
    list_files_of = [split.list_files for split in (first, second) if split.list_files]
    files = functools.partial(_call_of_part, functions=list_files_of)
    fingerprint = f'{first.fingerprint}{second.fingerprint}'
    return AnnotatedSplit(first.spec, tuple(items), load, fingerprint, list_files=files)


def _call_of_part(item: tuple[int, Any], *, functions: Sequence[Callable[[Any], Any]]) -> Any:
    index, own_item = item
    return functions[index](own_item)


# Entries are `id name color`; the colours are those of the official palette.
_BACKGROUND = '0 background 000000'
_THINGS = """
1 aeroplane 800000; 2 bicycle 008000; 3 bird 808000; 4 boat 000080; 5 bottle 800080;
6 bus 008080; 7 car 808080; 8 cat 400000; 9 chair c00000; 10 cow 408000; 11 diningtable c08000;
12 dog 400080; 13 horse c00080; 14 motorbike 408080; 15 person c08080; 16 pottedplant 004000;
17 sheep 804000; 18 sofa 00c000; 19 train 80c000; 20 tvmonitor 004080
"""
