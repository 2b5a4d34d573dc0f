"""Splits as readers return them, and the parts that readers of label maps share.

A reader is a module with `read_split(root, split, ...) -> AnnotatedSplit`; `prepare` writes any
such split. Most data sets are a folder of images and a folder of PNGs with matching names:
`list_files` and `pair_files` find the pairs and `make_split` makes a split of them, so the reader
only defines the meaning of the PNG's values.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.fingerprints import fingerprint_files
from pdl_jax.storage.outside_files import read_outside_file


@dataclasses.dataclass(frozen=True)
class LoadedRecord:
    """An image with its label.

    Attributes:
      image: unchanged bytes of the image file, whose size is that of `panoptic` as it is stored or
        as its EXIF orientation turns it.
      panoptic: i32[H, W], semantic * label_divisor + instance.
      image_id: an integer (COCO) or a string, the same type throughout a split.
      file_name: name of the image, with folders only where the name alone is not unique.
      annotation_file_name: name of the PNG that a prediction for this image gets, unique in the
        split.
      remarks: what should be told about the split as a whole: wording with {} -> count, e.g.
        '{} objects enclose no pixel' -> 3. The counts of all images are added up.
    """

    image: bytes
    panoptic: np.ndarray
    image_id: int | str
    file_name: str
    annotation_file_name: str
    remarks: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AnnotatedSplit:
    """A validated split of any data set; `load(item)` reads one of its images.

    Attributes:
      spec: classes and label format.
      items: one item per image, in a stable order; picklable.
      load: function from an item to its record; picklable, called in worker processes. It raises
        ValueError with the name of a file that is damaged or contradicts the others.
      fingerprint: identity of the annotations, independent of the folders that hold them.
      num_images_without_annotation: number of images left out for lack of an annotation.
      notes: lines that should be told about how the annotations were read.
      list_files: function from an item to the files that its record is made from, picklable; None:
        they are not known, and whether they have changed shows only when the item is loaded.
    """

    spec: catalog.DatasetSpec
    items: tuple[Any, ...]
    load: Callable[[Any], LoadedRecord]
    fingerprint: str
    num_images_without_annotation: int = 0
    notes: tuple[str, ...] = ()
    list_files: Callable[[Any], tuple[epath.Path, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError(f'the split of {self.spec.name!r} has no annotated image')


class ImagePair(NamedTuple):
    """An image and its label map.

    Attributes:
      image_id, annotation_file_name: see `LoadedRecord`.
      image_path, label_path: paths relative to the folders of images and of label maps.
      file_name: see `LoadedRecord`; by default the name in `image_path`.
    """

    image_id: str
    image_path: str
    label_path: str
    annotation_file_name: str
    file_name: str = ''


def make_split(
    spec: catalog.DatasetSpec,
    pairs: Sequence[ImagePair],
    translate: Callable[..., np.ndarray],
    *,
    images_dir: epath.Path,
    labels_dir: epath.Path,
    options: Any = None,
    decode: Callable[..., np.ndarray] = images.decode_index_map,
) -> AnnotatedSplit:
    """Makes the split of a data set with one label file per image.

    Args:
      spec: classes and label format.
      pairs: the images and their label maps.
      translate: function `translate(index_map, name=...)` from the values of a PNG, i32[H, W], to
        the panoptic label, with the name of the file for errors; picklable. See
        `make_semantic_translation`.
      images_dir, labels_dir: folders that the paths of `pairs` are relative to.
      options: whatever else the labels depend on, besides the files and `spec`; JSON types.
      decode: function `decode(data, name=...)` from the bytes of a label file to its values,
        i32[H, W]; picklable.
    """
    load = functools.partial(
        _load_pair,
        translate=translate,
        images_dir=images_dir,
        labels_dir=labels_dir,
        decode=decode,
    )
    names = [[pair.image_id, pair.image_path] for pair in pairs]
    fingerprint = fingerprint_files(
        labels_dir, [pair.label_path for pair in pairs], options=[names, options]
    )
    files = functools.partial(list_pair_files, images_dir=images_dir, labels_dir=labels_dir)
    return AnnotatedSplit(spec, tuple(pairs), load, fingerprint, list_files=files)


def list_pair_files(
    pair: ImagePair, *, images_dir: epath.Path, labels_dir: epath.Path
) -> tuple[epath.Path, ...]:
    """Lists the files of a pair; see `AnnotatedSplit.list_files`."""
    return images_dir / pair.image_path, labels_dir / pair.label_path


def list_files_with_objects(
    item: tuple[ImagePair, str],
    *,
    images_dir: epath.Path,
    labels_dir: epath.Path,
    objects_dir: epath.Path,
) -> tuple[epath.Path, ...]:
    """Lists the files of a pair and the path of its objects, relative to `objects_dir`."""
    pair, object_path = item
    files = list_pair_files(pair, images_dir=images_dir, labels_dir=labels_dir)
    return (*files, objects_dir / object_path)


def make_semantic_translation(
    spec: catalog.DatasetSpec, class_of_index: Mapping[int, int], *, remedy: str
) -> Callable[..., np.ndarray]:
    """Returns the `translate` of a semantic data set: PNG value -> class * label_divisor.

    Args:
      spec: classes and label format.
      class_of_index: PNG value -> semantic class, for every value that a PNG may hold;
        `spec.ignore_label` for values that mean void.
      remedy: end of the error about any other value.
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
      table: i32[N], value -> label; negative where the value must not occur.
      name: name of the file, for error messages.
      remedy: end of the error.

    Returns:
      The labels, i32[H, W].

    Raises:
      ValueError: a value is not in the table; the message names the first such pixel.
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
    """Reads an image file and checks that it can be decoded and has the size of its label.

    The label may have been drawn on the picture as viewers show it, turned by its EXIF orientation,
    or on the pixels as they are stored; `record_images.encode_record_image` turns it to fit.

    Args:
      path: the file.
      size: (height, width) of the label in pixels.
      name, label_name: names of image and label, for error messages.

    Returns:
      The bytes of the file.

    Raises:
      ValueError: the image is damaged or of another size, or no regular file.
    """
    data = read_outside_file(path)
    check_image(data, size=size, name=name, label_name=label_name)
    return data


