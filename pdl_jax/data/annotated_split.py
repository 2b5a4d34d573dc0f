"""What a reader of a data set returns, and what readers of folders of label maps share.

A reader is a module with `read_split(root, split, ...) -> AnnotatedSplit`; `prepare` writes any of
them. Most data sets are a folder of images and a folder of PNGs that pair up by name: `list_files`
and `pair_files` find the pairs, `make_split` turns them into a split, and what is left to the
reader is the meaning of the PNG's values.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images

# Files read at a time for a fingerprint: they are small, so that waiting for them dominates.
_NUM_READERS = 16


@dataclasses.dataclass(frozen=True)
class LoadedRecord:
    """An image with its label.

    Attributes:
      image: the image file's bytes, unchanged.
      panoptic: i32[H, W], semantic * label_divisor + instance.
      image_id: an integer (COCO) or a string, the same type throughout a split.
      file_name: the image's name without folders.
      annotation_file_name: the name of the PNG that predictions for this image get.
    """

    image: bytes
    panoptic: np.ndarray
    image_id: int | str
    file_name: str
    annotation_file_name: str


@dataclasses.dataclass(frozen=True)
class AnnotatedSplit:
    """A validated split of any data set; `load(item)` reads one image of it.

    Attributes:
      spec: classes and label format.
      items: one for each image, in a stable order; picklable.
      load: turns an item into its record; picklable, and called in worker processes. It raises
        ValueError, naming the file, where a file is damaged or contradicts the others.
      fingerprint: identifies the annotations, not where they lie.
      num_images_without_annotation: images that were left out since nothing annotates them.
    """

    spec: catalog.DatasetSpec
    items: tuple[Any, ...]
    load: Callable[[Any], LoadedRecord]
    fingerprint: str
    num_images_without_annotation: int = 0

    def __post_init__(self):
        if not self.items:
            raise ValueError(f'the split of {self.spec.name!r} has no annotated image')


class ImagePair(NamedTuple):
    """An image and its label map.

    Attributes:
      image_id, annotation_file_name: see `LoadedRecord`.
      image_path, label_path: relative to the folders of images and of label maps.
    """

    image_id: int | str
    image_path: str
    label_path: str
    annotation_file_name: str


def make_split(
    spec: catalog.DatasetSpec,
    pairs: Sequence[ImagePair],
    translate: Callable[..., np.ndarray],
    *,
    images_dir: epath.Path,
    labels_dir: epath.Path,
    options: Any = None,
) -> AnnotatedSplit:
    """Makes the split of a data set with one index PNG for each image.

    Args:
      spec: classes and label format.
      pairs: the images and their label maps.
      translate: `translate(index_map, name=...)` turns i32[H, W] of the PNG's values into the
        panoptic label and names the file in errors; picklable. See `make_semantic_translation`.
      images_dir, labels_dir: what the paths of `pairs` are relative to.
      options: JSON types that the labels depend on beside the files and `spec`.
    """
    load = functools.partial(
        _load_pair, translate=translate, images_dir=images_dir, labels_dir=labels_dir
    )
    names = [[pair.image_id, pair.image_path] for pair in pairs]
    fingerprint = fingerprint_files(
        labels_dir, [pair.label_path for pair in pairs], options=[names, options]
    )
    return AnnotatedSplit(spec, tuple(pairs), load, fingerprint)


def make_semantic_translation(
    spec: catalog.DatasetSpec, class_of_index: Mapping[int, int], *, remedy: str
) -> Callable[..., np.ndarray]:
    """Returns the `translate` of a semantic data set: PNG value -> class * label_divisor.

    Args:
      spec: of which the classes and the divisor are used.
      class_of_index: the semantic class of every value that a PNG may hold; `spec.ignore_label`
        for those that mean void.
      remedy: ends the error about another value: what its reader should do.
    """
    table = np.full(max(class_of_index) + 1, -1, np.int32)
    for index, semantic in class_of_index.items():
        table[index] = semantic * spec.label_divisor
    return functools.partial(translate_by_table, table=table, remedy=remedy)


def translate_by_table(
    index_map: np.ndarray, *, table: np.ndarray, name: str, remedy: str
) -> np.ndarray:
    """Replaces every value of a label map.

    Args:
      index_map: i32[H, W], values >= 0.
      table: i32[N], the label of each value; negative where the value must not occur.
      name: names the file in errors.
      remedy: ends the error.

    Returns:
      i32[H, W].

    Raises:
      ValueError: a value is not in the table; the message gives the first such pixel.
    """
    labels = table[np.minimum(index_map, len(table) - 1)]
    is_wrong = (labels < 0) | (index_map >= len(table))
    if is_wrong.any():
        y, x = np.argwhere(is_wrong)[0]
        raise ValueError(
            f'{name} holds value {index_map[y, x]} (first at y={y}, x={x}, '
            f'{int(is_wrong.sum())} such pixels in all), which is no class: {remedy}'
        )
    return labels


def load_image(path: epath.Path, *, size: tuple[int, int], name: str, label_name: str) -> bytes:
    """Reads an image file and checks that it can be decoded and fits its label.

    Args:
      path: the file.
      size: (height, width) of the label.
      name, label_name: name image and label in errors.

    Raises:
      ValueError: the image is damaged or of another size.
    """
    data = path.read_bytes()
    height, width = images.decode_image(data, name=name).shape[:2]
    if (height, width) != size:
        raise ValueError(
            f'{name} has {height}x{width} pixels (height x width), {label_name} has '
            f'{size[0]}x{size[1]}: repair one of them'
        )
    return data


def list_files(
    folder: epath.Path, suffixes: Sequence[str], *, remedy: str, is_nested: bool = False
) -> dict[str, str]:
    """Lists a folder once.

    Args:
      folder: hidden files in it are skipped, as are names that end otherwise.
      suffixes: ends of the names, e.g. ('.jpg', '.png') or ('_labelIds.png',), in lower or upper
        case.
      remedy: ends the error about a missing folder: where it comes from.
      is_nested: whether the files lie in folders of `folder`, as Cityscapes sorts them by city.

    Returns:
      Name without the suffix and without folders -> path relative to `folder`, sorted.

    Raises:
      FileNotFoundError: there is no such folder, or no such file in it.
      ValueError: two files have the same name without suffix.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {os.fspath(folder)} does not exist: {remedy}')
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    if is_nested:
        # A name with a suffix is a file; asking each of them would cost a request in a bucket.
        inner_folders = [name for name in names if '.' not in name and (folder / name).is_dir()]
        names = [
            f'{inner}/{path.name}'
            for inner in inner_folders
            for path in sorted((folder / inner).iterdir())
            if not path.name.startswith('.')
        ]
    found = {}
    for name in names:
        suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
        if suffix is None:
            continue
        stem = name.rsplit('/', 1)[-1][: -len(suffix)]
        if stem in found:
            raise ValueError(
                f'{os.fspath(folder)} holds {found[stem]} and {name}: names without the ending '
                f'must be unique'
            )
        found[stem] = name
    if not found:
        raise FileNotFoundError(
            f'folder {os.fspath(folder)} holds no file *{" or *".join(suffixes)}: {remedy}'
        )
    return found


