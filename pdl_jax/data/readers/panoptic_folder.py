"""Reads the official COCO panoptic format: a folder of images, a folder of id PNGs and one JSON.

COCO and Mapillary Vistas publish it; csCreatePanopticImgs converts Cityscapes to it. Each pixel of
a PNG holds a segment id, R + 256 G + 65536 B, 0 where nothing is annotated; the JSON gives the
category of each segment.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord, load_image
from pdl_jax.data.json_fields import get_field, refuse_repeated
from pdl_jax.data.text_files import check_plain_name
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file


class Segment(NamedTuple):
    """One segment of the annotation file: its PNG id, category, crowd flag and area in pixels."""

    id: int
    category_id: int
    is_crowd: bool
    area_px: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One annotated image.

    Attributes:
      image_id: id in the annotation file: int for COCO, str for Cityscapes.
      image_path: path relative to the folder of images: a name, or city/name for Cityscapes.
      annotation_file_name: name of the PNG.
      height_px, width_px: size that the annotation file states.
      segments: segments in the order of the file.
    """

    image_id: int | str
    image_path: str
    annotation_file_name: str
    height_px: int
    width_px: int
    segments: tuple[Segment, ...]

    @property
    def file_name(self) -> str:
        """Name of the image without folders."""
        return self.image_path.rsplit('/', 1)[-1]


@dataclasses.dataclass(frozen=True)
class PanopticFolder:
    """A validated split in the COCO panoptic format; `load_record` reads one image of it.

    Attributes:
      images_dir, panoptic_dir: folders of images and of id PNGs.
      spec: classes and label format.
      entries: one entry per annotation, in the order of the file.
      num_images_without_annotation: number of images that the JSON lists but does not annotate.
      json_sha256: SHA-256 of the annotation file.
    """

    images_dir: epath.Path
    panoptic_dir: epath.Path
    spec: catalog.DatasetSpec
    entries: tuple[Entry, ...]
    num_images_without_annotation: int
    json_sha256: str


def read_split(
    images_dir: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    json_path: str | os.PathLike,
    *,
    spec: str = 'auto',
    check_area: bool = True,
) -> AnnotatedSplit:
    """Reads a split in the COCO panoptic format; see `read_folder` and `load_record`."""
    folder = read_folder(
        images_dir=images_dir, panoptic_dir=panoptic_dir, json_path=json_path, spec=spec
    )
    # Workers get the entries one by one, so the folder that is sent with each leaves them out.
    load = functools.partial(
        load_record, dataclasses.replace(folder, entries=()), check_area=check_area
    )
    return AnnotatedSplit(
        folder.spec,
        folder.entries,
        load,
        fingerprint=folder.json_sha256,
        num_images_without_annotation=folder.num_images_without_annotation,
    )


def read_folder(
    *,
    images_dir: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    json_path: str | os.PathLike,
    spec: str = 'auto',
) -> PanopticFolder:
    """Reads and validates the annotation file and finds the two files of every annotation.

    Images may lie one folder deeper than `images_dir`; Cityscapes sorts them by city.

    Args:
      images_dir: the folder of images.
      panoptic_dir: the folder of id PNGs.
      json_path: the annotation file.
      spec: see `catalog.get_spec`.

    Raises:
      FileNotFoundError: a folder, the JSON or a file it names is missing.
      ValueError: the JSON is malformed or lists no annotation; the message names the field.
    """
    images_dir, panoptic_dir = paths.make_path(images_dir), paths.make_path(panoptic_dir)
    json_path = paths.make_path(json_path)
    if not json_path.exists():
        raise FileNotFoundError(f'annotation file {json_path} does not exist')
    source = json_path.name
    json_bytes = read_outside_file(json_path, max_bytes=MAX_JSON_BYTES)
    try:
        content = json.loads(json_bytes)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f'{json_path} is not valid JSON: {error}') from error

    json_images = get_field(content, 'images', list, source)
    json_annotations = get_field(content, 'annotations', list, source)
    categories = get_field(content, 'categories', list, source)
    dataset_spec = catalog.get_spec(spec, categories, source=source)
    if not json_annotations:
        raise ValueError(f'{source}: annotations is empty: the split has no labelled image')

    image_by_id = _index_images(json_images, source)
    parsed = [
        _parse_annotation(values, f'annotations[{i}] of {source}', image_by_id, dataset_spec)
        for i, values in enumerate(json_annotations)
    ]
    refuse_repeated([e.image_id for e in parsed], f'annotations[].image_id of {source}')
    annotation_names = [e.annotation_file_name for e in parsed]
    refuse_repeated(annotation_names, f'annotations[].file_name of {source}')
    if len({type(e.image_id) for e in parsed}) > 1:
        raise ValueError(f'{source}: image ids must be all integers or all strings')

    found = _find_files([e.image_path for e in parsed], images_dir, source, is_nested=True)
    _find_files(annotation_names, panoptic_dir, source)
    entries = tuple(
        dataclasses.replace(entry, image_path=found[entry.image_path]) for entry in parsed
    )
    return PanopticFolder(
        images_dir=images_dir,
        panoptic_dir=panoptic_dir,
        spec=dataset_spec,
        entries=entries,
        num_images_without_annotation=len(json_images) - len(entries),
        json_sha256=hashlib.sha256(json_bytes).hexdigest(),
    )


