"""The annotation file of COCO's instance format: images, categories, objects with outlines.

Files are not trusted. What a writer left out and can be derived is derived, and counted in
`Notices`.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pdl_jax.data import images
from pdl_jax.data.json_fields import (
    get_field,
    get_flag,
    get_integer,
    has_value,
    refuse_repeated,
)
from pdl_jax.data.notices import Notices
from pdl_jax.data.regions import Region, parse_polygon, parse_run_lengths
from pdl_jax.data.segments_info import parse_image_id
from pdl_jax.storage.json_files import describe_value

_MAX_ID = 2**31 - 1
# Tools that mark every brush stroke as a crowd are likelier than so many real crowds.
_MANY_CROWDS = 0.2
_NO_PARENT = ('', 'none', None)


class Annotation(NamedTuple):
    """An object: its category, its pixels, whether it is a crowd, and its place in the file."""

    category_id: int
    regions: tuple[Region, ...]
    is_crowd: bool
    where: str


class AnnotatedImage(NamedTuple):
    """An image of the file.

    Attributes:
      id: its id, of the same type in the whole file.
      file_name: its name as the file gives it.
      size: (height, width) in pixels, or None where the file does not state both.
      annotations: its objects.
      where: place in the file, for error messages.
    """

    id: int | str
    file_name: str
    size: tuple[int, int] | None
    annotations: tuple[Annotation, ...]
    where: str


@dataclasses.dataclass(frozen=True)
class InstanceAnnotations:
    """Content of an annotation file.

    Attributes:
      categories: objects with id, name and perhaps more, in the order of the ids, so that splits
        agree.
      images: the images in the order of the file.
    """

    categories: tuple[Mapping[str, Any], ...]
    images: tuple[AnnotatedImage, ...]


def parse_instances(
    content: Any, *, source: str, uses_iscrowd: bool, notices: Notices
) -> InstanceAnnotations:
    """Validates the content of an annotation file.

    Args:
      content: the parsed JSON; NaN is allowed where no value is needed.
      source: name of the file, for error messages.
      uses_iscrowd: whether annotations with iscrowd 1 are crowds; else they are single objects.
      notices: collection of remarks about what was derived or left out.

    Raises:
      ValueError: the content is malformed or another format; the message names the field.
    """
    _refuse_other_formats(content, source)
    categories = _parse_categories(content, source, notices)
    ids = {category['id'] for category in categories}
    groups: dict[str, list[Annotation]] = collections.defaultdict(list)
    values = get_field(content, 'annotations', list, source)
    num_crowds = 0
    for i, entry in enumerate(values):
        where = f'annotations[{i}] of {source}'
        image_id = parse_image_id(entry, 'image_id', where, notices)
        annotation = _parse_annotation(entry, where, ids, notices)
        num_crowds += annotation.is_crowd
        annotation = annotation._replace(is_crowd=annotation.is_crowd and uses_iscrowd)
        groups[str(image_id)].append(annotation)
    if num_crowds and uses_iscrowd:
        text = 'annotations are crowds (iscrowd 1), whose objects training leaves out'
        if num_crowds > _MANY_CROWDS * len(values):
            text += (
                '; CVAT and others mark every brush mask so: pass --ignore_iscrowd if each is one '
                'object'
            )
        notices.add(text, source, num_crowds)
    categories = _leave_out_parent(categories, groups, source, notices)
    found = _parse_images(content, groups, source, notices)
    return InstanceAnnotations(categories, found)


def _refuse_other_formats(content: Any, source: str) -> None:
    if isinstance(content, list):
        raise ValueError(
            f'{source} is a bare list, such as the results of a detector: give the annotation file '
            f'with images, annotations and categories'
        )
    annotations = content.get('annotations') if isinstance(content, Mapping) else None
    if isinstance(annotations, list) and annotations and isinstance(annotations[0], Mapping):
        if 'segments_info' in annotations[0]:
            raise ValueError(
                f'{source} has segments_info and so is in the COCO panoptic format: pass '
                f'--format=coco_panoptic with its folder of PNGs as --panoptic'
            )


def _parse_categories(content: Any, source: str, notices: Notices) -> tuple[Mapping[str, Any], ...]:
    categories = []
    for i, values in enumerate(get_field(content, 'categories', list, source)):
        where = f'categories[{i}] of {source}'
        category_id = get_integer(values, 'id', where, low=0, high=_MAX_ID, notices=notices)
        name = str(get_field(values, 'name', (str, int), where)).strip()
        categories.append({**values, 'id': category_id, 'name': name})
    refuse_repeated([c['name'] for c in categories], f'categories[].name of {source}')
    return tuple(sorted(categories, key=lambda category: category['id']))


def _leave_out_parent(
    categories: tuple[Mapping[str, Any], ...],
    groups: Mapping[str, Sequence[Annotation]],
    source: str,
    notices: Notices,
) -> tuple[Mapping[str, Any], ...]:
    """Leaves out the parent of all classes, which Roboflow lists as a class without objects."""
    used = {a.category_id for annotations in groups.values() for a in annotations}
    for category in categories:
        others = tuple(c for c in categories if c is not category)
        is_parent = category.get('supercategory') in _NO_PARENT and all(
            c.get('supercategory') == category['name'] for c in others
        )
        if others and is_parent and category['id'] not in used:
            text = 'category is the parent of all others and has no object: left out'
            notices.add(text, f'{category["name"]!r} in {source}')
            return others
    return categories


def _parse_annotation(entry: Any, where: str, ids: set[int], notices: Notices) -> Annotation:
    category_id = get_integer(entry, 'category_id', where, notices=notices)
    if category_id not in ids:
        raise ValueError(
            f'{where}: category_id {category_id} is not among the ids of categories, '
            f'{describe_value(sorted(ids))}: add the category, or repair the id'
        )
    is_crowd = False
    if has_value(entry, 'iscrowd', where):
        is_crowd = get_flag(entry, 'iscrowd', where, notices=notices)
    segmentation = entry.get('segmentation')
    if isinstance(segmentation, Mapping):
        place = f'segmentation of {where}'
        for key in ('size', 'counts'):
            if key not in segmentation:
                raise ValueError(f'{place} lacks the field {key!r}')
        regions = [parse_run_lengths(segmentation['size'], segmentation['counts'], place)]
        return Annotation(category_id, tuple(regions), is_crowd, where)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(
            f'{where} has no outline, segmentation is {describe_value(segmentation)}: outline the '
            f'object, or remove the annotation; this network does not learn from boxes'
        )
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    regions = []
    for i, polygon in enumerate(polygons):
        place = f'segmentation[{i}] of {where}'
        if isinstance(polygon, list) and len(polygon) in (0, 2, 4):
            notices.add('outlines have fewer than three points: left out', place)
            continue
        regions.append(parse_polygon(polygon, place))
    return Annotation(category_id, tuple(regions), is_crowd, where)


def _parse_images(
    content: Any, groups: Mapping[str, Sequence[Annotation]], source: str, notices: Notices
) -> tuple[AnnotatedImage, ...]:
    found = []
    for i, values in enumerate(get_field(content, 'images', list, source)):
        where = f'images[{i}] of {source}'
        image_id = parse_image_id(values, 'id', where, notices)
        name = get_field(values, 'file_name', str, where)
        size = _parse_size(values, where, notices)
        annotations = tuple(groups.get(str(image_id), ()))
        found.append(AnnotatedImage(image_id, name, size, annotations, where))
    if not found:
        raise ValueError(f'{source}: images is empty: list at least one image')
    refuse_repeated([str(image.id) for image in found], f'images[].id of {source}')
    orphans = set(groups) - {str(image.id) for image in found}
    if orphans:
        text = 'annotations belong to no entry of images: left out'
        first = groups[next(key for key in groups if key in orphans)][0]
        notices.add(text, first.where, sum(len(groups[key]) for key in orphans))
    if len({type(image.id) for image in found}) > 1:
        found = [image._replace(id=str(image.id)) for image in found]
    return tuple(found)


def _parse_size(values: Mapping[str, Any], where: str, notices: Notices) -> tuple[int, int] | None:
    if not has_value(values, 'height', where) or not has_value(values, 'width', where):
        notices.add('images lack height or width: taken from the files', where)
        return None
    limits = {'low': 1, 'high': images.MAX_PIXELS, 'notices': notices}
    height = get_integer(values, 'height', where, **limits)
    return height, get_integer(values, 'width', where, **limits)
