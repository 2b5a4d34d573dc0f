"""Reads YOLO segmentation: images, and a text file per image with one polygon per line.

A line is `class x y x y ...`, the coordinates as fractions of width and height. Folders are laid
out as Ultralytics (images/train, labels/train), as Roboflow (train/images, train/labels), or
without splits (images, labels, or all files in one folder). An image without a text file has no
object.
"""

import functools
import os
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import images
from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.class_lists import DEFAULT_BACKGROUND, make_object_spec, read_class_list
from pdl_jax.data.file_tree import list_tree, remove_suffix
from pdl_jax.data.notices import Notices
from pdl_jax.data.object_split import ObjectImage, make_object_split
from pdl_jax.data.objects import AnnotatedObject, count_most
from pdl_jax.data.regions import Polygon
from pdl_jax.data.text_files import read_text
from pdl_jax.storage import paths

_REMEDY = 'give the folder with images and labels, or with data.yaml'
_CLASS_FILES = ('data.yaml', 'dataset.yaml', 'data.yml', 'classes.txt', 'obj.names')
# Names of files that are no labels.
_NO_LABELS = ('classes', 'readme', 'train', 'val', 'test', 'notes')
_NAMES_OF_SPLIT = {'val': ('val', 'valid', 'validation')}
# Tools round and let outlines reach over the edge a little.
_MIN_FRACTION, _MAX_FRACTION = -0.05, 1.05


class _Folders(NamedTuple):
    images_dir: epath.Path
    labels_dir: epath.Path


