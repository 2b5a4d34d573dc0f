"""Reads CamVid in the grouping of SegNet: 11 classes and void.

Two layouts are recognised by their folders. The original download has 701_StillsRaw_full/NAME.png
and LabeledApproved_full/NAME_L.png in the colours of 32 classes, which SegNet groups into 11. The
copy of the SegNet tutorial has train, val and test beside trainannot, valannot and testannot, at
half the size and already grouped: 0 .. 10, and 11 for void.

The original has no splits. Lists of names beside its folders, train.txt, val.txt and test.txt,
define them; without lists they are the tutorial's 367, 101 and 233 frames, which follow from the
names: val is the part of sequence 0016E5 annotated at 15 Hz; test is Seq05VD and frames from 8550
on of 0001TP.
"""

import functools
import os
import re

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    ImagePair,
    LoadedRecord,
    check_choice,
    list_files,
    list_pair_files,
    load_image,
    make_semantic_translation,
    make_split,
    pair_files,
)
from pdl_jax.data.categories import Category, parse_color
from pdl_jax.data.fingerprints import fingerprint_files
from pdl_jax.data.text_files import read_names
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

SPLITS = ('train', 'val', 'test')

# Void in the PNGs of the tutorial and, as black, in the original ones.
_VOID_INDEX = 11
_VOID_COLOR = 0
# The only one of the 701 labels with colours of no class: strokes of 175 pixels, commonly treated
# as void.
_DAMAGED_LABEL = 'Seq05VD_f02610_L.png'


def make_spec() -> catalog.DatasetSpec:
    """Returns the 11 classes; each has the colour of its first original class."""
    categories = tuple(
        Category(i, name, is_thing=False, color=parse_color(colors[0]))
        for i, (name, colors) in enumerate(_read_groups().items())
    )
    return catalog.DatasetSpec(
        'camvid', categories, first_class=0, ignore_label=255, label_divisor=1000
    )


def read_split(root: str | os.PathLike, split: str) -> AnnotatedSplit:
    """Reads a split for semantic segmentation.

    Args:
      root: folder with 701_StillsRaw_full and LabeledApproved_full, and optionally train.txt,
        val.txt and test.txt; or with the six folders of the SegNet tutorial.
      split: 'train', 'val' or 'test'.

    Raises:
      ValueError: the split does not exist, a list is malformed, or there are no lists and a file
        is not named like a frame of CamVid.
      FileNotFoundError: a folder, a list, an image or a label is missing.
    """
    root = paths.make_path(root)
    check_choice('split', split, SPLITS, dataset='CamVid')
    spec = make_spec()
    remedy = (
        'give the folder with 701_StillsRaw_full and LabeledApproved_full, or CamVid of the SegNet '
        'tutorial with train, trainannot and so on'
    )
    is_original = (root / '701_StillsRaw_full').is_dir()
    images_dir, labels_dir, suffix = root / split, root / f'{split}annot', '.png'
    if is_original:
        images_dir, labels_dir = root / '701_StillsRaw_full', root / 'LabeledApproved_full'
        suffix = '_L.png'
    names = _read_list(root, split) if is_original else None
    pairs = pair_files(
        list_files(images_dir, ('.png',), remedy=remedy),
        list_files(labels_dir, (suffix,), remedy=remedy),
        images_dir=images_dir,
        labels_dir=labels_dir,
        names=names,
    )
    if not is_original:
        class_of_index = {**spec.class_of_category, _VOID_INDEX: spec.ignore_label}
        translate = make_semantic_translation(
            spec, class_of_index, remedy='use the PNGs of the SegNet tutorial, which hold 0 .. 11'
        )
        return make_split(spec, pairs, translate, images_dir=images_dir, labels_dir=labels_dir)

    if names is None:
        pairs = tuple(pair for pair in pairs if _get_split(pair.image_id) == split)
    load = functools.partial(_load_colors, spec=spec, images_dir=images_dir, labels_dir=labels_dir)
    fingerprint = fingerprint_files(labels_dir, [pair.label_path for pair in pairs])
    files = functools.partial(list_pair_files, images_dir=images_dir, labels_dir=labels_dir)
    return AnnotatedSplit(spec, pairs, load, fingerprint, list_files=files)