def pair_files(
    image_paths: Mapping[str, str],
    label_paths: Mapping[str, str],
    *,
    images_dir: epath.Path,
    labels_dir: epath.Path,
    names: Sequence[str] | None = None,
    annotation_suffix: str | None = None,
) -> tuple[ImagePair, ...]:
    """Pairs images and label maps by the names that `list_files` gave; the names become image ids.

    Args:
      image_paths, label_paths: the two listings.
      images_dir, labels_dir: name the folders in errors.
      names: which ones, in this order; None: all, in the order of the images, and then neither
        folder may hold one that the other lacks.
      annotation_suffix: what follows the image id in the names of predictions; None: they get the
        names of the label maps.

    Raises:
      FileNotFoundError: an image or a label map is missing.
    """
    wanted = list(image_paths) if names is None else names
    _refuse_missing(wanted, label_paths, 'a label map', labels_dir)
    _refuse_missing(label_paths if names is None else wanted, image_paths, 'an image', images_dir)

    def make_pair(name: str) -> ImagePair:
        label_path = label_paths[name]
        prediction = label_path.rsplit('/', 1)[-1]
        if annotation_suffix is not None:
            prediction = name + annotation_suffix
        return ImagePair(name, image_paths[name], label_path, prediction)

    return tuple(make_pair(name) for name in wanted)


