"""Reads the official COCO panoptic format: a folder of images, a folder of id PNGs and one JSON.

COCO and Mapillary Vistas publish it; csCreatePanopticImgs converts Cityscapes to it. Each pixel of
a PNG holds a segment id, R + 256 G + 65536 B, 0 where nothing is annotated; the JSON gives the
category of each segment.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord, load_image
from pdl_jax.data.file_names import find_files
from pdl_jax.data.file_tree import name_records
from pdl_jax.data.notices import Notices
from pdl_jax.data.panoptic_annotations import Entry, parse_annotations
from pdl_jax.data.segment_ids import decode_segment_ids
from pdl_jax.storage import paths
from pdl_jax.storage.json_files import parse_json
from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file

_VOID_ID = 0
# So many unknown ids in one PNG are no forgotten segments.
_MANY = 5


@dataclasses.dataclass(frozen=True)
class PanopticFolder:
    """A validated split in the COCO panoptic format; `load_record` reads one image of it.

    Attributes:
      images_dir, panoptic_dir: folders of images and of id PNGs.
      spec: classes and label format.
      entries: one entry per annotation, in the order of the file.
      num_images_without_annotation: number of images that the JSON lists but does not annotate.
      json_sha256: SHA-256 of the annotation file.
      notes: lines about what was derived or repaired.
    """

    images_dir: epath.Path
    panoptic_dir: epath.Path
    spec: catalog.DatasetSpec
    entries: tuple[Entry, ...]
    num_images_without_annotation: int
    json_sha256: str
    notes: tuple[str, ...] = ()


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
        images_dir=images_dir,
        panoptic_dir=panoptic_dir,
        json_path=json_path,
        spec=spec,
        check_area=check_area,
    )
    # Workers get the entries one by one, so the folder that is sent with each leaves them out.
    bare = dataclasses.replace(folder, entries=(), notes=())
    return AnnotatedSplit(
        folder.spec,
        folder.entries,
        functools.partial(load_record, bare, check_area=check_area),
        fingerprint=folder.json_sha256,
        num_images_without_annotation=folder.num_images_without_annotation,
        notes=folder.notes,
        list_files=functools.partial(_list_files, bare),
    )


def read_folder(
    *,
    images_dir: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    json_path: str | os.PathLike,
    spec: str = 'auto',
    check_area: bool = True,
) -> PanopticFolder:
    """Reads and validates the annotation file and finds the two files of every annotation.

    Images may lie one folder deeper than `images_dir`; Cityscapes sorts them by city.

    Args:
      images_dir: the folder of images.
      panoptic_dir: the folder of id PNGs.
      json_path: the annotation file.
      spec: see `catalog.get_spec`.
      check_area: whether areas are needed, see `load_record`.

    Raises:
      FileNotFoundError: a folder, the JSON or a file it names is missing.
      ValueError: the JSON is malformed or lists no annotation; the message names the field.
    """
    images_dir, panoptic_dir = paths.make_path(images_dir), paths.make_path(panoptic_dir)
    json_path = paths.make_path(json_path)
    if not json_path.exists():
        raise FileNotFoundError(f'annotation file {json_path} does not exist')
    json_bytes = read_outside_file(json_path, max_bytes=MAX_JSON_BYTES)
    notices = Notices()
    annotations = parse_annotations(
        parse_json(json_bytes, source=os.fspath(json_path), allow_nan=True),
        source=json_path.name,
        spec=spec,
        needs_area=check_area,
        notices=notices,
    )
    entries = _locate(annotations.entries, images_dir, panoptic_dir, json_path.name, notices)
    return PanopticFolder(
        images_dir=images_dir,
        panoptic_dir=panoptic_dir,
        spec=annotations.spec,
        entries=entries,
        num_images_without_annotation=annotations.num_images_without_annotation,
        json_sha256=hashlib.sha256(json_bytes).hexdigest(),
        notes=notices.to_lines(),
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
    ids, wording = decode_segment_ids(
        read_outside_file(folder.panoptic_dir / entry.label_path),
        known=[s.id for s in entry.segments],
        name=entry.label_path,
    )
    _check_size(entry, ids.shape)
    image_bytes = load_image(
        folder.images_dir / entry.image_path,
        size=ids.shape,
        name=entry.image_path,
        label_name=entry.label_path,
    )
    labels = _number_segments(entry, folder.spec)
    panoptic, counts = _translate_ids(ids, entry, labels, folder.spec.label_format.void_label)
    remarks = {'{} PNGs ' + wording: 1} if wording else {}
    if num_covered := _count_covered(entry, counts):
        remarks['{} segments of the JSON have no pixel in their PNG: left out'] = num_covered
    if check_area:
        _check_areas(entry, counts)
    return LoadedRecord(
        image=image_bytes,
        panoptic=panoptic,
        image_id=entry.image_id,
        file_name=entry.file_name,
        annotation_file_name=entry.prediction_name,
        remarks=remarks,
    )


def _list_files(folder: PanopticFolder, entry: Entry) -> tuple[epath.Path, ...]:
    return folder.images_dir / entry.image_path, folder.panoptic_dir / entry.label_path


def _check_size(entry: Entry, size: tuple[int, ...]) -> None:
    stated = (entry.height_px, entry.width_px)
    if None not in stated and size != stated:
        hint = ', perhaps with height and width swapped' if size == stated[::-1] else ''
        raise ValueError(
            f'{entry.label_path} has {size[0]}x{size[1]} pixels (height x width), the JSON says '
            f'{stated[0]}x{stated[1]} for image {entry.image_id!r}{hint}: repair one of them'
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
    catalog.check_num_instances(counts, spec, entry.label_path)
    return labels


def _translate_ids(
    ids: np.ndarray, entry: Entry, labels: Sequence[int], void_label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label i32[H, W], and i64[S], the number of pixels of each segment."""
    known = np.array([s.id for s in entry.segments] + [_VOID_ID], np.int32)
    # The sort is stable, so that a segment of id 0 comes before void.
    order = np.argsort(known, kind='stable')
    position = np.searchsorted(known[order], ids)
    np.minimum(position, len(known) - 1, out=position)
    row = order[position]
    is_unknown = known[row] != ids
    if is_unknown.any():
        y, x = np.argwhere(is_unknown)[0]
        num_ids = len(np.unique(ids[is_unknown]))
        hint = ' (was the PNG resized with interpolation?)' if num_ids > _MANY else ''
        raise ValueError(
            f'{entry.label_path} holds segment id {ids[y, x]} (first at y={y}, x={x}, '
            f'{int(is_unknown.sum())} pixels of {num_ids} unknown ids in all), which the JSON does '
            f'not list{hint}: list it in segments_info or paint it 0 (void)'
        )
    counts = np.bincount(row.ravel(), minlength=len(known))[:-1]
    table = np.array([*labels, void_label], np.int32)
    return table[row], counts