def _read_list(root: epath.Path, split: str) -> tuple[str, ...] | None:
    """Returns the names in SPLIT.txt; None if no split has a list."""
    if not any((root / f'{name}.txt').exists() for name in SPLITS):
        return None
    # SegNet's split might overlap a list of another split, so all splits need lists or none.
    remedy = 'list the frames of every split, or remove the lists of all for the split of SegNet'
    names = read_names(root / f'{split}.txt', remedy=remedy)
    return tuple(name.removesuffix('.png') for name in names)


def _get_split(name: str) -> str:
    matched = re.fullmatch(r'(0001TP|0006R0|0016E5|Seq05VD)_f?(\d{5,6})', name, re.ASCII)
    if not matched:
        raise ValueError(
            f'{name}.png is not named like a frame of CamVid, 0001TP_006690.png or '
            f'Seq05VD_f00000.png, from which its split follows: restore the names, or list the '
            f'frames in train.txt, val.txt and test.txt'
        )
    sequence, frame = matched[1], int(matched[2])
    if sequence == 'Seq05VD' or (sequence == '0001TP' and frame >= 8550):
        return 'test'
    return 'val' if sequence == '0016E5' and 7959 <= frame <= 8159 else 'train'


def _load_colors(
    pair: ImagePair, *, spec: catalog.DatasetSpec, images_dir: epath.Path, labels_dir: epath.Path
) -> LoadedRecord:
    label_bytes = read_outside_file(labels_dir / pair.label_path)
    codes = images.decode_ids(label_bytes, name=pair.label_path)
    image = load_image(
        images_dir / pair.image_path,
        size=codes.shape,
        name=pair.image_path,
        label_name=pair.label_path,
    )
    return LoadedRecord(
        image=image,
        panoptic=_translate_colors(codes, pair.label_path, spec),
        image_id=pair.image_id,
        file_name=pair.image_path,
        annotation_file_name=pair.annotation_file_name,
    )


def _translate_colors(codes: np.ndarray, name: str, spec: catalog.DatasetSpec) -> np.ndarray:
    """Returns the panoptic label of i32[H, W] colours, R + 256 G + 65536 B."""
    class_of_code = {_VOID_COLOR: spec.ignore_label}
    for semantic, colors in enumerate(_read_groups().values()):
        for color in colors:
            class_of_code[int.from_bytes(bytes.fromhex(color), 'little')] = semantic
    known = np.array(sorted(class_of_code), np.int32)
    classes = np.array([class_of_code[code] for code in known.tolist()], np.int32)
    row = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    is_unknown = known[row] != codes
    if is_unknown.any() and name != _DAMAGED_LABEL:
        y, x = np.argwhere(is_unknown)[0]
        color = tuple(int(codes[y, x]).to_bytes(3, 'little'))
        raise ValueError(
            f'{name} has colour {color} (first at y={y}, x={x}, {int(is_unknown.sum())} unknown '
            f'pixels in all), which is none of the 32 classes: use the PNGs of '
            f'LabeledApproved_full.zip'
        )
    return np.where(is_unknown, spec.ignore_label, classes[row]) * spec.label_divisor


def _read_groups() -> dict[str, tuple[str, ...]]:
    """Returns class -> colours in hex of the original classes in the group."""
    groups = {}
    for line in _GROUPS.strip().splitlines():
        name, members = line.split(': ')
        groups[name] = tuple(member.split()[1] for member in members.split(', '))
    return groups


# Source: camvidPixelLabelIDs of MathWorks, after label_colors.txt of CamVid and SegNet's training.
_GROUPS = """
sky: Sky 808080
building: Building 800000, Bridge 008040, Wall 40c000, Tunnel 400040, Archway c00080
pole: Column_Pole c0c080, TrafficCone 000040
road: Road 804080, LaneMkgsDriv 8000c0, LaneMkgsNonDriv c00040
pavement: Sidewalk 0000c0, ParkingBlock 40c080, RoadShoulder 8080c0
tree: Tree 808000, VegetationMisc c0c000
sign symbol: SignSymbol c08080, Misc_Text 808040, TrafficLight 004040
fence: Fence 404080
car: Car 400080, SUVPickupTruck 4080c0, Truck_Bus c080c0, Train c04080, OtherMoving 804040
pedestrian: Pedestrian 404000, Child c08040, CartLuggagePram 4000c0, Animal 408040
bicyclist: Bicyclist 0080c0, MotorcycleScooter c000c0
"""
