"""Reads own data in the layout of Pascal VOC, as labelme2voc, CVAT and Datumaro write it.

JPEGImages holds the images, SegmentationClass a map of classes and SegmentationObject a map of
objects for each; labelmap.txt or class_names.txt lists the classes. The maps hold indices, or
colours: those of labelmap.txt for classes, any for objects. An object has the class of most of its
pixels; pixels of a thing class that belong to no object are void.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images, label_files
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    LoadedRecord,
    load_image,
    pair_files,
    translate_by_table,
)
from pdl_jax.data.class_lists import (
    NO_BACKGROUND,
    ClassList,
    get_colors,
    make_object_spec,
    read_class_list,
)
from pdl_jax.data.file_tree import RecordNames, list_stems, name_records
from pdl_jax.data.fingerprints import hash_content
from pdl_jax.data.objects import find_majorities, number_within_classes
from pdl_jax.data.text_files import read_names
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

_IMAGE_FOLDERS = ('JPEGImages', 'images', 'Images')
_CLASS_FOLDERS = ('SegmentationClass', 'SegmentationClassPNG')
_OBJECT_FOLDERS = ('SegmentationObject', 'SegmentationObjectPNG')
_CLASS_FILES = ('labelmap.txt', 'class_names.txt', 'classes.txt', 'labels.txt')
_REMEDY = 'give a folder with JPEGImages and SegmentationClass'
_NO_OBJECT = (
    '{} images have pixels of NAME, but none of its objects: void; if it has none, pass '
    '--stuff=NAME'
)
# VOC paints outlines and ambiguous pixels with the last index, whose colour is this.
_VOID_VALUE, _VOID_COLOR = 255, 224 + 256 * 224 + 65536 * 192


class _Item(NamedTuple):
    """Paths of an image, its map of classes and its map of objects, or ''; names of the record."""

    image_path: str
    image_id: str
    class_path: str
    object_path: str
    names: RecordNames


class _Layout(NamedTuple):
    """Folders and the meaning of values; see `read_split`."""

    images_dir: epath.Path
    classes_dir: epath.Path
    objects_dir: epath.Path
    index_of_color: Mapping[tuple[int, int, int], int]
    prefers_colors: bool
    table: np.ndarray
    source: str


def read_split(
    root: str | os.PathLike,
    split: str = '',
    *,
    classes_path: str | os.PathLike = '',
    stuff: str = '',
    void_id: int = _VOID_VALUE,
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      root: folder with JPEGImages, SegmentationClass and SegmentationObject. Without the last no
        class has objects.
      split: name of the list ImageSets/Segmentation/SPLIT.txt; without such a folder all images
        are read.
      classes_path: list of the classes; by default labelmap.txt or class_names.txt in `root`.
      stuff: names of classes without objects besides 'background', separated by commas.
      void_id: index of pixels without a class.

    Raises:
      FileNotFoundError: a folder, a list, an image or a map is missing.
      ValueError: the list of classes is malformed.
    """
    root = paths.make_path(root)
    path = paths.make_path(classes_path) if classes_path else _find_classes(root)
    class_list = read_class_list(path)
    objects_dir = _find_folder(root, _OBJECT_FOLDERS, is_needed=False)
    categories: Sequence[Any] = class_list.categories
    notes = []
    if objects_dir is None:
        categories = [{**c, 'isthing': 0} for c in categories if isinstance(c, Mapping)]
        notes.append(f'{root.name} has no SegmentationObject: its classes have no objects')
    spec = make_object_spec(
        categories, source=path.name, background=NO_BACKGROUND, stuff=stuff
    ).spec
    layout = _make_layout(root, objects_dir, spec, class_list, void_id, path.name)
    items, num_others = _list_items(root, layout, split, has_objects=objects_dir is not None)
    if objects_dir is not None:
        spec = catalog.make_room(spec, _count_most(items, objects_dir))
    options = [items, void_id, [list(pair) for pair in layout.index_of_color.items()]]
    return AnnotatedSplit(
        spec,
        items,
        functools.partial(_load, layout=layout, spec=spec),
        hash_content(options),
        num_images_without_annotation=num_others,
        notes=tuple(notes),
        list_files=functools.partial(_list_files, layout=layout),
    )