def load_record(folder: PanopticFolder, entry: Entry, *, check_area: bool = True) -> LoadedRecord:
    """Reads one image and translates its annotation to the panoptic label.

    Thing segments are numbered from 1 within each class in the order of the file; stuff and crowds
    have instance 0; id 0 becomes void.

    Args:
      folder: the split; its `entries` are not used.
      entry: the image.
      check_area: refuse segments whose number of pixels differs from the area in the file.

    Raises:
      ValueError: a file is damaged, or image, PNG and JSON contradict each other.
    """
    ids_bytes = read_outside_file(folder.panoptic_dir / entry.annotation_file_name)
    ids = images.decode_ids(ids_bytes, name=entry.annotation_file_name)
    stated = (entry.height_px, entry.width_px)
    if ids.shape != stated:
        raise ValueError(
            f'{entry.annotation_file_name} has {ids.shape[0]}x{ids.shape[1]} pixels (height x '
            f'width), the JSON says {stated[0]}x{stated[1]} for image {entry.image_id!r}: repair '
            f'one of them'
        )
    image_bytes = load_image(
        folder.images_dir / entry.image_path,
        size=stated,
        name=entry.image_path,
        label_name=f'the JSON for image {entry.image_id!r}',
    )
    labels = _number_segments(entry, folder.spec)
    panoptic, counts = _translate_ids(ids, entry, labels, folder.spec.label_format.void_label)
    if check_area:
        _check_areas(entry, counts)
    return LoadedRecord(
        image=image_bytes,
        panoptic=panoptic,
        image_id=entry.image_id,
        file_name=entry.file_name,
        annotation_file_name=entry.annotation_file_name,
    )


def _number_segments(entry: Entry, spec: catalog.DatasetSpec) -> list[int]:
    """Returns the panoptic label of each segment."""
    things = set(spec.label_format.thing_classes)
    labels: list[int] = []
    counts: dict[int, int] = {}
    for segment in entry.segments:
        semantic = spec.class_of_category[segment.category_id]
        instance = 0
        if semantic in things and not segment.is_crowd:
            instance = counts[semantic] = counts.get(semantic, 0) + 1
        labels.append(semantic * spec.label_divisor + instance)
    for semantic, count in counts.items():
        if count >= spec.label_divisor:
            raise ValueError(
                f'label_divisor (={spec.label_divisor}) must exceed the {count} instances of '
                f'{spec.class_names[semantic]!r} in {entry.annotation_file_name}: choose '
                f'--spec=own (label_divisor 1000) or split the image'
            )
    return labels


