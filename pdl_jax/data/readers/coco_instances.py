"""Reads COCO's instance format: a folder of images and one JSON with polygons and run lengths.

CVAT, Roboflow, Label Studio, Datumaro and many other tools write it. What can be derived may be
missing: areas, iscrowd, sizes of images. Names of images may have folders, of this machine or of
another. A folder of PNGs with the classes of stuff may accompany the JSON.
"""

import functools
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images, label_files
from pdl_jax.data.annotated_split import AnnotatedSplit, translate_by_table
from pdl_jax.data.class_lists import (
    DEFAULT_BACKGROUND,
    ObjectSpec,
    make_object_spec,
    read_class_list,
)
from pdl_jax.data.file_names import FolderFiles, find_files
from pdl_jax.data.file_tree import list_tree, remove_suffix
from pdl_jax.data.instance_annotations import AnnotatedImage, InstanceAnnotations, parse_instances
from pdl_jax.data.notices import Notices
from pdl_jax.data.object_split import ObjectImage, make_object_split
from pdl_jax.data.objects import AnnotatedObject, count_most
from pdl_jax.storage import paths
from pdl_jax.storage.json_files import parse_json
from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file

_MISSING_SEMANTIC = (
    'give the folder of PNGs with the category ids of stuff, or leave --semantic out'
)


