"""The annotation file of a data set in the COCO panoptic format: images, annotations, categories.

See `segments_info` for what is tolerated.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pdl_jax.data import catalog
from pdl_jax.data.images import MAX_PIXELS
from pdl_jax.data.json_fields import (
    get_field,
    get_integer,
    has_value,
    refuse_repeated,
    to_integer,
)
from pdl_jax.data.notices import Notices
from pdl_jax.data.segments_info import (
    Segment,
    find_countable,
    group_annotations,
    parse_image_id,
    parse_segments,
    refuse_other_formats,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One annotated image.

    Attributes:
      image_id: id in the annotation file: int for COCO, str for Cityscapes.
      image_path: path relative to the folder of images.
      label_path: path of the PNG relative to its folder.
      height_px, width_px: size that the annotation file states; None if it states none.
      segments: segments in the order of the file; ids are unique.
      file_name: name of the image, unique in the split.
      prediction_name: name of the PNG that a prediction gets, unique in the split.
    """

    image_id: int | str
    image_path: str
    label_path: str
    height_px: int | None
    width_px: int | None
    segments: tuple[Segment, ...]
    file_name: str = ''
    prediction_name: str = ''


@dataclasses.dataclass(frozen=True)
class PanopticAnnotations:
    """Content of an annotation file; paths are names as the file gives them.

    Attributes:
      spec: classes and label format.
      entries: one per annotated image, in the order of the file.
      num_images_without_annotation: number of images that are listed but not annotated.
    """

    spec: catalog.DatasetSpec
    entries: tuple[Entry, ...]
    num_images_without_annotation: int


class _Image(NamedTuple):
    id: int | str
    file_name: str
    height_px: int | None
    width_px: int | None


def parse_annotations(
    content: Any, *, source: str, spec: str, needs_area: bool, notices: Notices
) -> PanopticAnnotations:
    """Validates the content of an annotation file.

    Args:
      content: the parsed JSON.
      source: name of the file, for error messages.
      spec: see `catalog.get_spec`.
      needs_area: whether the areas are used; else they may be anything.
      notices: collection of remarks about what was derived or repaired.

    Raises:
      ValueError: the content is malformed, another format, or lists no annotation; the message
        names the field.
    """
    refuse_other_formats(content, source)
    annotations = get_field(content, 'annotations', list, source)
    groups = group_annotations(annotations, source, notices)
    if not groups:
        raise ValueError(f'{source}: annotations is empty: the split has no labelled image')
    if has_value(content, 'images', source):
        images = _index_images(get_field(content, 'images', list, source), source, notices)
    else:
        images = _derive_images(groups, source, notices)
    dataset_spec = catalog.get_spec(
        spec,
        get_field(content, 'categories', list, source),
        source=source,
        notices=notices,
        guess_things=lambda: find_countable(annotations),
    )
    find_image = _ImageFinder(images, notices)
    entries = tuple(
        _parse_entry(group, find_image, dataset_spec, needs_area, notices)
        for group in groups.values()
    )
    refuse_repeated([e.image_id for e in entries], f'annotations[].image_id of {source}')
    if not dataset_spec.label_format.thing_classes:
        text = 'categories are all stuff (isthing is 0), so that objects are not told apart'
        notices.add(text, dataset_spec.class_names[0], len(dataset_spec.categories))
    _tell_of_joined_stuff(entries, dataset_spec, notices)
    dataset_spec = _make_room(dataset_spec, entries, source, notices)
    return PanopticAnnotations(dataset_spec, entries, len(images) - len(entries))


def _parse_entry(
    group: Sequence[tuple[str, Mapping[str, Any]]],
    find_image: '_ImageFinder',
    spec: catalog.DatasetSpec,
    needs_area: bool,
    notices: Notices,
) -> Entry:
    where, values = group[0]
    image = find_image(values, where)
    named = next((v for place, v in group if has_value(v, 'file_name', place)), None)
    if named is None:
        label_name = image.file_name.rpartition('.')[0] or image.file_name
        label_name += '.png'
        text = 'annotations lack file_name: the name of the image with .png'
        notices.add(text, f'{label_name} for {where}')
    else:
        label_name = get_field(named, 'file_name', str, where)
    segments = parse_segments(
        group,
        spec.class_of_category,
        origin=repr(spec.name),
        needs_area=needs_area,
        notices=notices,
    )
    return Entry(image.id, image.file_name, label_name, image.height_px, image.width_px, segments)


def _index_images(json_images: Sequence[Any], source: str, notices: Notices) -> dict[str, _Image]:
    """Returns image id as text -> image."""
    ids: list[int | str] = []
    for i, values in enumerate(json_images):
        ids.append(parse_image_id(values, 'id', f'images[{i}] of {source}', notices))
    ids = _unify_ids(ids, source, notices)
    index: dict[str, _Image] = {}
    for i, (image_id, values) in enumerate(zip(ids, json_images, strict=True)):
        where = f'images[{i}] of {source}'
        if str(image_id) in index:
            raise ValueError(f'{where}: id {image_id!r} is given twice: ids must be unique')
        name = get_field(values, 'file_name', str, where)
        size = _parse_size(values, where, notices)
        index[str(image_id)] = _Image(image_id, name, *size)
    refuse_repeated([i.file_name for i in index.values()], f'images[].file_name of {source}')
    return index