def _list_files(item: _Item, *, layout: _Layout) -> tuple[epath.Path, ...]:
    files = [layout.images_dir / item.image_path, layout.classes_dir / item.class_path]
    if item.object_path:
        files.append(layout.objects_dir / item.object_path)
    return tuple(files)


def _find_folder(root: epath.Path, names: Sequence[str], *, is_needed: bool) -> epath.Path | None:
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None and is_needed:
        raise FileNotFoundError(f'{os.fspath(root)} has no folder {" or ".join(names)}: {_REMEDY}')
    return found


def _find_classes(root: epath.Path) -> epath.Path:
    for name in _CLASS_FILES:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f'{os.fspath(root)} has none of {", ".join(_CLASS_FILES)}: pass --classes=FILE'
    )


def _make_layout(
    root: epath.Path,
    objects_dir: epath.Path | None,
    spec: catalog.DatasetSpec,
    class_list: ClassList,
    void_id: int,
    source: str,
) -> _Layout:
    images_dir = _find_folder(root, _IMAGE_FOLDERS, is_needed=True)
    classes_dir = _find_folder(root, _CLASS_FOLDERS, is_needed=True)
    assert images_dir is not None and classes_dir is not None
    if void_id in spec.class_of_category:
        raise ValueError(
            f'void_id (={void_id}) is the index of a class of {source}: choose another --void_id'
        )
    colors = get_colors(class_list.categories)
    if not colors:
        # Files of names come with maps in VOC's colours.
        colors = {_make_voc_color(i): i for i in spec.class_of_category if 0 <= i < _VOID_VALUE}
    colors.setdefault(_make_voc_color(_VOID_VALUE), void_id)
    highest = max(*spec.class_of_category, void_id)
    if not 0 <= void_id or highest > label_files.MAX_INDEX:
        raise ValueError(
            f'{source}: indices up to {highest} and void_id (={void_id}) must lie in 0 .. '
            f'{label_files.MAX_INDEX}, which maps of 16 bits hold'
        )
    table = np.full(highest + 1, -1, np.int32)
    table[void_id] = spec.ignore_label
    for index, semantic in spec.class_of_category.items():
        table[index] = semantic
    return _Layout(
        images_dir=images_dir,
        classes_dir=classes_dir,
        objects_dir=objects_dir or classes_dir,
        index_of_color=colors,
        prefers_colors=class_list.is_color_table,
        table=table,
        source=source,
    )


