"""Reads ImageNet (ILSVRC 2012, classification) in its official layouts.

The folder holds train and val, directly, or as ILSVRC/Data/CLS-LOC or Data/CLS-LOC. The images of
train lie in a folder for each synset (n01440764/n01440764_10026.JPEG). Those of val lie in such
folders too, or flat as they are published; then one of these files beside the folders or above them
has their classes:

    LOC_val_solution.csv                         ImageId,PredictionString of the download with LOC
    imagenet_2012_validation_synset_labels.txt   a synset per line, in the order of the names
    ILSVRC2012_validation_ground_truth.txt       numbers of the development kit, with map_clsloc.txt

The 1000 classes are the synsets in the order of their numbers, which is that of all published
weights. LOC_synset_mapping.txt or synset_words.txt has their names.
"""

import csv
import io
import os
import re
from collections.abc import Mapping

from etils import epath

from pdl_jax.data.annotated_split import AnnotatedSplit, check_choice
from pdl_jax.data.classified_split import (
    MAX_SIDE_PX,
    ClassifiedImage,
    list_class_folders,
    make_class_spec,
    make_classified_split,
)
from pdl_jax.data.file_tree import list_tree
from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.data.notices import Notices
from pdl_jax.data.text_files import read_text
from pdl_jax.storage import paths

SPLITS = ('train', 'val')
_DATA_FOLDERS = ('', 'ILSVRC/Data/CLS-LOC', 'Data/CLS-LOC')
_NAME_FILES = ('LOC_synset_mapping.txt', 'synset_words.txt')
_SYNSET = re.compile(r'n\d{8}')
_REMEDY = 'give the folder with train and val of ILSVRC 2012'


def read_split(
    root: str | os.PathLike, split: str, *, max_side_px: int = MAX_SIDE_PX
) -> AnnotatedSplit:
    """Reads a split of ImageNet.

    Args:
      root: folder of the data set.
      split: 'train' or 'val'.
      max_side_px: longest side of stored images, see `make_classified_split`.

    Raises:
      ValueError: the split does not exist, or a list is malformed or contradicts the images.
      FileNotFoundError: a folder or a list is missing, or there is no image.
    """
    root = paths.make_path(root)
    check_choice('split', split, SPLITS, dataset='ImageNet')
    folder = next(
        (root / inner / split for inner in _DATA_FOLDERS if (root / inner / split).is_dir()), None
    )
    if folder is None:
        raise FileNotFoundError(f'{os.fspath(root)} holds no folder {split}: {_REMEDY}')
    named = _read_names(root, folder.parent)
    synsets = sorted(named) or _list_synsets(folder.parent)
    class_of_synset = {synset: i for i, synset in enumerate(synsets)}
    notices = Notices()
    names = [named.get(synset, synset) for synset in synsets]
    spec = make_class_spec('imagenet', names, source=os.fspath(root), notices=notices)
    if any(path.name in class_of_synset for path in folder.iterdir()):
        items = list_class_folders(folder, class_of_synset, remedy=_REMEDY)
    else:
        items = _list_flat(folder, root, class_of_synset)
    return make_classified_split(
        spec, items, images_dir=folder, max_side_px=max_side_px, options=synsets, notices=notices
    )


def _list_synsets(folder: epath.Path) -> list[str]:
    """Lists the folders of train or val by their names."""
    for split in SPLITS:
        if (folder / split).is_dir():
            names = [p.name for p in (folder / split).iterdir() if _SYNSET.fullmatch(p.name)]
            if names:
                return sorted(names)
    raise FileNotFoundError(
        f'{os.fspath(folder)} holds no folder of a synset such as n01440764, and there is no '
        f'{" or ".join(_NAME_FILES)}: {_REMEDY}'
    )


def _find(name: str, *folders: epath.Path) -> epath.Path | None:
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def _read_names(*folders: epath.Path) -> dict[str, str]:
    """Reads synset -> first of its names; empty if there is no list."""
    path = next((p for name in _NAME_FILES if (p := _find(name, *folders))), None)
    if path is None:
        return {}
    found = {}
    for number, line in enumerate(read_text(path, remedy=_REMEDY).splitlines(), start=1):
        synset, _, words = line.strip().partition(' ')
        if not synset:
            continue
        if not _SYNSET.fullmatch(synset) or not words.strip() or synset in found:
            raise ValueError(
                f'line {number} of {path.name} must be a synset and its names, such as '
                f'"n01440764 tench, Tinca tinca", each synset once'
            )
        found[synset] = words.split(',')[0].strip()
    return found


def _list_flat(
    folder: epath.Path, root: epath.Path, class_of_synset: Mapping[str, int]
) -> list[ClassifiedImage]:
    """Lists the images of val as they are published, with the classes of a list."""
    image_paths = list_tree(folder, IMAGE_SUFFIXES, remedy=_REMEDY)
    synset_of_image, source = _read_solution(image_paths, folder.parent, root)
    items = []
    for path in image_paths:
        synset = synset_of_image.get(path.rpartition('.')[0], '')
        if synset not in class_of_synset:
            raise ValueError(
                f'{source}: {path} has the synset {synset!r}, which is none of the '
                f'{len(class_of_synset)} classes: give the list that belongs to the images'
            )
        items.append(ClassifiedImage(path, class_of_synset[synset]))
    return items


def _read_solution(
    image_paths: tuple[str, ...], *folders: epath.Path
) -> tuple[dict[str, str], str]:
    """Reads image name without ending -> synset, and the name of the file that says so."""
    if path := _find('LOC_val_solution.csv', *folders):
        rows = list(csv.reader(io.StringIO(read_text(path, remedy=_REMEDY))))
        # Boxes follow the synset, which is the same for all of them.
        pairs = {row[0]: row[1].split(' ')[0] for row in rows if len(row) == 2}
        return pairs, path.name
    if path := _find('imagenet_2012_validation_synset_labels.txt', *folders):
        synsets = read_text(path, remedy=_REMEDY).split()
    elif path := _find('ILSVRC2012_validation_ground_truth.txt', *folders):
        synsets = _read_ground_truth(path, *folders)
    else:
        raise FileNotFoundError(
            f'{os.fspath(folders[0])}: the images of val lie in no folders of synsets, and there '
            f'is no LOC_val_solution.csv, imagenet_2012_validation_synset_labels.txt or '
            f'ILSVRC2012_validation_ground_truth.txt: put one of them beside val'
        )
    if len(synsets) != len(image_paths):
        raise ValueError(
            f'{path.name} has {len(synsets)} lines for {len(image_paths)} images of val: give all '
            f'images'
        )
    stems = (image_path.rpartition('.')[0] for image_path in image_paths)
    return dict(zip(stems, synsets, strict=True)), path.name


def _read_ground_truth(path: epath.Path, *folders: epath.Path) -> list[str]:
    """Reads the synsets of val by their numbers in the development kit."""
    table = _find('map_clsloc.txt', *folders)
    if table is None:
        raise FileNotFoundError(
            f'{path.name} needs map_clsloc.txt of the development kit beside it'
        )
    lines = (line.split() for line in read_text(table, remedy=_REMEDY).splitlines())
    synset_of_id = {words[1]: words[0] for words in lines if len(words) >= 2}
    return [synset_of_id.get(number, number) for number in read_text(path, remedy=_REMEDY).split()]
