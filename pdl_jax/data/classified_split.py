"""Splits of classified images: every pixel of an image has the class of the image."""

import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.data.class_lists import read_class_list
from pdl_jax.data.file_tree import RecordNames, list_tree, name_records
from pdl_jax.data.fingerprints import hash_content
from pdl_jax.data.notices import Notices
from pdl_jax.storage.outside_files import read_outside_file

# Longest side in pixels of stored images: the input of a classifier is far smaller, and batches
# have the size of the largest image.
MAX_SIDE_PX = 640
_JPEG_QUALITY = 95


class ClassifiedImage(NamedTuple):
    """An image and its class.

    Attributes:
      image_path: path relative to the folder of images, or another name that is unique in the
        split.
      semantic: the semantic class.
      names: names of the record; `make_classified_split` sets them.
    """

    image_path: str
    semantic: int
    names: RecordNames = RecordNames('', '')


def make_class_spec(
    name: str, class_names: Sequence[str], *, source: str, notices: Notices | None = None
) -> catalog.DatasetSpec:
    """Makes the spec of classes 0, 1, ... by their names.

    Args:
      name: name of the data set.
      class_names: the names.
      source: the file or folder that they come from, for error messages.
      notices: see `catalog.from_categories`.
    """
    categories = [{'id': i, 'name': n, 'isthing': 0} for i, n in enumerate(class_names)]
    return catalog.from_categories(name, categories, source=source, notices=notices)


def read_class_names(path: epath.Path) -> tuple[str, ...]:
    """Reads the names of a list of classes, in its order."""
    return tuple(str(category['name']) for category in read_class_list(path).categories)


def list_class_folders(
    folder: epath.Path, class_of_folder: Mapping[str, int], *, remedy: str
) -> list[ClassifiedImage]:
    """Lists the images of a folder for each class, which are sorted by folder and name.

    Args:
      folder: holds the folders.
      class_of_folder: name of a folder -> semantic class; empty folders are left out.
      remedy: end of the error about a folder without images.

    Raises:
      FileNotFoundError: there is no image.
      ValueError: an image lies in another folder.
    """
    found = []
    for path in list_tree(folder, images.IMAGE_SUFFIXES, remedy=remedy):
        name = path.partition('/')[0] if '/' in path else ''
        if name not in class_of_folder:
            raise ValueError(
                f'{os.fspath(folder)}: {path} lies in no folder of a class '
                f'({", ".join(list(class_of_folder)[:4])}, ...): {remedy}'
            )
        found.append(ClassifiedImage(path, class_of_folder[name]))
    return found


def make_classified_split(
    spec: catalog.DatasetSpec,
    items: Sequence[ClassifiedImage],
    *,
    images_dir: epath.Path,
    max_side_px: int,
    read: Callable[[ClassifiedImage], bytes] | None = None,
    options: Any = None,
    notices: Notices | None = None,
) -> AnnotatedSplit:
    """Makes the split of classified images.

    Args:
      spec: the classes.
      items: the images.
      images_dir: folder that their paths are relative to.
      max_side_px: images with a longer side are shrunk to it, as JPEG; 0 shrinks none.
      read: function from an item to the bytes of its image file, picklable; None reads
        `image_path`.
      options: whatever else the labels depend on; JSON types.
      notices: remarks that should be told.

    Raises:
      ValueError: `max_side_px` is negative, or two images would have the same name.
    """
    if max_side_px < 0:
        raise ValueError(f'max_side (={max_side_px}) must not be negative')
    names = name_records([item.image_path for item in items])
    items = tuple(item._replace(names=n) for item, n in zip(items, names, strict=True))
    load = functools.partial(
        _load,
        spec=spec,
        max_side_px=max_side_px,
        read=read or functools.partial(_read_file, images_dir=images_dir),
    )
    content = [[item.image_path, item.semantic] for item in items]
    files = None if read else functools.partial(_list_files, images_dir=images_dir)
    return AnnotatedSplit(
        spec,
        items,
        load,
        fingerprint=hash_content([content, max_side_px, options]),
        notes=() if notices is None else notices.to_lines(),
        list_files=files,
    )


def _list_files(item: ClassifiedImage, *, images_dir: epath.Path) -> tuple[epath.Path, ...]:
    return (images_dir / item.image_path,)


def _read_file(item: ClassifiedImage, *, images_dir: epath.Path) -> bytes:
    return read_outside_file(images_dir / item.image_path)


def _load(
    item: ClassifiedImage,
    *,
    spec: catalog.DatasetSpec,
    max_side_px: int,
    read: Callable[[ClassifiedImage], bytes],
) -> LoadedRecord:
    data, name = read(item), item.image_path
    # Decoded also if it is kept as it is, to find damage now.
    values = images.decode_values(data, name=name, num_channels=None)
    header = images.read_header(data, name=name)
    size = header.upright_size
    if max_side_px and max(size) > max_side_px and not header.is_deep and not header.is_tiff:
        data = _shrink(images.turn_upright(values, header.orientation), max_side_px)
        size = images.read_header(data, name=name).size
    return LoadedRecord(
        image=data,
        panoptic=np.full(size, item.semantic * spec.label_divisor, np.int32),
        image_id=item.names.file_name,
        file_name=item.names.file_name,
        annotation_file_name=item.names.annotation_file_name,
    )


def _shrink(values: np.ndarray, max_side_px: int) -> bytes:
    """Shrinks u8[H, W, C] and encodes it as JPEG, as PNG if that has no such channels."""
    height, width = values.shape[:2]
    factor = max_side_px / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    channels = [Image.fromarray(channel) for channel in np.moveaxis(values, -1, 0)]
    resized = [channel.resize(size, Image.Resampling.BILINEAR) for channel in channels]
    small = np.stack([np.asarray(channel) for channel in resized], axis=-1)
    if small.shape[2] not in (1, 3):
        return images.encode_image(small)
    stream = io.BytesIO()
    picture = Image.fromarray(small[..., 0] if small.shape[2] == 1 else small)
    picture.save(stream, 'JPEG', quality=_JPEG_QUALITY)
    return stream.getvalue()
