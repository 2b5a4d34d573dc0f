"""Annotations and segments of the COCO panoptic format, in data sets and in predictions.

Files are not trusted. What a writer left out and can be derived is derived; what can mean one thing
only is read so. Both are counted in `Notices`. Nothing here imports JAX, so that scoring files
starts at once.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pdl_jax.data import images
from pdl_jax.data.json_fields import get_field, get_flag, get_integer, has_value, to_integer
from pdl_jax.data.notices import Notices
from pdl_jax.storage.json_files import describe_value

_MAX_TEXT = 500


class Segment(NamedTuple):
    """One segment of the annotation file: its PNG id, category, crowd flag and area in pixels.

    The area is None where the file has none.
    """

    id: int
    category_id: int
    is_crowd: bool
    area_px: float | None


def refuse_other_formats(content: Any, source: str) -> None:
    """Refuses JSON of formats that look similar, with the flag that reads them.

    Raises:
      ValueError: the content is COCO's instance format, or a single annotation.
    """
    if not isinstance(content, Mapping):
        return
    if 'annotations' not in content and 'segments_info' in content:
        raise ValueError(
            f'{source} holds a single annotation, with segments_info at the top: put it into a '
            f'list "annotations" beside "images" and "categories"'
        )
    listed = content.get('annotations')
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, Mapping) or 'segments_info' in first:
        return
    if 'segmentation' in first or 'bbox' in first and 'file_name' not in first:
        raise ValueError(
            f'{source} holds objects with outlines (annotations[0] has no segments_info, but '
            f'{", ".join(key for key in ("segmentation", "bbox") if key in first)}), which is '
            f"COCO's instance format: read it with --format=coco_instances"
        )


def group_annotations(
    annotations: Sequence[Any], source: str, notices: Notices
) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Sorts annotations by image: some writers make one for each segment.

    Returns:
      Image id as text -> (place, annotation) of each, in the order of the file.

    Raises:
      ValueError: an annotation is malformed, or those of an image name several PNGs.
    """
    groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for i, values in enumerate(annotations):
        where = f'annotations[{i}] of {source}'
        key = str(parse_image_id(values, 'image_id', where, notices))
        groups.setdefault(key, []).append((where, values))
    joined = [key for key, group in groups.items() if len(group) > 1]
    for key in joined:
        names = {
            get_field(values, 'file_name', str, where)
            for where, values in groups[key]
            if has_value(values, 'file_name', where)
        }
        if len(names) > 1:
            raise ValueError(
                f'{groups[key][1][0]}: image_id {key!r} is annotated twice, with the PNGs '
                f'{" and ".join(map(describe_value, sorted(names)[:2]))}: keep one of them'
            )
    if joined:
        text = 'images have several entries in annotations, whose segments were joined'
        notices.add(text, groups[joined[0]][1][0], len(joined))
    return groups


def parse_image_id(values: Any, key: str, where: str, notices: Notices) -> int | str:
    """Reads an image id: an integer, or text.

    Raises:
      ValueError: it is missing, or neither.
    """
    image_id = get_field(values, key, (int, str, float), where)
    if isinstance(image_id, str):
        if len(image_id) > _MAX_TEXT or any('\ud800' <= c <= '\udfff' for c in image_id):
            raise ValueError(
                f'{where}: {key} must be a number or a short text, got {describe_value(image_id)}'
            )
        return image_id
    if to_integer(image_id) is None:
        raise ValueError(f'{where}: {key} must be int or str, got {describe_value(image_id)}')
    return get_integer(values, key, where, notices=notices)