def read_split(
    images_dir: str | os.PathLike,
    json_path: str | os.PathLike,
    *,
    semantic_dir: str | os.PathLike = '',
    classes_path: str | os.PathLike = '',
    background: str = DEFAULT_BACKGROUND,
    stuff: str = '',
    void_id: int = 255,
    uses_iscrowd: bool = True,
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      images_dir: folder of images, which may lie in sub-folders.
      json_path: the annotation file.
      semantic_dir: folder of PNGs, one per image and with its name, whose values are category ids;
        0 (where it is no category) is background. Objects of the JSON lie on top.
      classes_path: list of the classes, by their names in the JSON, which gives their order.
      background: class of pixels without an object, or 'void'.
      stuff: names of classes that are stuff, separated by commas; their regions are no objects.
      void_id: value of void pixels in the PNGs of `semantic_dir`.
      uses_iscrowd: whether annotations with iscrowd 1 are crowds; else they are single objects.

    Raises:
      FileNotFoundError: a folder, the JSON, an image or a PNG is missing.
      ValueError: the JSON is malformed; the message names the place.
    """
    images_dir, json_path = paths.make_path(images_dir), paths.make_path(json_path)
    notices = Notices()
    data = read_outside_file(json_path, max_bytes=MAX_JSON_BYTES)
    annotations = parse_instances(
        parse_json(data, source=os.fspath(json_path), allow_nan=True),
        source=json_path.name,
        uses_iscrowd=uses_iscrowd,
        notices=notices,
    )
    categories = annotations.categories
    if classes_path:
        path = paths.make_path(classes_path)
        categories = _order_categories(categories, path, json_path.name)
    make_spec = functools.partial(
        make_object_spec, categories, source=json_path.name, background=background, stuff=stuff
    )
    class_of_id = make_spec().spec.class_of_category
    object_images = _locate(annotations, class_of_id, images_dir, json_path.name, notices)
    object_spec = make_spec(num_instances=count_most([item.objects for item in object_images]))
    load_base = semantic_path = None
    if semantic_dir:
        semantic_path = paths.make_path(semantic_dir)
        object_images = _find_base_maps(semantic_path, object_images, notices)
        table = _make_base_table(object_spec, {c['id'] for c in categories}, void_id)
        load_base = functools.partial(_load_base, folder=semantic_path, table=table)
    return make_object_split(
        object_spec,
        object_images,
        images_dir=images_dir,
        options=[hashlib.sha256(data).hexdigest(), void_id, uses_iscrowd],
        load_base=load_base,
        base_dir=semantic_path,
        notes=notices.to_lines(),
    )


def _order_categories(
    categories: Sequence[Mapping[str, Any]], path: epath.Path, source: str
) -> tuple[Mapping[str, Any], ...]:
    """Returns the categories of the JSON in the order of a list, which may have further ones."""
    listed = read_class_list(path).categories
    things = [{'isthing': 1, **c} if isinstance(c, Mapping) else c for c in listed]
    spec = catalog.from_categories('own', things, source=path.name)
    known = {c['name']: c for c in categories}
    missing = [name for name in known if name not in spec.class_names]
    if missing:
        raise ValueError(
            f'{path.name} lacks the category {missing[0]!r} of {source}: add it to the list'
        )
    taken = {c['id'] for c in categories}
    free = (i for i in range(len(listed) + len(known) + 1) if i not in taken)
    ordered = []
    for entry, name in zip(listed, spec.class_names, strict=True):
        own = known.get(name)
        extra = {key: entry[key] for key in ('isthing', 'color') if key in entry}
        ordered.append({**own, **extra} if own else {**entry, 'name': name, 'id': next(free)})
    return tuple(ordered)


def _locate(
    annotations: InstanceAnnotations,
    class_of_id: Mapping[int, int],
    images_dir: epath.Path,
    source: str,
    notices: Notices,
) -> list[ObjectImage]:
    """Finds the files of the images."""
    names = [image.file_name for image in annotations.images]
    found = find_files(names, images_dir, images.IMAGE_SUFFIXES, source, notices)
    others = set(list_tree(images_dir, images.IMAGE_SUFFIXES, remedy='')) - set(found)
    if others:
        text = f'files of {images_dir.name} are not listed in {source}: left out'
        notices.add(text, min(others), len(others))
    return [
        _make_object_image(image, path, class_of_id, source)
        for image, path in zip(annotations.images, found, strict=True)
    ]


def _make_object_image(
    image: AnnotatedImage, path: str, class_of_id: Mapping[int, int], source: str
) -> ObjectImage:
    objects = tuple(
        AnnotatedObject(class_of_id[a.category_id], a.regions, a.is_crowd, a.where)
        for a in image.annotations
    )
    return ObjectImage(image.id, path, image.size, objects, source)


def _find_base_maps(
    folder: epath.Path, object_images: Sequence[ObjectImage], notices: Notices
) -> list[ObjectImage]:
    """Returns the images with the paths of the label maps that lie below their objects."""
    files = FolderFiles(folder, ('.png',), notices)
    found = []
    for item in object_images:
        path = files.find(remove_suffix(item.image_path) + '.png', item.image_path)
        if path is None:
            raise FileNotFoundError(
                f'{os.fspath(folder)} has no PNG for image {item.image_path}: {_MISSING_SEMANTIC}'
            )
        found.append(item._replace(base_path=path))
    return found


def _make_base_table(object_spec: ObjectSpec, ids: Collection[int], void_id: int) -> np.ndarray:
    """Returns i32[N], value of a label map -> panoptic label, -1 where it is no category."""
    spec = object_spec.spec
    highest, limit = max(ids), label_files.MAX_INDEX
    if not 0 <= void_id <= limit or highest > limit or void_id in ids:
        raise ValueError(
            f'category ids up to {highest} and void_id (={void_id}) must differ and lie in 0 .. '
            f'{limit}, which PNGs of classes hold: choose another --void_id'
        )
    is_thing = spec.label_format.thing_table()
    table = np.full(max(highest, void_id) + 1, -1, np.int32)
    table[0], table[void_id] = object_spec.base, spec.label_format.void_label
    for category_id in ids:
        semantic = spec.class_of_category[category_id]
        # Pixels of a thing class that belong to no object of the JSON are void.
        label = semantic * spec.label_divisor
        table[category_id] = spec.label_format.void_label if is_thing[semantic] else label
    return table


def _load_base(
    item: ObjectImage, size: tuple[int, int], *, folder: epath.Path, table: np.ndarray
) -> np.ndarray:
    name = item.base_path
    data = read_outside_file(folder / name)
    values = label_files.decode_class_map(data, name=name, index_of_color={})
    if values.shape != size:
        raise ValueError(
            f'{name} has {values.shape[0]}x{values.shape[1]} pixels (height x width), '
            f'{item.image_path} has {size[0]}x{size[1]}: repair one of them'
        )
    remedy = 'paint category ids of the JSON, or --void_id'
    return translate_by_table(values, table=table, name=name, remedy=remedy)