def check_image(data: bytes, *, size: tuple[int, int], name: str, label_name: str) -> None:
    """Checks an image as `load_image` does.

    Args:
      data: the bytes of the file.
      size, name, label_name: see `load_image`.

    Raises:
      ValueError: the image is damaged or of another size.
    """
    images.decode_values(data, name=name, num_channels=None)
    header = images.read_header(data, name=name)
    if size not in (header.size, header.upright_size):
        height, width = header.size
        turned = ''
        if header.upright_size != header.size:
            turned = f' and asks to be turned (EXIF orientation {header.orientation})'
        raise ValueError(
            f'{name} has {height}x{width} pixels (height x width){turned}, {label_name} has '
            f'{size[0]}x{size[1]}: repair one of them'
        )


def list_files(
    folder: epath.Path, suffixes: Sequence[str], *, remedy: str, is_nested: bool = False
) -> dict[str, str]:
    """Lists the files of a folder with some suffixes, except hidden ones.

    Args:
      folder: the folder.
      suffixes: ends of the names, e.g. ('.jpg', '.png') or ('_labelIds.png',); case is ignored.
      remedy: end of the error about a missing folder.
      is_nested: whether the files lie one folder deeper; Cityscapes sorts them by city.

    Returns:
      Name without folders and suffix -> path relative to `folder`, sorted.

    Raises:
      FileNotFoundError: the folder is missing or has no such file.
      ValueError: two names differ only in their suffix or folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {os.fspath(folder)} does not exist: {remedy}')
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    if is_nested:
        # Names with a suffix are taken for files: is_dir costs a request per name in a bucket.
        inner_folders = [name for name in names if '.' not in name and (folder / name).is_dir()]
        names = [
            f'{inner}/{path.name}'
            for inner in inner_folders
            for path in sorted((folder / inner).iterdir())
            if not path.name.startswith('.')
        ]
    found: dict[str, str] = {}
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
    """Pairs images and label maps by name; the names become image ids.

    Args:
      image_paths, label_paths: results of `list_files`.
      images_dir, labels_dir: the two folders, for error messages.
      names: the names to pair, in this order; None: all, in the order of the images, and then
        neither folder may hold a name that the other lacks.
      annotation_suffix: suffix of the image id in the names of predictions; None: predictions get
        the names of the label maps.

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


def check_choice(option: str, value: str, choices: Sequence[str], *, dataset: str) -> None:
    """Checks an option of a reader, such as its task or split.

    Args:
      option: name of the option.
      value: its value.
      choices: the values that exist.
      dataset: name of the data set, for the error message.

    Raises:
      ValueError: `value` is not among `choices`; the message lists them.
    """
    if value not in choices:
        raise ValueError(
            f'{option} {value!r} does not exist for {dataset}: choose {" or ".join(choices)}'
        )


def without_things(spec: catalog.DatasetSpec) -> catalog.DatasetSpec:
    """Returns the spec for the semantic task: the same classes without instances."""
    categories = tuple(dataclasses.replace(c, is_thing=False) for c in spec.categories)
    return dataclasses.replace(spec, categories=categories)


def _load_pair(
    pair: ImagePair,
    *,
    translate: Callable[..., np.ndarray],
    images_dir: epath.Path,
    labels_dir: epath.Path,
    decode: Callable[..., np.ndarray],
) -> LoadedRecord:
    data = read_outside_file(labels_dir / pair.label_path)
    index_map = decode(data, name=pair.label_path)
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
        file_name=pair.file_name or pair.image_path.rsplit('/', 1)[-1],
        annotation_file_name=pair.annotation_file_name,
    )


def _refuse_missing(
    wanted: Collection[str], found: Mapping[str, str], kind: str, folder: epath.Path
) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(wanted)} names lack {kind} in {os.fspath(folder)}, first '
            f'{missing[0]}: complete the folders or remove what has no counterpart'
        )
