"""Reads classified images: a folder for each class, in a folder for each split or in one.

ROOT/SPLIT/CLASS/*.jpg or ROOT/CLASS/*.jpg, as torchvision's ImageFolder and many others take it.
The classes are the sorted names of the folders, or those of a list in its order.
"""

import os

from etils import epath

from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.classified_split import (
    MAX_SIDE_PX,
    list_class_folders,
    make_class_spec,
    make_classified_split,
    read_class_names,
)
from pdl_jax.data.notices import Notices
from pdl_jax.storage import paths

_REMEDY = 'give the folder that holds a folder of images for each class'


def read_split(
    root: str | os.PathLike,
    split: str = '',
    *,
    classes_path: str | os.PathLike = '',
    max_side_px: int = MAX_SIDE_PX,
) -> AnnotatedSplit:
    """Reads a split of classified images.

    Args:
      root: folder of the data set.
      split: name of the split; its folder in `root`, or `root` itself if there is none.
      classes_path: list of the classes; by default the folders are the classes.
      max_side_px: longest side of stored images, see `make_classified_split`.

    Raises:
      ValueError: an image lies in no folder of a class, or the list is malformed.
      FileNotFoundError: a folder or the list is missing, or there is no image.
    """
    folder = paths.make_path(root)
    if split and (folder / split).is_dir():
        folder = folder / split
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {os.fspath(folder)} does not exist: {_REMEDY}')
    names = _list_folders(folder)
    source = os.fspath(folder)
    if classes_path:
        path = paths.make_path(classes_path)
        names, source = read_class_names(path), path.name
    if not names:
        raise FileNotFoundError(f'folder {os.fspath(folder)} holds no folder: {_REMEDY}')
    notices = Notices()
    return make_classified_split(
        make_class_spec('own', names, source=source, notices=notices),
        list_class_folders(folder, {n: i for i, n in enumerate(names)}, remedy=_REMEDY),
        images_dir=folder,
        max_side_px=max_side_px,
        notices=notices,
    )


def _list_folders(folder: epath.Path) -> tuple[str, ...]:
    return tuple(
        sorted(
            path.name
            for path in folder.iterdir()
            if not path.name.startswith('.') and path.is_dir()
        )
    )
