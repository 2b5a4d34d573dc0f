"""Splits made of images with lists of objects: what readers of outlines have in common."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import images
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord, check_image
from pdl_jax.data.class_lists import ObjectSpec
from pdl_jax.data.file_tree import RecordNames, name_records, remove_suffix
from pdl_jax.data.fingerprints import hash_content
from pdl_jax.data.objects import AnnotatedObject, label_objects
from pdl_jax.storage.outside_files import read_outside_file


class ObjectImage(NamedTuple):
    """An image with its objects.

    Attributes:
      image_id: id of the image, of the same type throughout a split.
      image_path: path relative to the folder of images.
      size: (height, width) in pixels that the annotation states, or None.
      objects: the objects; none is allowed.
      source: name of the file that lists them, for error messages.
      label_paths: files of labels, relative to their folder, that the objects are read from.
      base_path: path of the label map below the objects, of data sets that have such.
      is_embedded: whether `image_path` is the annotation file, which holds the image.
      names: names of the record; `make_object_split` sets them.
    """

    image_id: int | str
    image_path: str
    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]
    source: str
    label_paths: tuple[str, ...] = ()
    base_path: str = ''
    is_embedded: bool = False
    names: RecordNames = RecordNames('', '')


def make_object_split(
    object_spec: ObjectSpec,
    object_images: Sequence[ObjectImage],
    *,
    images_dir: epath.Path,
    labels_dir: epath.Path | None = None,
    base_dir: epath.Path | None = None,
    options: Any = None,
    load_base: Callable[..., np.ndarray] | None = None,
    read_embedded: Callable[[ObjectImage], bytes] | None = None,
    notes: Sequence[str] = (),
    num_images_without_annotation: int = 0,
) -> AnnotatedSplit:
    """Makes a split of images with objects.

    Args:
      object_spec: classes, and the label of pixels without an object.
      object_images: the images.
      images_dir, labels_dir, base_dir: folders that their paths are relative to.
      options: whatever the labels depend on besides the files and the spec, such as a hash of the
        annotations; JSON types.
      load_base: function `load_base(item, size)` that returns the panoptic label of pixels without
        an object, i32[H, W], of a data set that has a label map as well; picklable.
      read_embedded: function that returns the image of an item with `is_embedded`; picklable.
      notes, num_images_without_annotation: see `AnnotatedSplit`.

    Raises:
      ValueError: two images would get predictions of the same name.
    """
    names = name_records([item.image_path for item in object_images])
    items = [item._replace(names=n) for item, n in zip(object_images, names, strict=True)]
    load = functools.partial(
        _load_item,
        object_spec=object_spec,
        images_dir=images_dir,
        load_base=load_base,
        read_embedded=read_embedded,
    )
    content = [[[i.image_id, i.image_path, i.label_paths, i.base_path] for i in items], options]
    return AnnotatedSplit(
        object_spec.spec,
        tuple(items),
        load,
        hash_content([object_spec.base, content]),
        num_images_without_annotation=num_images_without_annotation,
        notes=tuple(notes),
        list_files=functools.partial(
            _list_files, images_dir=images_dir, labels_dir=labels_dir, base_dir=base_dir
        ),
    )


def _list_files(
    item: ObjectImage,
    *,
    images_dir: epath.Path,
    labels_dir: epath.Path | None,
    base_dir: epath.Path | None,
) -> tuple[epath.Path, ...]:
    files = []
    if item.is_embedded and labels_dir is not None:
        files.append(labels_dir / item.image_path)
    else:
        files.append(images_dir / item.image_path)
    if labels_dir is not None:
        files.extend(labels_dir / path for path in item.label_paths)
    if base_dir is not None and item.base_path:
        files.append(base_dir / item.base_path)
    return tuple(files)


def _load_item(
    item: ObjectImage,
    *,
    object_spec: ObjectSpec,
    images_dir: epath.Path,
    load_base: Callable[..., np.ndarray] | None,
    read_embedded: Callable[[ObjectImage], bytes] | None,
) -> LoadedRecord:
    file_name = item.names.file_name
    if item.is_embedded and read_embedded:
        data = read_embedded(item)
        file_name = remove_suffix(file_name) + ('.png' if data.startswith(b'\x89PNG') else '.jpg')
    else:
        data = read_outside_file(images_dir / item.image_path)
    # Annotation tools show pictures upright.
    size = item.size or images.read_header(data, name=item.image_path).upright_size
    check_image(data, size=size, name=item.image_path, label_name=item.source)
    base = load_base(item, size) if load_base else object_spec.base
    label, remarks = label_objects(
        item.objects, size=size, base=base, spec=object_spec.spec, name=item.image_path
    )
    return LoadedRecord(
        image=data,
        panoptic=label,
        image_id=item.image_id,
        file_name=file_name,
        annotation_file_name=item.names.annotation_file_name,
        remarks=remarks,
    )
