"""Reads LabelMe: a folder of JSON files, one per image, beside the images or with them inside.

Polygons, rectangles, circles and masks are objects; shapes of one label with the same group_id are
parts of one object. Points and lines enclose nothing and are left out. The label `__ignore__` means
void, `_background_` the background.
"""

import base64
import binascii
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import images, label_files
from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.class_lists import (
    DEFAULT_BACKGROUND,
    LABELME_VOID,
    ObjectSpec,
    make_object_spec,
    read_class_list,
)
from pdl_jax.data.file_names import FolderFiles
from pdl_jax.data.file_tree import list_tree, remove_suffix
from pdl_jax.data.json_fields import get_field, get_integer, has_value
from pdl_jax.data.notices import Notices
from pdl_jax.data.object_split import ObjectImage, make_object_split
from pdl_jax.data.objects import AnnotatedObject, count_most
from pdl_jax.data.regions import Bitmap, Patch, Polygon, Region, parse_polygon
from pdl_jax.data.text_files import read_json
from pdl_jax.storage import paths
from pdl_jax.storage.json_files import describe_value

_REMEDY = 'give the folder of LabelMe files'
# Shapes that enclose no area.
_LINES = ('point', 'points', 'line', 'linestrip')
_MAX_LABEL = 200
_MIN_CIRCLE_POINTS, _MAX_CIRCLE_POINTS = 16, 4096


class _PackedMask(NamedTuple):
    """A shape of the type mask: a PNG, and the place of its upper left corner."""

    top: int
    left: int
    data: bytes

    def draw(self, size: tuple[int, int]) -> Patch:
        """See `Region.draw`."""
        pixels = label_files.decode_mask(self.data, name='mask')
        return Bitmap(self.top, self.left, pixels).draw(size)


class _Shape(NamedTuple):
    """A shape: its label, its group or None, its pixels, and its place in the file."""

    label: str
    group: int | str | None
    region: Region
    where: str


class _File(NamedTuple):
    """A LabelMe file.

    Attributes:
      json_path, image_path: paths relative to the folders of files and of images; no image path
        where the image is inside the file.
      size: (height, width) that the file states, or None.
      shapes: the shapes that enclose an area.
    """

    json_path: str
    image_path: str | None
    size: tuple[int, int] | None
    shapes: tuple[_Shape, ...]


