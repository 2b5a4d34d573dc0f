"""Reads COCO-Stuff 164k as it is published: COCO's images, and stuffthingmaps_trainval2017.zip.

The PNGs hold category id - 1: 0 .. 90 for things, 91 .. 181 for stuff, 255 where nothing is
annotated. 11 ids of things never occur, so 171 classes remain, in the order of the ids; the
benchmark averages over these.
"""

import os

from etils import epath

from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    check_choice,
    list_files,
    make_semantic_translation,
    make_split,
    pair_files,
)
from pdl_jax.storage import paths

SPLITS = {'train': 'train2017', 'val': 'val2017'}
# The zip holds train2017 and val2017; the authors unpack it into `annotations`.
_LABEL_FOLDERS = ('stuffthingmaps', 'stuffthingmaps_trainval2017', 'annotations')
_UNLABELED = 255
# MMSegmentation's converter writes PNGs with other values beside those of the zip.
_CONVERTED = '_labelTrainIds'


def make_spec() -> catalog.DatasetSpec:
    """Returns the 171 classes, with the colours of COCO panoptic where it has the category."""
    coco = catalog.coco().categories
    names = {c.id: c.name for c in coco if c.is_thing}
    names |= dict(enumerate(_STUFF_NAMES.replace('\n', ' ').strip().split(', '), start=92))
    color_of_id = {c.id: c.color for c in coco}
    categories = [
        {'id': i, 'name': name, 'isthing': 0, 'color': color_of_id.get(i)}
        for i, name in names.items()
    ]
    return catalog.from_categories('coco_stuff', categories)


def read_split(root: str | os.PathLike, split: str) -> AnnotatedSplit:
    """Reads a split for semantic segmentation.

    Args:
      root: folder with the images in train2017 and val2017, or in images/train2017 and
        images/val2017, and with the folders of the zip in stuffthingmaps,
        stuffthingmaps_trainval2017 or annotations.
      split: 'train' (118,287 images) or 'val' (5,000).

    Raises:
      ValueError: the split does not exist.
      FileNotFoundError: a folder, an image or a label is missing.
    """
    root = paths.make_path(root)
    check_choice('split', split, tuple(SPLITS), dataset='COCO-Stuff')
    folder = SPLITS[split]
    images_dir = _choose_folder([root / 'images' / folder, root / folder])
    labels_dir = _choose_folder([root / name / folder for name in _LABEL_FOLDERS])
    spec = make_spec()
    class_of_index = {i - 1: semantic for i, semantic in spec.class_of_category.items()}
    absent = sorted(set(range(182)) - set(class_of_index))
    translate = make_semantic_translation(
        spec,
        {**class_of_index, _UNLABELED: spec.ignore_label},
        remedy=(
            f'use the PNGs of stuffthingmaps_trainval2017.zip, which hold 0 .. 181 and '
            f'{_UNLABELED}, but never {", ".join(map(str, absent))}'
        ),
    )
    image_paths = list_files(images_dir, ('.jpg',), remedy='unpack the images of COCO 2017 there')
    label_paths = list_files(
        labels_dir, ('.png',), remedy='unpack stuffthingmaps_trainval2017.zip there'
    )
    pairs = pair_files(
        image_paths,
        {name: path for name, path in label_paths.items() if not name.endswith(_CONVERTED)},
        images_dir=images_dir,
        labels_dir=labels_dir,
    )
    return make_split(spec, pairs, translate, images_dir=images_dir, labels_dir=labels_dir)


def _choose_folder(folders: list[epath.Path]) -> epath.Path:
    """Returns the first folder that exists; else the first one, for the error about it."""
    return next((folder for folder in folders if folder.is_dir()), folders[0])


# Names of the ids 92 .. 182. Source: labels.txt of nightrome/cocostuff.
_STUFF_NAMES = """
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog,
food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat,
metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
