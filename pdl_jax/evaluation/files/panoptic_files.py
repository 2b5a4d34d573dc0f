"""JSON files of labels and of predictions in the COCO panoptic format, paired by image.

Files are not trusted: errors name the file, the field, its value and the remedy. No framework is
imported, so that scoring files starts at once.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from pdl_jax.data.categories import parse_categories
from pdl_jax.data.file_names import FolderFiles
from pdl_jax.data.json_fields import get_field, has_value, to_integer
from pdl_jax.data.notices import Notices
from pdl_jax.data.segments_info import (
    find_countable,
    group_annotations,
    parse_image_id,
    refuse_other_formats,
)
from pdl_jax.storage.json_files import read_json

if TYPE_CHECKING:
    from etils import epath

FilePath: TypeAlias = 'pathlib.Path | epath.Path'
# (place, annotation) of each annotation of an image; most images have one.
_Group: TypeAlias = list[tuple[str, Mapping[str, Any]]]


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


class FileEntry(NamedTuple):
    """A label or a prediction of one image.

    Attributes:
      png: path of the PNG relative to its folder.
      annotations: (place, annotation) of each annotation of the image, not yet checked.
    """

    png: str
    annotations: _Group


class FilePair(NamedTuple):
    """Label and prediction of one image."""

    label: FileEntry
    prediction: FileEntry


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
    notices: Notices,
) -> tuple[PanopticFiles, list[FilePair]]:
    """Reads both JSON files and pairs their images.

    Args:
      label_json, label_dir, prediction_json, prediction_dir: the JSON files and folders of PNGs.
      notices: collection of remarks about what was derived or repaired.

    Returns:
      The folders and categories, and one pair per annotated image, ascending by image id.

    Raises:
      FileNotFoundError: a folder or a file is missing.
      ValueError: a JSON file is malformed, or lacks an image.
    """
    folders = {}
    for field, path in (('label', label_dir), ('prediction', prediction_dir)):
        folders[field] = make_path(path)
        if not folders[field].is_dir():
            raise FileNotFoundError(f'the folder of {field} PNGs {path} does not exist')
    labels = _read_content(label_json, notices)
    categories = _parse_categories(labels, str(label_json), notices)
    label_of_image = _index_annotations(labels, str(label_json), notices)
    if not label_of_image:
        raise ValueError(f'annotations of {label_json} is empty: there is no image to score')
    predictions = _read_content(prediction_json, notices)
    prediction_of_image = _match_ids(
        label_of_image,
        _index_annotations(predictions, str(prediction_json), notices),
        str(prediction_json),
        notices,
    )
    missing = [i for i in label_of_image if i not in prediction_of_image]
    if missing:
        raise ValueError(
            f'{prediction_json} lacks {len(missing)} of the {len(label_of_image)} images that '
            f'{label_json} annotates, first image_id {missing[0]!r}: predict every image; one '
            f'without segments has an empty segments_info'
        )
    find_label = _PngFinder('label', folders['label'], notices)
    find_prediction = _PngFinder('prediction', folders['prediction'], notices)
    pairs = []
    # The order of pycocotools, which breaks ties of the score. Integers come before text: Python
    # cannot compare the two.
    for key in sorted(label_of_image, key=lambda i: (isinstance(i, str), i)):
        label = label_of_image[key]
        prediction = prediction_of_image[key]
        pairs.append(
            FilePair(
                FileEntry(find_label(label, label), label),
                FileEntry(find_prediction(prediction, label), prediction),
            )
        )
    return PanopticFiles(folders['label'], folders['prediction'], categories), pairs


class _PngFinder:
    """Function from the annotations of an image to its PNG."""

    def __init__(self, kind: str, folder: FilePath, notices: Notices) -> None:
        self._kind = kind
        self._folder = folder
        self._notices = notices
        self._files = FolderFiles(folder, ('.png',), notices)

    def __call__(self, annotations: _Group, label: _Group) -> str:
        """Returns the path relative to the folder; the label's file name stands in."""
        name, where = _get_file_name(annotations)
        if name is None:
            name, _ = _get_file_name(label)
            if name is None:
                raise ValueError(f"{where} lacks the field 'file_name': add the name of its PNG")
            text = 'predictions lack file_name: the name of the label was taken'
            self._notices.add(text, where)
        found = self._files.find(name, where)
        if found is None:
            raise FileNotFoundError(
                f'{where}: {self._kind} PNG {name[:200]} does not exist in {self._folder}: check '
                f'that the folder belongs to the JSON file'
            )
        return found


def _get_file_name(annotations: _Group) -> tuple[str | None, str]:
    for where, values in annotations:
        if has_value(values, 'file_name', where):
            return get_field(values, 'file_name', str, where), where
    return None, annotations[0][0]


def _read_content(path: str | os.PathLike, notices: Notices) -> Any:
    file = make_path(path)
    if not file.exists():
        raise FileNotFoundError(f'{path} does not exist')
    content = read_json(file, allow_nan=True)
    if isinstance(content, list):
        # The style of pycocotools' results.
        notices.add('annotations lie in a bare list: read as the field annotations', str(path))
        return {'annotations': content}
    refuse_other_formats(content, str(path))
    return content


def _parse_categories(content: Any, source: str, notices: Notices) -> Categories:
    listed = parse_categories(
        get_field(content, 'categories', list, source),
        source=source,
        notices=notices,
        guess_things=lambda: find_countable(get_field(content, 'annotations', list, source)),
    )
    is_thing = np.array([category.is_thing for category in listed])
    return Categories(tuple(c.id for c in listed), tuple(c.name for c in listed), is_thing)


def _index_annotations(content: Any, source: str, notices: Notices) -> dict[int | str, _Group]:
    """Returns image id -> annotations."""
    groups = group_annotations(
        get_field(content, 'annotations', list, source), source, notices
    ).values()
    return {parse_image_id(g[0][1], 'image_id', g[0][0], Notices()): g for g in groups}


def _match_ids(
    labels: Mapping[int | str, _Group],
    predictions: Mapping[int | str, _Group],
    source: str,
    notices: Notices,
) -> dict[int | str, _Group]:
    """Returns the predictions by the image ids of the labels, also where their types differ."""
    by_text: dict[str, list[int | str]] = {}
    for image_id in predictions:
        number = to_integer(image_id)
        by_text.setdefault(str(image_id if number is None else number), []).append(image_id)
    matched = {}
    for image_id in labels:
        number = to_integer(image_id)
        similar = by_text.get(str(image_id if number is None else number), [])
        if image_id in predictions:
            matched[image_id] = predictions[image_id]
        elif len(similar) == 1:
            matched[image_id] = predictions[similar[0]]
            text = 'predictions have image ids of another type than the labels, like "1" for 1'
            notices.add(text, f'{similar[0]!r} for {image_id!r} in {source}')
    return matched
