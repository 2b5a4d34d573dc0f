"""Reads maps of object numbers: one file per image, 0 outside objects, as Cellpose writes them.

Files are PNG of 8 or 16 bits, TIFF or .npy of up to 64 bits; in files with colours each colour but
black is an object. For one class the files lie in a folder, for several in a folder per class. Maps
of classes beside maps of objects are read by --format=voc_pairs.
"""

import functools
import os
from typing import NamedTuple

from etils import epath

from pdl_jax.data import images, label_files
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    LoadedRecord,
    load_image,
    pair_files,
)
from pdl_jax.data.class_lists import DEFAULT_BACKGROUND, ObjectSpec, make_object_spec
from pdl_jax.data.file_tree import RecordNames, list_stems, name_records
from pdl_jax.data.fingerprints import hash_content
from pdl_jax.data.notices import Notices
from pdl_jax.data.objects import ObjectCanvas
from pdl_jax.data.regions import Patch
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

# Cellpose, StarDist, QuPath and others append these to the name of an image.
MASK_TAILS = ('_cp_masks', '_masks', '_mask', '_labels', '_label', '_seg', '_instances')
_REMEDY = 'give the folder of maps of object numbers'
_BINARY = (
    '{} maps hold 0 and 255 only, and so count as one object each: if they are binary masks, pass '
    '--format=object_masks (one file per object) or --format=binary_masks (a class without objects)'
)


class _Item(NamedTuple):
    """An image with its maps, (semantic class, path) of each, and the names of its record."""

    image_path: str
    image_id: str
    maps: tuple[tuple[int, str], ...]
    names: RecordNames


def read_split(
    images_dir: str | os.PathLike,
    labels_dir: str | os.PathLike,
    *,
    class_name: str = '',
    background: str = DEFAULT_BACKGROUND,
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      images_dir: folder of images, which may lie in sub-folders.
      labels_dir: folder of maps with the names of the images; without `class_name` a folder of such
        folders, one per class and with its name.
      class_name: name of the only class.
      background: class of pixels without an object, or 'void'.

    Raises:
      FileNotFoundError: a folder, an image or a map is missing.
      ValueError: a name occurs twice, or an image has too many objects.
    """
    images_dir, labels_dir = paths.make_path(images_dir), paths.make_path(labels_dir)
    folders = _find_folders(labels_dir, class_name)
    categories = [{'id': i, 'name': name} for i, name in enumerate(folders, start=1)]
    make_spec = functools.partial(
        make_object_spec,
        categories,
        source=f'the classes of {labels_dir.name}',
        background=background,
    )
    spec = make_spec().spec
    image_paths = list_stems(images_dir, images.IMAGE_SUFFIXES, remedy='give the folder of images')
    maps: dict[str, list[tuple[int, str]]] = {stem: [] for stem in image_paths}
    notices = Notices()
    for category_id, (name, folder) in enumerate(folders.items(), start=1):
        semantic = spec.class_of_category[category_id]
        label_paths = list_stems(
            labels_dir / folder, label_files.SUFFIXES, remedy=_REMEDY, tails=MASK_TAILS
        )
        stems = list(image_paths)
        if not class_name:
            stems = [stem for stem in stems if stem in label_paths]
            for stem in image_paths.keys() - set(stems):
                notices.add(f'images have no map of {name!r}: kept, without its objects', stem)
        pairs = pair_files(
            {stem: image_paths[stem] for stem in stems},
            label_paths,
            images_dir=images_dir,
            labels_dir=labels_dir / folder,
        )
        for pair in pairs:
            path = f'{folder}/{pair.label_path}' if folder else pair.label_path
            maps[pair.image_id].append((semantic, path))
    names = name_records(list(image_paths.values()))
    items = tuple(
        _Item(path, stem, tuple(maps[stem]), n)
        for (stem, path), n in zip(image_paths.items(), names, strict=True)
    )
    object_spec = make_spec(num_instances=_count_most(items, labels_dir))
    return AnnotatedSplit(
        object_spec.spec,
        items,
        functools.partial(
            _load, object_spec=object_spec, images_dir=images_dir, labels_dir=labels_dir
        ),
        hash_content([items, object_spec.base]),
        notes=notices.to_lines(),
        list_files=functools.partial(_list_files, images_dir=images_dir, labels_dir=labels_dir),
    )


def _list_files(
    item: _Item, *, images_dir: epath.Path, labels_dir: epath.Path
) -> tuple[epath.Path, ...]:
    return images_dir / item.image_path, *(labels_dir / path for _, path in item.maps)


def _find_folders(labels_dir: epath.Path, class_name: str) -> dict[str, str]:
    """Returns class -> folder below `labels_dir`."""
    if class_name:
        return {class_name: ''}
    if not labels_dir.is_dir():
        raise FileNotFoundError(f'folder {os.fspath(labels_dir)} does not exist: {_REMEDY}')
    names = sorted(path.name for path in labels_dir.iterdir() if not path.name.startswith('.'))
    folders = [name for name in names if (labels_dir / name).is_dir()]
    if not folders:
        raise ValueError(
            f'{os.fspath(labels_dir)} has no folder per class: pass --class=NAME for maps of one '
            f'class, or sort the maps into folders named after their classes'
        )
    return {name: name for name in folders}


def _count_most(items: tuple[_Item, ...], labels_dir: epath.Path) -> int:
    """Returns the largest number of objects in a map; maps of 8 bits hold at most 255."""

    def count(path: str) -> int:
        data = read_outside_file(labels_dir / path)
        if not label_files.may_have_many_objects(data, name=path):
            return 255
        return len(label_files.decode_objects(data, name=path)[1])

    paths_of_maps = [path for item in items for _, path in item.maps]
    return max(map(count, paths_of_maps), default=0)


def _load(
    item: _Item, *, object_spec: ObjectSpec, images_dir: epath.Path, labels_dir: epath.Path
) -> LoadedRecord:
    decoded = []
    remarks: dict[str, int] = {}
    for semantic, path in item.maps:
        ids, numbers = label_files.decode_objects(read_outside_file(labels_dir / path), name=path)
        if decoded and ids.shape != decoded[0][1].shape:
            raise ValueError(
                f'{path} has (height, width) {ids.shape}, {item.maps[0][1]} has '
                f'{decoded[0][1].shape}: repair one of them'
            )
        if numbers.tolist() == [255]:
            remarks[_BINARY] = remarks.get(_BINARY, 0) + 1
        decoded.append((semantic, ids, len(numbers)))
    path = images_dir / item.image_path
    if decoded:
        size, label_name = decoded[0][1].shape, item.maps[0][1]
    else:
        size = images.read_header(read_outside_file(path), name=item.image_path).upright_size
        label_name = item.image_path
    image = load_image(path, size=size, name=item.image_path, label_name=label_name)
    canvas = ObjectCanvas(size, sum(number for _, _, number in decoded), item.image_path)
    for semantic, ids, number in decoded:
        canvas.add(Patch(0, 0, ids), [semantic] * number)
    label, overlaps = canvas.make_label(object_spec.base, object_spec.spec)
    return LoadedRecord(
        image=image,
        panoptic=label,
        image_id=item.image_id,
        file_name=item.names.file_name,
        annotation_file_name=item.names.annotation_file_name,
        remarks={**remarks, **overlaps},
    )