def _unify_ids(ids: Sequence[int | str], source: str, notices: Notices) -> list[int | str]:
    """Returns the ids with one type: integers if all can be."""
    texts = [i for i in ids if isinstance(i, str)]
    if not texts or len(texts) == len(ids):
        return list(ids)
    notices.add('image ids are partly numbers and partly text: read as one type', source)
    numbers = [to_integer(i) for i in ids]
    if all(n is not None and str(n) == str(i) for n, i in zip(numbers, ids, strict=True)):
        return [n for n in numbers if n is not None]
    return list(map(str, ids))


def _parse_size(
    values: Mapping[str, Any], where: str, notices: Notices
) -> tuple[int, int] | tuple[None, None]:
    if not has_value(values, 'height', where) or not has_value(values, 'width', where):
        notices.add('images lack height or width: taken from the files', where)
        return None, None
    limits = {'low': 0, 'high': 2**31 - 1, 'notices': notices}
    height = get_integer(values, 'height', where, **limits)
    width = get_integer(values, 'width', where, **limits)
    if not height or not width or height * width > MAX_PIXELS:
        raise ValueError(
            f'{where}: height {height} and width {width} must be positive and span at most '
            f'{MAX_PIXELS} pixels'
        )
    return height, width


def _derive_images(
    groups: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]], source: str, notices: Notices
) -> dict[str, _Image]:
    """Returns the images of a file without the list: those with the names of the PNGs."""
    index = {}
    for group in groups.values():
        where, values = group[0]
        image_id = parse_image_id(values, 'image_id', where, notices)
        name = get_field(values, 'file_name', str, where)
        index[str(image_id)] = _Image(image_id, name, None, None)
    text = 'images are not listed: found by the names of the annotations'
    notices.add(text, source, len(index))
    return index


class _ImageFinder:
    """Function from an annotation to its image, also where the types of their ids differ."""

    def __init__(self, images: Mapping[str, _Image], notices: Notices) -> None:
        self._images = images
        self._notices = notices
        self._by_number: dict[int, list[_Image]] | None = None

    def __call__(self, values: Mapping[str, Any], where: str) -> _Image:
        # Conversions were counted when annotations were sorted by image.
        image_id = parse_image_id(values, 'image_id', where, Notices())
        image = self._images.get(str(image_id)) or self._find_by_number(image_id)
        if image is None:
            raise ValueError(f'{where}: image_id {image_id!r} is not the id of any entry of images')
        if type(image.id) is not type(image_id) or str(image.id) != str(image_id):
            text = 'annotations have image ids of another type than images, like "1" for 1'
            self._notices.add(text, f'{image_id!r} for {image.id!r} in {where}')
        return image

    def _find_by_number(self, image_id: int | str) -> _Image | None:
        """Finds '000139' for 139, if only one image can be meant."""
        if self._by_number is None:
            self._by_number = {}
            for image in self._images.values():
                number = to_integer(image.id)
                if number is not None:
                    self._by_number.setdefault(number, []).append(image)
        number = to_integer(image_id)
        found = [] if number is None else self._by_number.get(number, [])
        return found[0] if len(found) == 1 else None


def _tell_of_joined_stuff(
    entries: Sequence[Entry], spec: catalog.DatasetSpec, notices: Notices
) -> None:
    things = set(spec.label_format.thing_classes)
    stuff = {i for i, semantic in spec.class_of_category.items() if semantic not in things}
    for entry in entries:
        counts = collections.Counter(s.category_id for s in entry.segments)
        for category, count in counts.items():
            if count > 1 and category in stuff:
                name = spec.class_names[spec.class_of_category[category]]
                text = 'times an image has several segments of one stuff class: joined'
                notices.add(text, f'{name!r} in {entry.label_path}')


def _make_room(
    spec: catalog.DatasetSpec, entries: Sequence[Entry], source: str, notices: Notices
) -> catalog.DatasetSpec:
    """Returns the spec with a label divisor that exceeds the objects of every class and image."""
    things = {spec.category_of_class[c].id for c in spec.label_format.thing_classes}
    most, fullest = 0, ''
    for entry in entries:
        counts = collections.Counter(
            s.category_id for s in entry.segments if s.category_id in things and not s.is_crowd
        )
        if counts and max(counts.values()) > most:
            most, fullest = max(counts.values()), entry.label_path
    if most >= spec.label_divisor and spec.name != 'own':
        raise ValueError(
            f'{fullest} of {source} has {most} objects of one class, and labels of {spec.name} '
            f'hold {spec.label_divisor - 1}: pass --spec=own, which chooses a larger '
            f'label_divisor, or cut the image into tiles'
        )
    try:
        room = catalog.make_room(spec, most)
    except ValueError as error:
        raise ValueError(f'{fullest} of {source}: {error}') from error
    if room != spec:
        text = (
            f'objects of one class in an image exceed label_divisor {spec.label_divisor}: '
            f'{room.label_divisor} was chosen'
        )
        notices.add(text, fullest, most)
    return room