def read_names(path: epath.Path, *, remedy: str) -> tuple[str, ...]:
    """Reads a list of plain names, one on each line, as data sets define their splits.

    Args:
      path: the list.
      remedy: ends the error about a missing or empty list.

    Raises:
      FileNotFoundError: the list is missing.
      ValueError: it is empty or no text, repeats a name, or holds something else than plain names.
    """
    lines = read_text(path, remedy=remedy).splitlines()
    names = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        where = f'line {number} of {path.name}'
        check_plain_name(name, where)
        if name in names:
            raise ValueError(f'{where}: {name!r} is listed twice, first on line {names[name]}')
        names[name] = number
    if not names:
        raise ValueError(f'list {os.fspath(path)} is empty: {remedy}')
    return tuple(names)


def read_text(path: epath.Path, *, remedy: str) -> str:
    """Reads a text file.

    Args:
      path: the file.
      remedy: ends the error about a missing file.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is not UTF-8.
    """
    if not path.exists():
        raise FileNotFoundError(f'file {os.fspath(path)} does not exist: {remedy}')
    try:
        return path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{os.fspath(path)} is no UTF-8 text: {error}') from error


def read_json(path: epath.Path, *, remedy: str) -> Any:
    """Reads a JSON file; see `read_text`."""
    try:
        return json.loads(read_text(path, remedy=remedy))
    except json.JSONDecodeError as error:
        raise ValueError(f'{os.fspath(path)} is not valid JSON: {error}') from error


def check_plain_name(name: str, where: str) -> None:
    """Checks that a file name from a list or an annotation cannot leave its folder.

    Raises:
      ValueError: it is empty or names a folder.
    """
    if not name or name in ('.', '..') or any(c in name for c in '/\\\0'):
        raise ValueError(
            f'{where}: file_name {name!r} must be a plain name without folders, so that nothing '
            f'outside the given folder is read'
        )


def check_choice(option: str, value: str, choices: Sequence[str], *, dataset: str) -> None:
    """Checks an option of a reader, such as its task or split.

    Raises:
      ValueError: `value` is none of `choices`, which the message lists.
    """
    if value not in choices:
        raise ValueError(
            f'{option} {value!r} does not exist for {dataset}: choose {" or ".join(choices)}'
        )


def without_things(spec: catalog.DatasetSpec) -> catalog.DatasetSpec:
    """Returns the spec for the semantic task: the same classes, none of them with instances."""
    categories = tuple(dataclasses.replace(c, is_thing=False) for c in spec.categories)
    return dataclasses.replace(spec, categories=categories)


def fingerprint_files(folder: epath.Path, names: Sequence[str], *, options: Any = None) -> str:
    """Identifies files by name and content, and options, but not where the files lie.

    Args:
      folder: what `names` are relative to.
      names: the files, in a stable order.
      options: JSON types.

    Returns:
      A SHA-256 in hex.
    """

    def hash_file(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
        hashes = list(zip(names, pool.map(hash_file, names), strict=True))
    content = json.dumps([hashes, options], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _load_pair(
    pair: ImagePair,
    *,
    translate: Callable[..., np.ndarray],
    images_dir: epath.Path,
    labels_dir: epath.Path,
) -> LoadedRecord:
    label_bytes = (labels_dir / pair.label_path).read_bytes()
    index_map = images.decode_index_map(label_bytes, name=pair.label_path)
    image = load_image(
        images_dir / pair.image_path,
        size=index_map.shape,
        name=pair.image_path,
        label_name=pair.label_path,
    )
    return LoadedRecord(
        image=image,
        panoptic=translate(index_map, name=pair.label_path),
        image_id=pair.image_id,
        file_name=pair.image_path.rsplit('/', 1)[-1],
        annotation_file_name=pair.annotation_file_name,
    )


def _refuse_missing(
    wanted: Sequence[str] | Mapping[str, str], found: Mapping[str, str], kind: str, folder: Any
) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(wanted)} names lack {kind} in {os.fspath(folder)}, first '
            f'{missing[0]}: complete the folders or remove what has no counterpart'
        )