def read_split(
    root: str | os.PathLike,
    *,
    images_dir: str | os.PathLike = '',
    classes_path: str | os.PathLike = '',
    background: str = DEFAULT_BACKGROUND,
    stuff: str = '',
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      root: folder of JSON files, which may lie in sub-folders.
      images_dir: folder of images; by default they lie below `root`.
      classes_path: list of the classes; by default all labels in alphabetical order.
      background: class of pixels without an object, or 'void'.
      stuff: names of classes that are stuff, separated by commas; their regions are no objects.

    Raises:
      FileNotFoundError: a folder, an image or the list is missing.
      ValueError: a file is malformed, or has a label that the list lacks.
    """
    root = paths.make_path(root)
    images_dir = paths.make_path(images_dir) if images_dir else root
    notices = Notices()
    files = _read_files(root, FolderFiles(images_dir, images.IMAGE_SUFFIXES, notices), notices)
    labels = {shape.label for file in files for shape in file.shapes} - {LABELME_VOID}
    if classes_path:
        path = paths.make_path(classes_path)
        categories, source = read_class_list(path).categories, path.name
    else:
        categories = [{'id': i, 'name': name} for i, name in enumerate(sorted(labels), start=1)]
        source = f'the labels of {root.name}'
        if not labels:
            raise ValueError(
                f'{os.fspath(root)}: no file has a shape, so there is no class: outline objects, '
                f'or list the classes with --classes'
            )
    make_spec = functools.partial(
        make_object_spec, categories, source=source, background=background, stuff=stuff
    )
    object_spec = make_spec()
    missing = sorted(labels - set(object_spec.spec.class_names))
    if missing:
        where = next(s.where for f in files for s in f.shapes if s.label == missing[0])
        raise ValueError(f'{where}: label {missing[0]!r} is not in {source}: add it to the list')
    object_images = [_join_shapes(file, object_spec) for file in files]
    object_spec = make_spec(num_instances=count_most([item.objects for item in object_images]))
    return make_object_split(
        object_spec,
        object_images,
        images_dir=images_dir,
        labels_dir=root,
        read_embedded=functools.partial(_read_embedded, root=root),
        notes=notices.to_lines(),
        num_images_without_annotation=_count_others(files, images_dir),
    )


def _read_files(root: epath.Path, image_files: FolderFiles, notices: Notices) -> list[_File]:
    json_paths = list_tree(root, ('.json',), remedy=_REMEDY)
    files = []
    for json_path in json_paths:
        content = read_json(root / json_path, remedy=_REMEDY)
        if not isinstance(content, Mapping) or not isinstance(content.get('shapes'), list):
            notices.add('JSON files have no list "shapes", so are not of LabelMe', json_path)
            continue
        files.append(_parse_file(content, json_path, image_files, notices))
    if not files:
        raise ValueError(f'no JSON file of {os.fspath(root)} has a list "shapes": {_REMEDY}')
    place: dict[str, str] = {}
    for file in files:
        if file.image_path is None:
            continue
        if file.image_path in place:
            raise ValueError(
                f'{place[file.image_path]} and {file.json_path} both annotate {file.image_path}: '
                f'keep one of them'
            )
        place[file.image_path] = file.json_path
    return files


def _count_others(files: Sequence[_File], images_dir: epath.Path) -> int:
    """Returns the number of images without a file."""
    taken = {file.image_path for file in files}
    if taken == {None}:
        return 0
    listing = list_tree(images_dir, images.IMAGE_SUFFIXES, remedy='give the folder of images')
    return len(set(listing) - taken)


def _parse_file(
    content: Mapping[str, Any], json_path: str, image_files: FolderFiles, notices: Notices
) -> _File:
    image_path = _find_image(content, json_path, image_files)
    size = None
    if has_value(content, 'imageHeight', json_path) and has_value(content, 'imageWidth', json_path):
        limits = {'low': 1, 'high': images.MAX_PIXELS, 'notices': notices}
        height = get_integer(content, 'imageHeight', json_path, **limits)
        size = height, get_integer(content, 'imageWidth', json_path, **limits)
    shapes = []
    for i, values in enumerate(content['shapes']):
        where = f'shapes[{i}] of {json_path}'
        label = get_field(values, 'label', str, where).strip()
        if not label or len(label) > _MAX_LABEL or any('\ud800' <= c <= '\udfff' for c in label):
            raise ValueError(
                f'{where}: label must be a text of 1 to {_MAX_LABEL} letters, got '
                f'{describe_value(label)}'
            )
        kind = values.get('shape_type') or 'polygon'
        if kind in _LINES:
            notices.add('shapes are points or lines, which enclose no area: left out', where)
            continue
        group = values.get('group_id')
        if group is not None and not isinstance(group, int | str):
            raise ValueError(
                f'{where}: group_id must be an integer or null, got {describe_value(group)}'
            )
        region = _parse_region(values, kind, where)
        if region is None:
            notices.add('outlines have fewer than three points: left out', where)
            continue
        shapes.append(_Shape(label, group, region, where))
    return _File(json_path, image_path, size, tuple(shapes))


def _find_image(content: Mapping[str, Any], json_path: str, image_files: FolderFiles) -> str | None:
    """Returns the path of the image, or None where the image is inside the file."""
    stated = content.get('imagePath')
    if isinstance(stated, str) and stated:
        # The path is relative to the file, and may lead over the folder above.
        parts = f'{json_path.rpartition("/")[0]}/{stated}'.replace('\\', '/').split('/')
        name = '/'.join(part for part in parts if part != '..')
        found = image_files.find(name, f'imagePath of {json_path}')
        if found is not None:
            return found
    found = image_files.find(remove_suffix(json_path) + '.jpg', json_path)
    if found is None and not isinstance(content.get('imageData'), str):
        raise FileNotFoundError(
            f'{json_path}: its image, imagePath {describe_value(stated)}, is not in the folder of '
            f'images, and it has no imageData: complete the folder, or name it with --images'
        )
    return found


def _parse_region(values: Mapping[str, Any], kind: Any, where: str) -> Region | None:
    """Returns the region of a shape, or None for an outline without area."""
    points = get_field(values, 'points', list, where)
    if kind == 'polygon':
        return parse_polygon(points, where) if len(points) > 2 else None
    if kind == 'mask':
        return _parse_mask(values, points, where)
    if kind == 'rectangle' and len(points) == 4:
        return parse_polygon(points, where)
    if kind not in ('rectangle', 'circle'):
        raise ValueError(
            f'{where}: shape_type {describe_value(kind)} is unknown: use polygon, rectangle, '
            f'circle or mask'
        )
    if len(points) != 2:
        raise ValueError(f'{where}: a {kind} needs two points, got {describe_value(points)}')
    # The third point only completes what a polygon must have.
    (x0, y0), (x1, y1) = parse_polygon([*points, points[0]], where).points[:2].tolist()
    if kind == 'rectangle':
        return Polygon(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))
    radius = math.hypot(x1 - x0, y1 - y0)
    number = min(_MAX_CIRCLE_POINTS, max(_MIN_CIRCLE_POINTS, math.ceil(4 * radius)))
    angles = np.arange(number) * (2 * math.pi / number)
    return Polygon(np.stack([x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)], axis=1))


def _parse_mask(values: Mapping[str, Any], points: list[Any], where: str) -> _PackedMask:
    """Reads a shape of the type mask: a PNG in base64, and the corners of its place."""
    data = _decode_base64(get_field(values, 'mask', str, where), f'mask of {where}')
    if not points:
        raise ValueError(f'{where}: a mask needs the point of its upper left corner')
    left, top = parse_polygon([points[0]] * 3, where).points[0].round().astype(int).tolist()
    return _PackedMask(top, left, data)


def _decode_base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'{where} is no base64: {error}') from error


def _join_shapes(file: _File, object_spec: ObjectSpec) -> ObjectImage:
    """Makes the objects of a file: one per group of shapes."""
    spec = object_spec.spec
    class_of_name = {name: spec.first_class + i for i, name in enumerate(spec.class_names)}
    class_of_name[LABELME_VOID] = spec.ignore_label
    groups: dict[Any, list[_Shape]] = {}
    for i, shape in enumerate(file.shapes):
        key = (None, i) if shape.group is None else (shape.label, shape.group)
        groups.setdefault(key, []).append(shape)
    objects = tuple(
        AnnotatedObject(
            semantic=class_of_name[shapes[0].label],
            regions=tuple(shape.region for shape in shapes),
            is_crowd=False,
            where=shapes[0].where,
        )
        for shapes in groups.values()
    )
    path = file.image_path
    return ObjectImage(
        image_id=remove_suffix(path or file.json_path),
        image_path=path or file.json_path,
        size=file.size,
        objects=objects,
        source=file.json_path,
        label_paths=(file.json_path,),
        is_embedded=path is None,
    )


def _read_embedded(item: ObjectImage, *, root: epath.Path) -> bytes:
    """Returns the image inside a LabelMe file."""
    content = read_json(root / item.image_path, remedy=_REMEDY)
    return _decode_base64(
        get_field(content, 'imageData', str, item.image_path), f'imageData of {item.image_path}'
    )
