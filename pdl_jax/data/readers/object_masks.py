"""Reads binary masks, one file per object.

Three layouts are known: IMAGE/images/*.png with IMAGE/masks/*.png, as the Data Science Bowl 2018 is
published; a folder of images, and a folder of masks named after them, IMAGE_1.png or IMAGE/1.png.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import images, label_files
from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.class_lists import DEFAULT_BACKGROUND, make_object_spec
from pdl_jax.data.file_tree import list_stems, list_tree, remove_suffix
from pdl_jax.data.object_split import ObjectImage, make_object_split
from pdl_jax.data.objects import AnnotatedObject
from pdl_jax.data.regions import Patch
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

_REMEDY = (
    'give folders IMAGE/images and IMAGE/masks as --input, or folders as --images and --labels'
)
_SEPARATORS = '_-. '


class _MaskFile(NamedTuple):
    """A file with the mask of one object; a region, see `regions.Region`."""

    folder: epath.Path
    path: str

    def draw(self, size: tuple[int, int]) -> Patch:
        """Returns the pixels of the object."""
        mask = label_files.decode_mask(read_outside_file(self.folder / self.path), name=self.path)
        if mask.shape != size:
            raise ValueError(
                f'it has {mask.shape[0]}x{mask.shape[1]} pixels (height x width), its image has '
                f'{size[0]}x{size[1]}: repair one of them'
            )
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            return Patch(0, 0, np.zeros((0, 0), np.uint8))
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return Patch(int(rows[0]), int(columns[0]), part.astype(np.uint8))


def read_split(
    root: str | os.PathLike = '',
    *,
    class_name: str,
    images_dir: str | os.PathLike = '',
    labels_dir: str | os.PathLike = '',
    background: str = DEFAULT_BACKGROUND,
) -> AnnotatedSplit:
    """Reads a split.

    Args:
      root: folder with IMAGE/images and IMAGE/masks for each image; or '' for two folders:
      images_dir: folder of images.
      labels_dir: folder of masks IMAGE_1.png or IMAGE/1.png.
      class_name: class of the objects.
      background: class of pixels without an object, or 'void'.

    Raises:
      FileNotFoundError: a folder is missing, or no image has a mask.
      ValueError: neither `root` nor both folders are given, or a mask belongs to no image.
    """
    if bool(root) == bool(images_dir or labels_dir) or bool(images_dir) != bool(labels_dir):
        raise ValueError(
            f'--format=object_masks needs --input, or --images and --labels: {_REMEDY}'
        )
    if root:
        images_dir = labels_dir = paths.make_path(root)
        masks_of_image = _match_inside(images_dir)
    else:
        images_dir, labels_dir = paths.make_path(images_dir), paths.make_path(labels_dir)
        masks_of_image = _match_beside(images_dir, labels_dir)
    num_bare = sum(not masks for masks in masks_of_image.values())
    if num_bare == len(masks_of_image):
        raise FileNotFoundError(f'no image of {os.fspath(images_dir)} has a mask: {_REMEDY}')
    notes = [f'{num_bare} images have no mask: kept, without objects'] if num_bare else []

    object_spec = make_object_spec(
        [{'id': 1, 'name': class_name}],
        source='--class',
        background=background,
        num_instances=max(map(len, masks_of_image.values())),
    )
    semantic = object_spec.spec.class_of_category[1]
    object_images = [
        ObjectImage(
            image_id=_get_id(image_path, is_inside=bool(root)),
            image_path=image_path,
            size=None,
            objects=tuple(
                AnnotatedObject(semantic, (_MaskFile(labels_dir, path),), False, path)
                for path in masks
            ),
            source=image_path,
            label_paths=tuple(masks),
        )
        for image_path, masks in masks_of_image.items()
    ]
    return make_object_split(
        object_spec,
        object_images,
        images_dir=images_dir,
        labels_dir=labels_dir,
        notes=notes,
    )


def _get_id(image_path: str, *, is_inside: bool) -> str:
    """Returns the path without ending, or IMAGE of IMAGE/images/NAME.png."""
    return image_path.rpartition('/images/')[0] if is_inside else remove_suffix(image_path)


def _match_inside(root: epath.Path) -> dict[str, list[str]]:
    """Returns image -> masks, of the layout IMAGE/images and IMAGE/masks."""
    suffixes = {*images.IMAGE_SUFFIXES, *label_files.SUFFIXES}
    listing = list_tree(root, sorted(suffixes), remedy=_REMEDY)
    masks: dict[str, list[str]] = {}
    image_of_folder: dict[str, str] = {}
    for path in listing:
        folder = re.fullmatch('(.*)/(images|masks)/[^/]*', path)
        if not folder:
            continue
        if folder[2] == 'masks':
            masks.setdefault(folder[1], []).append(path)
        elif folder[1] in image_of_folder:
            raise ValueError(
                f'{os.fspath(root)} holds {image_of_folder[folder[1]]} and {path}: one image '
                f'belongs into each folder "images"; for a folder of many, pass --images'
            )
        else:
            image_of_folder[folder[1]] = path
    if not image_of_folder:
        raise FileNotFoundError(f'{os.fspath(root)} has no folder IMAGE/images: {_REMEDY}')
    strange = sorted(set(masks) - set(image_of_folder))
    if strange:
        raise ValueError(f'{os.fspath(root)} has {strange[0]}/masks, but no {strange[0]}/images')
    return {path: masks.get(folder, []) for folder, path in image_of_folder.items()}


def _match_beside(images_dir: epath.Path, labels_dir: epath.Path) -> dict[str, list[str]]:
    """Returns image -> masks, of masks that are named after their image."""
    image_paths = list_stems(images_dir, images.IMAGE_SUFFIXES, remedy='give the folder of images')
    mask_paths = list_tree(labels_dir, label_files.SUFFIXES, remedy=_REMEDY)
    masks: dict[str, list[str]] = {path: [] for path in image_paths.values()}
    for path in mask_paths:
        stem = _find_image(remove_suffix(path), image_paths)
        if stem is None:
            raise ValueError(
                f'{path} of {os.fspath(labels_dir)} belongs to no image of '
                f'{os.fspath(images_dir)}: name it after its image, IMAGE_1.png or IMAGE/1.png'
            )
        masks[image_paths[stem]].append(path)
    return {path: sorted(names, key=_sort_key) for path, names in masks.items()}


def _find_image(name: str, image_paths: Mapping[str, str]) -> str | None:
    """Returns the longest name of an image with which the name of a mask starts."""
    if name in image_paths:
        return name
    for end in range(len(name) - 1, 0, -1):
        if name[end] in _SEPARATORS + '/' and name[:end] in image_paths:
            return name[:end]
    return None


def _sort_key(path: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by value: a_2 before a_10."""
    return [
        (int(part[:18]), '') if part.isdecimal() else (-1, part)
        for part in re.split(r'(\d+)', path)
    ]