def parse_segments(
    group: Sequence[tuple[str, Mapping[str, Any]]],
    categories: Collection[int],
    *,
    origin: str,
    needs_area: bool,
    needs_crowd: bool = True,
    notices: Notices,
) -> tuple[Segment, ...]:
    """Reads the segments of one image.

    Args:
      group: (place, annotation) of each annotation of the image.
      categories: the category ids that exist.
      origin: owner of the categories, for error messages.
      needs_area, needs_crowd: whether the field area or iscrowd is used; else it may be anything.
      notices: collection of remarks about what was derived or repaired.

    Returns:
      The segments in the order of the file; two entries with the same id are joined.

    Raises:
      ValueError: a field is missing, malformed or out of range, or entries contradict each other.
    """
    segments: dict[int, Segment] = {}
    for where, values in group:
        for i, item in enumerate(list_segments(values, where)):
            place = f'segments_info[{i}] of {where}'
            segment = _parse_segment(item, place, needs_area, needs_crowd, notices)
            if segment.category_id not in categories:
                raise ValueError(
                    f'{place} (id {segment.id}): category_id {segment.category_id} is not among '
                    f'the categories of {origin}: use the ids that it lists'
                )
            if not segment.id:
                text = 'images list segment id 0, which is void elsewhere: read as that segment'
                notices.add(text, place)
            before = segments.get(segment.id)
            if before is not None:
                segment = _join(before, segment, place, notices)
            segments[segment.id] = segment
    return tuple(segments.values())


def find_countable(annotations: Sequence[Any]) -> set[int]:
    """Returns the categories with several segments in an image, or with a crowd.

    In this format a stuff class has one segment in an image. Malformed values are passed over.
    """
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    countable = set()
    for values in annotations:
        items = values.get('segments_info', [values]) if isinstance(values, Mapping) else []
        for item in items if isinstance(items, list) else []:
            if isinstance(item, Mapping):
                category = to_integer(item.get('category_id'))
                if category is not None:
                    counts[str(values.get('image_id'))[:_MAX_TEXT], category] += 1
                    if item.get('iscrowd') in (1, True, '1'):
                        countable.add(category)
    return countable | {category for (_, category), count in counts.items() if count > 1}


def list_segments(values: Mapping[str, Any], where: str) -> list[Any]:
    """Returns the unchecked segments of an annotation.

    Raises:
      ValueError: it has none.
    """
    if 'segments_info' not in values and 'id' in values and 'category_id' in values:
        # One annotation for each segment, with its fields at the top.
        return [values]
    return get_field(values, 'segments_info', list, where)


def _parse_segment(
    item: Any, where: str, needs_area: bool, needs_crowd: bool, notices: Notices
) -> Segment:
    segment_id = get_integer(item, 'id', where, low=0, high=images.MAX_IDS - 1, notices=notices)
    category_id = get_integer(item, 'category_id', where, notices=notices)
    is_crowd = False
    if needs_crowd and has_value(item, 'iscrowd', where):
        is_crowd = get_flag(item, 'iscrowd', where, notices=notices)
    elif needs_crowd:
        notices.add('segments lack iscrowd: taken for 0, single objects', where)
    area = None
    if needs_area:
        area = _get_area(item, where)
        if area is None:
            notices.add('segments lack area: it is the number of their pixels', where)
    return Segment(segment_id, category_id, is_crowd, area)


def _get_area(item: Mapping[str, Any], where: str) -> float | None:
    if not has_value(item, 'area', where):
        return None
    stated = item['area']
    area = to_integer(stated) if isinstance(stated, str) else stated
    # NaN compares with nothing.
    if (
        not isinstance(area, int | float)
        or isinstance(area, bool)
        or not 0 <= area <= images.MAX_PIXELS
    ):
        raise ValueError(
            f'{where}: area must be a number of pixels, 0 .. {images.MAX_PIXELS}, got '
            f'{describe_value(stated)}: repair it, or leave it out'
        )
    return area


def _join(first: Segment, second: Segment, where: str, notices: Notices) -> Segment:
    if first[1:3] != second[1:3]:
        raise ValueError(
            f'{where}: id {second.id} is given twice, with category_id {first.category_id} and '
            f'{second.category_id} and iscrowd {int(first.is_crowd)} and {int(second.is_crowd)}: '
            f'ids must be unique in an image'
        )
    notices.add('segments are listed twice with one id: joined', where)
    area = first.area_px
    if area is not None and second.area_px is not None and area != second.area_px:
        area += second.area_px
    return first._replace(area_px=area)
