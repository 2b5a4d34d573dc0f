"""JSON files of labels and of predictions in the COCO panoptic format, paired by image.

Files are not trusted: errors name the file, the field, its value and the remedy. No framework is
imported, so that scoring files starts at once.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from pdl_jax.data.categories import parse_categories
from pdl_jax.data.json_fields import get_field
from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file

if TYPE_CHECKING:
    from etils import epath

FilePath: TypeAlias = 'pathlib.Path | epath.Path'


@dataclasses.dataclass(frozen=True)
class Categories:
    """Categories of the label file; class c of the metrics is row c.

    Attributes:
      ids: category ids in the order of the file.
      names: names of the categories.
      is_thing: bool[C], true for categories with instances.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    is_thing: np.ndarray

    @property
    def keys(self) -> list[str]:
        """Category ids as text, as JSON has them for keys."""
        return [str(i) for i in self.ids]

    @property
    def thing_classes(self) -> list[int]:
        """Rows of the categories with instances."""
        return np.flatnonzero(self.is_thing).tolist()

    @property
    def stuff_classes(self) -> list[int]:
        """Rows of the other categories."""
        return np.flatnonzero(~self.is_thing).tolist()


class FilePair(NamedTuple):
    """Entries of one image in the two JSON files: annotation and prediction, not yet checked."""

    label: Mapping[str, Any]
    prediction: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class PanopticFiles:
    """Folders and categories of labels and predictions; see `file_overlap.load_overlap`.

    Attributes:
      label_dir, prediction_dir: folders of PNGs.
      categories: categories of the label file.
    """

    label_dir: FilePath
    prediction_dir: FilePath
    categories: Categories


def make_path(path: str | os.PathLike) -> FilePath:
    """Returns a path for a local file or one in a bucket."""
    if '://' not in os.fspath(path):
        return pathlib.Path(path).expanduser()
    # etils is a good part of the start of `pdl_jax score`, and only buckets need it.
    from pdl_jax.storage import paths

    return paths.make_path(path)


def read_annotations(
    *,
    label_json: str | os.PathLike,
    label_dir: str | os.PathLike,
    prediction_json: str | os.PathLike,
    prediction_dir: str | os.PathLike,
) -> tuple[PanopticFiles, list[FilePair]]:
    """Reads both JSON files and pairs their images.

    Returns:
      The folders and categories, and one pair per annotated image, ascending by image id.

    Raises:
      FileNotFoundError: a folder or a JSON file is missing.
      ValueError: a JSON file is malformed, or lacks an image.
    """
    files = {}
    for field, path in (('label', label_dir), ('prediction', prediction_dir)):
        files[field] = make_path(path)
        if not files[field].is_dir():
            raise FileNotFoundError(f'the folder of {field} PNGs {path} does not exist')
    labels, predictions = _read_json(label_json), _read_json(prediction_json)
    categories = _parse_categories(labels, str(label_json))
    label_of_image = _index_annotations(labels, str(label_json))
    prediction_of_image = _index_annotations(predictions, str(prediction_json))
    if not label_of_image:
        raise ValueError(f'annotations of {label_json} is empty: there is no image to score')
    missing = [i for i in label_of_image if i not in prediction_of_image]
    if missing:
        raise ValueError(
            f'{prediction_json} lacks {len(missing)} of the {len(label_of_image)} images that '
            f'{label_json} annotates, first image_id {missing[0]!r}: predict every image; one '
            f'without segments has an empty segments_info'
        )
    # The order of pycocotools, which breaks ties of the score. Integers come before text: Python
    # cannot compare the two.
    ids = sorted(label_of_image, key=lambda i: (isinstance(i, str), i))
    pairs = [FilePair(label_of_image[i], prediction_of_image[i]) for i in ids]
    return PanopticFiles(files['label'], files['prediction'], categories), pairs


def get_file_name(values: Any, where: str) -> str:
    """Reads the field file_name.

    Raises:
      ValueError: it is missing or leads out of the folder of PNGs.
    """
    name = get_field(values, 'file_name', str, where)
    parts = name.split('/')
    if any(part in ('', '.', '..') for part in parts) or any(c in name for c in '\\\0'):
        raise ValueError(
            f'{where}: file_name {name!r} must be a path below the folder of PNGs, so that nothing '
            f'outside of it is read'
        )
    return name


def _read_json(path: str | os.PathLike) -> Any:
    file = make_path(path)
    if not file.exists():
        raise FileNotFoundError(f'{path} does not exist')
    try:
        return json.loads(read_outside_file(file, max_bytes=MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error


def _parse_categories(content: Any, source: str) -> Categories:
    listed = parse_categories(get_field(content, 'categories', list, source), source=source)
    is_thing = np.array([category.is_thing for category in listed])
    return Categories(tuple(c.id for c in listed), tuple(c.name for c in listed), is_thing)


def _index_annotations(content: Any, source: str) -> dict[int | str, Mapping[str, Any]]:
    annotations = {}
    for i, annotation in enumerate(get_field(content, 'annotations', list, source)):
        where = f'annotations[{i}] of {source}'
        image_id = get_field(annotation, 'image_id', (int, str), where)
        if image_id in annotations:
            raise ValueError(f'{where}: image_id {image_id!r} is given twice: annotate images once')
        get_file_name(annotation, where)
        annotations[image_id] = annotation
    return annotations