def _count_covered(entry: Entry, counts: np.ndarray) -> int:
    """Counts the segments without a pixel: others may cover them, but not all of them."""
    if len(counts) and not counts.any():
        raise ValueError(
            f'none of the {len(counts)} segments that the JSON lists has a pixel in '
            f'{entry.label_path}, first id {entry.segments[0].id}: check that the folder of PNGs '
            f'belongs to this annotation file'
        )
    return int((counts == 0).sum())


def _check_areas(entry: Entry, counts: np.ndarray) -> None:
    differing = [
        (segment, count)
        for segment, count in zip(entry.segments, counts.tolist(), strict=True)
        if count and segment.area_px is not None and int(segment.area_px) != count
    ]
    if differing:
        segment, count = differing[0]
        raise ValueError(
            f'segment id {segment.id} covers {count} pixels in {entry.label_path}, the JSON states '
            f'area {segment.area_px} ({len(differing)} of {len(counts)} segments of the image '
            f'differ): repair the JSON or the PNG (was it resized?), or pass --ignore_area where '
            f'the areas are known to be approximate'
        )


def _locate(
    entries: Sequence[Entry],
    images_dir: epath.Path,
    panoptic_dir: epath.Path,
    source: str,
    notices: Notices,
) -> tuple[Entry, ...]:
    """Returns the entries with the paths of their files instead of the names in the JSON."""
    image_paths = find_files(
        [e.image_path for e in entries], images_dir, images.IMAGE_SUFFIXES, source, notices
    )
    label_paths = find_files(
        [e.label_path for e in entries], panoptic_dir, ('.png',), source, notices
    )
    file_names = [names.file_name for names in name_records(image_paths)]
    prediction_names = [names.annotation_file_name for names in name_records(label_paths)]
    return tuple(
        dataclasses.replace(
            entry, image_path=image, label_path=label, file_name=name, prediction_name=prediction
        )
        for entry, image, label, name, prediction in zip(
            entries, image_paths, label_paths, file_names, prediction_names, strict=True
        )
    )