def _translate_ids(
    ids: np.ndarray, entry: Entry, labels: Sequence[int], void_label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label i32[H, W], and i64[S], the number of pixels of each segment."""
    known = np.array([0] + [s.id for s in entry.segments], np.int32)
    order = np.argsort(known)
    position = np.searchsorted(known[order], ids)
    np.minimum(position, len(known) - 1, out=position)
    row = order[position]
    is_unknown = known[row] != ids
    if is_unknown.any():
        y, x = np.argwhere(is_unknown)[0]
        raise ValueError(
            f'{entry.annotation_file_name} holds segment id {ids[y, x]} (first at y={y}, x={x}, '
            f'{int(is_unknown.sum())} unknown pixels in all), which the JSON does not list: list '
            f'it in segments_info or paint it 0 (void)'
        )
    counts = np.bincount(row.ravel(), minlength=len(known))[1:]
    for segment, count in zip(entry.segments, counts, strict=True):
        if not count:
            raise ValueError(
                f'segment id {segment.id} of the JSON has no pixel in '
                f'{entry.annotation_file_name}: remove it from segments_info or repair the PNG'
            )
    table = np.array([void_label, *labels], np.int32)
    return table[row], counts


def _check_areas(entry: Entry, counts: np.ndarray) -> None:
    for segment, count in zip(entry.segments, counts, strict=True):
        if segment.area_px != count:
            raise ValueError(
                f'segment id {segment.id} covers {count} pixels in {entry.annotation_file_name}, '
                f'the JSON states area {segment.area_px}: repair the JSON, or pass --ignore_area '
                f'where the areas are known to be approximate'
            )


def _index_images(json_images: Sequence[Any], source: str) -> dict[int | str, tuple[str, int, int]]:
    """Returns image id -> (file name, height, width)."""
    index: dict[int | str, tuple[str, int, int]] = {}
    names: list[str] = []
    for i, values in enumerate(json_images):
        where = f'images[{i}] of {source}'
        image_id = get_field(values, 'id', (int, str), where)
        if image_id in index:
            raise ValueError(f'{where}: id {image_id!r} is given twice: ids must be unique')
        name = _get_plain_name(values, where)
        height = get_field(values, 'height', int, where)
        width = get_field(values, 'width', int, where)
        if height < 1 or width < 1 or height * width > images.MAX_PIXELS:
            raise ValueError(
                f'{where}: height {height} and width {width} must be positive and span at most '
                f'{images.MAX_PIXELS} pixels'
            )
        index[image_id] = (name, height, width)
        names.append(name)
    refuse_repeated(names, f'images[].file_name of {source}')
    return index


def _parse_annotation(
    values: Any,
    where: str,
    image_by_id: Mapping[int | str, tuple[str, int, int]],
    spec: catalog.DatasetSpec,
) -> Entry:
    image_id = get_field(values, 'image_id', (int, str), where)
    if image_id not in image_by_id:
        raise ValueError(f'{where}: image_id {image_id!r} is not the id of any entry of images')
    image_name, height, width = image_by_id[image_id]
    annotation_name = _get_plain_name(values, where)
    segments = []
    for i, item in enumerate(get_field(values, 'segments_info', list, where)):
        inner = f'segments_info[{i}] of {where} ({annotation_name})'
        segment_id = get_field(item, 'id', int, inner)
        category_id = get_field(item, 'category_id', int, inner)
        is_crowd = get_field(item, 'iscrowd', int, inner)
        area = get_field(item, 'area', (int, float), inner)
        if not 0 < segment_id < images.MAX_IDS:
            raise ValueError(
                f'{inner}: id {segment_id} must lie in 1 .. {images.MAX_IDS - 1}, as 24 bits of '
                f'colour hold and 0 means void'
            )
        if category_id not in spec.class_of_category:
            raise ValueError(
                f'{inner}: category_id {category_id} is not among the categories of {spec.name!r}'
            )
        if is_crowd not in (0, 1):
            raise ValueError(f'{inner}: iscrowd must be 0 or 1, got {is_crowd}')
        segments.append(Segment(segment_id, category_id, bool(is_crowd), int(area)))
    refuse_repeated([s.id for s in segments], f'segments_info[].id of {where}')
    return Entry(image_id, image_name, annotation_name, height, width, tuple(segments))


def _find_files(
    names: Sequence[str], folder: epath.Path, source: str, *, is_nested: bool = False
) -> dict[str, str]:
    """Returns name -> path relative to `folder`; one listing is cheaper than a test per file."""
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {folder} does not exist (or is no folder)')
    present = {path.name for path in folder.iterdir()}
    found = {name: name for name in names if name in present}
    if is_nested and len(found) < len(names):
        wanted = {name: name for name in names if name not in found}
        # csCreatePanopticImgs names the images of Cityscapes after their label files.
        wanted |= {name.replace('_gtFine_leftImg8bit', '_leftImg8bit'): name for name in wanted}
        for inner in sorted(present):
            # Names with a suffix are taken for files: is_dir costs a request per name in a bucket.
            if '.' in inner or not (folder / inner).is_dir():
                continue
            for path in (folder / inner).iterdir():
                if path.name in wanted:
                    found.setdefault(wanted[path.name], f'{inner}/{path.name}')
    missing = [name for name in names if name not in found]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} files that {source} names are not in {folder}, first '
            f'{missing[0]}: check that the folder belongs to this annotation file'
        )
    return found


def _get_plain_name(values: Any, where: str) -> str:
    name = get_field(values, 'file_name', str, where)
    check_plain_name(name, where)
    return name