def read_split(
    root: str | os.PathLike,
    split: str = '',
    *,
    classes_path: str | os.PathLike = '',
    background: str = DEFAULT_BACKGROUND,
    stuff: str = '',
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      root: folder of the data set.
      split: name of the split, where the folders have splits.
      classes_path: list of the classes; by default data.yaml or classes.txt in `root`.
      background: class of pixels without an object, or 'void'.
      stuff: names of classes that are stuff, separated by commas; their regions are no objects.

    Raises:
      FileNotFoundError: a folder or the list of classes is missing.
      ValueError: a file is malformed, or holds boxes.
    """
    root = paths.make_path(root)
    folders = _find_folders(root, split)
    path = paths.make_path(classes_path) if classes_path else _find_classes(root)
    categories = read_class_list(path).categories
    make_spec = functools.partial(
        make_object_spec, categories, source=path.name, background=background, stuff=stuff
    )
    object_spec = make_spec()
    # The id that the background got is no class of the files.
    class_of_id = {c['id']: object_spec.spec.class_of_category[c['id']] for c in categories}

    image_paths = list_tree(folders.images_dir, images.IMAGE_SUFFIXES, remedy=_REMEDY)
    label_paths = _list_labels(folders.labels_dir)
    notices = Notices()
    object_images, used = [], []
    for image_path in image_paths:
        stem = remove_suffix(image_path)
        objects: tuple[AnnotatedObject, ...] = ()
        if stem in label_paths:
            used.append(label_paths[stem])
            text = read_text(folders.labels_dir / used[-1], remedy=_REMEDY)
            objects = _parse_lines(text, used[-1], class_of_id, path.name)
        else:
            notices.add('images have no text file: kept, without objects', image_path)
        label_path = label_paths.get(stem)
        object_images.append(
            ObjectImage(
                image_id=stem,
                image_path=image_path,
                size=None,
                objects=objects,
                source=label_path or image_path,
                label_paths=(label_path,) if label_path else (),
            )
        )
    _check_pairs(label_paths, used, folders, notices)
    object_spec = make_spec(num_instances=count_most([item.objects for item in object_images]))
    return make_object_split(
        object_spec,
        object_images,
        images_dir=folders.images_dir,
        labels_dir=folders.labels_dir,
        notes=notices.to_lines(),
    )


def _find_folders(root: epath.Path, split: str) -> _Folders:
    if not root.is_dir():
        raise FileNotFoundError(f'folder {os.fspath(root)} does not exist: {_REMEDY}')
    names = _NAMES_OF_SPLIT.get(split, (split,)) if split else ()
    for name in names:
        for folders in (
            _Folders(root / 'images' / name, root / 'labels' / name),
            _Folders(root / name / 'images', root / name / 'labels'),
        ):
            if folders.images_dir.is_dir():
                return folders
    found = [
        name
        for name in ('train', 'val', 'valid', 'validation', 'test')
        if (root / 'images' / name).is_dir() or (root / name / 'images').is_dir()
    ]
    if found:
        wanted = f'--split={split} is none of them' if split else 'it needs no --val_fraction'
        raise ValueError(
            f'{os.fspath(root)} has the splits {", ".join(found)}, and {wanted}: prepare each with '
            f'--split'
        )
    if (root / 'images').is_dir():
        return _Folders(root / 'images', root / 'labels')
    return _Folders(root, root)


def _find_classes(root: epath.Path) -> epath.Path:
    for folder in (root, root / 'labels', root.parent):
        for name in _CLASS_FILES:
            if (folder / name).exists():
                return folder / name
    raise FileNotFoundError(
        f'{os.fspath(root)} has none of {", ".join(_CLASS_FILES)}, which name the classes: pass '
        f'--classes=FILE'
    )


def _list_labels(folder: epath.Path) -> dict[str, str]:
    """Returns path without ending -> path, of text files that may be labels."""
    listing = list_tree(folder, ('.txt',), remedy=_REMEDY)
    return {
        remove_suffix(path): path
        for path in listing
        if '/' in path or remove_suffix(path).lower().partition('.')[0] not in _NO_LABELS
    }


def _check_pairs(
    label_paths: dict[str, str], used: list[str], folders: _Folders, notices: Notices
) -> None:
    """Tells of text files without an image; refuses folders that do not match at all."""
    if not used:
        raise FileNotFoundError(
            f'no text file of {os.fspath(folders.labels_dir)} has the name of an image of '
            f'{os.fspath(folders.images_dir)}: give both the same names'
        )
    for path in sorted(set(label_paths.values()) - set(used)):
        notices.add('text files belong to no image: left out', path)


def _parse_lines(
    text: str, name: str, class_of_id: dict[int, int], source: str
) -> tuple[AnnotatedObject, ...]:
    objects = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f'line {number} of {name}'
        if not words[0].isascii() or not words[0].isdigit() or len(words[0]) > 9:
            raise ValueError(f'{where}: the class must be an integer >= 0, got {words[0]!r:.60}')
        index = int(words[0])
        if index not in class_of_id:
            raise ValueError(
                f'{where}: class {index} is not in {source}, which has {len(class_of_id)}: add it'
            )
        if len(words) == 5:
            raise ValueError(
                f'{where} has four numbers, a box (centre, width, height): this network learns '
                f'from outlines; export the data set for segmentation'
            )
        points = _parse_points(words[1:], where)
        objects.append(AnnotatedObject(class_of_id[index], (Polygon(points, True),), False, where))
    return tuple(objects)


def _parse_points(words: list[str], where: str) -> np.ndarray:
    """Returns f64[N, 2], (x, y) as fractions of width and height."""
    try:
        values: Any = np.array(words, np.float64)
    except ValueError as error:
        raise ValueError(f'{where} holds other than numbers: {error}') from error
    if values.size < 6 or values.size % 2:
        raise ValueError(
            f'{where} has {values.size} numbers after the class: an outline is x y x y x y ..., '
            f'at least three points'
        )
    is_wrong = ~((values >= _MIN_FRACTION) & (values <= _MAX_FRACTION))
    if is_wrong.any():
        raise ValueError(
            f'{where} holds {values[is_wrong][0]:g}: coordinates are fractions of width and '
            f'height from 0 to 1; divide pixels by them'
        )
    return values.reshape(-1, 2)