def _make_voc_color(index: int) -> tuple[int, int, int]:
    """Returns the colour of an index in VOC's palette: its bits by turns, the lowest in front."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def _list_items(
    root: epath.Path, layout: _Layout, split: str, *, has_objects: bool
) -> tuple[tuple[_Item, ...], int]:
    """Returns the items, and the number of images that no list names and no map belongs to."""
    image_paths = list_stems(layout.images_dir, images.IMAGE_SUFFIXES, remedy=_REMEDY)
    class_paths = list_stems(layout.classes_dir, label_files.SUFFIXES, remedy=_REMEDY)
    lists = root / 'ImageSets' / 'Segmentation'
    if split and lists.is_dir():
        names = _read_list(lists, split)
    else:
        # VOC's folder of images holds many that no map belongs to.
        names = [stem for stem in image_paths if stem in class_paths] or list(image_paths)
    pairs = pair_files(
        image_paths,
        class_paths,
        images_dir=layout.images_dir,
        labels_dir=layout.classes_dir,
        names=names,
    )
    object_paths = {stem: '' for stem in names}
    if has_objects:
        object_paths = list_stems(layout.objects_dir, label_files.SUFFIXES, remedy=_REMEDY)
        pair_files(
            image_paths,
            object_paths,
            images_dir=layout.images_dir,
            labels_dir=layout.objects_dir,
            names=names,
        )
    items = tuple(
        _Item(pair.image_path, pair.image_id, pair.label_path, object_paths[pair.image_id], n)
        for pair, n in zip(pairs, name_records([p.image_path for p in pairs]), strict=True)
    )
    is_listed = bool(split) and lists.is_dir()
    return items, 0 if is_listed else len(image_paths) - len(items)


def _read_list(lists: epath.Path, split: str) -> Sequence[str]:
    if (lists / f'{split}.txt').exists():
        return read_names(lists / f'{split}.txt', remedy=_REMEDY)
    found = sorted(path.name for path in lists.iterdir() if path.name.endswith('.txt'))
    if found == ['default.txt']:
        # CVAT's name for images of no split.
        return read_names(lists / found[0], remedy=_REMEDY)
    raise FileNotFoundError(
        f'{os.fspath(lists)} has no list {split}.txt, but {", ".join(found) or "none"}: choose one '
        f'by --split, or remove the folder ImageSets to read all images'
    )


def _count_most(items: Sequence[_Item], folder: epath.Path) -> int:
    """Returns the largest number of objects of an image; maps of 8 bits hold at most 254."""
    most = 0
    for item in items:
        data = read_outside_file(folder / item.object_path)
        if label_files.may_have_many_objects(data, name=item.object_path):
            most = max(most, len(label_files.decode_objects(data, name=item.object_path)[1]))
    return most


def _load(item: _Item, *, layout: _Layout, spec: catalog.DatasetSpec) -> LoadedRecord:
    name = f'{layout.classes_dir.name}/{item.class_path}'
    indices = label_files.decode_class_map(
        read_outside_file(layout.classes_dir / item.class_path),
        name=name,
        index_of_color=layout.index_of_color,
        prefers_colors=layout.prefers_colors,
    )
    remedy = f'list it in {layout.source}, or paint it with --void_id'
    classes = translate_by_table(indices, table=layout.table, name=name, remedy=remedy)
    image = load_image(
        layout.images_dir / item.image_path,
        size=classes.shape,
        name=item.image_path,
        label_name=name,
    )
    label = classes * spec.label_divisor
    remarks = {}
    if item.object_path:
        label, remarks = _add_objects(label, classes, item.object_path, layout, spec)
    return LoadedRecord(
        image=image,
        panoptic=label.astype(np.int32),
        image_id=item.image_id,
        file_name=item.names.file_name,
        annotation_file_name=item.names.annotation_file_name,
        remarks=remarks,
    )


def _add_objects(
    label: np.ndarray,
    classes: np.ndarray,
    object_path: str,
    layout: _Layout,
    spec: catalog.DatasetSpec,
) -> tuple[np.ndarray, dict[str, int]]:
    """Numbers the objects of thing classes in a label i32[H, W]; returns it and remarks."""
    name = f'{layout.objects_dir.name}/{object_path}'
    data = read_outside_file(layout.objects_dir / object_path)
    objects, numbers = label_files.decode_objects(data, name=name)
    if objects.shape != classes.shape:
        raise ValueError(
            f'{name} has (height, width) {objects.shape}, {layout.classes_dir.name}/'
            f'{object_path} has {classes.shape}: repair one of them'
        )
    is_thing = spec.label_format.thing_table()[classes]
    majorities = find_majorities(objects[is_thing], classes[is_thing])
    is_small = not label_files.may_have_many_objects(data, name=object_path)
    void = _VOID_VALUE if is_small else _VOID_COLOR
    class_of_object = {
        i: semantic for i, semantic in majorities.items() if i and numbers[i - 1] != void
    }
    labels = number_within_classes(class_of_object, spec)
    table = np.full(len(numbers) + 1, spec.label_format.void_label, np.int32)
    table[list(labels)] = list(labels.values())
    bare = set(np.unique(classes[is_thing]).tolist()) - set(class_of_object.values())
    names = [spec.class_names[semantic] for semantic in bare]
    remarks = {_NO_OBJECT.replace('NAME', name): 1 for name in names}
    return np.where(is_thing, table[objects], label), remarks
