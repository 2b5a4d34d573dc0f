"""Reads ADE20K as the scene parsing benchmark publishes it (ADEChallengeData2016).

annotations/SPLIT/*.png hold the classes 1 .. 150, and 0 where nothing is annotated. The panoptic
task also needs annotations_instance/SPLIT/*.png, which the Places challenge 2017 publishes
separately (annotations_instance.tar, to be unpacked beside annotations): red is the category,
1 .. 100, green numbers the objects of the image from 1, blue is unused.

The two are merged as in Mask2Former's prepare_ade20k_pan_seg.py, whose output DeepLab2 reads: stuff
comes from annotations, and every object of annotations_instance is painted over it. The thing
pixels of annotations are not used, so a thing without an object is void.

The panoptic task has DeepLab2's 151 classes, of which 0 is void. The semantic task has the 150
classes of the benchmark in the same order, and void is not among them.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    ImagePair,
    LoadedRecord,
    check_choice,
    list_files,
    list_files_with_objects,
    make_semantic_translation,
    make_split,
    pair_files,
    without_things,
)
from pdl_jax.data.categories import read_table
from pdl_jax.data.fingerprints import fingerprint_files
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

SPLITS = {'train': 'training', 'val': 'validation'}
TASKS = ('panoptic', 'semantic')

_WRONG_LABEL = 'use the PNGs of ADEChallengeData2016.zip, which hold 0 .. 150'
_WRONG_OBJECT = 'use the PNGs of annotations_instance.tar of the Places challenge 2017'


def make_spec(task: str) -> catalog.DatasetSpec:
    """Returns the classes: the ids 1 .. 150 of objectInfo150.txt with their first names there.

    Args:
      task: 'panoptic' or 'semantic'.
    """
    things = read_table(_THINGS, is_thing=True)
    stuff = read_table(_STUFF, is_thing=False)
    categories = tuple(sorted(things + stuff, key=lambda category: category.id))
    if task == 'panoptic':
        return catalog.DatasetSpec(
            'ade20k', categories, first_class=1, ignore_label=0, label_divisor=1000
        )
    return without_things(
        catalog.DatasetSpec(
            'ade20k', categories, first_class=0, ignore_label=255, label_divisor=1000
        )
    )


def read_split(root: str | os.PathLike, split: str, *, task: str = 'panoptic') -> AnnotatedSplit:
    """Reads a split.

    Args:
      root: the folder ADEChallengeData2016, which holds images and annotations.
      split: 'train' (20,210 images) or 'val' (2,000).
      task: 'panoptic' (100 classes of things, 50 of stuff) or 'semantic' (150 classes).

    Raises:
      ValueError: the split or task does not exist.
      FileNotFoundError: a folder, an image or a label is missing.
    """
    root = paths.make_path(root)
    check_choice('split', split, tuple(SPLITS), dataset='ADE20K')
    check_choice('task', task, TASKS, dataset='ADE20K')
    images_dir = root / 'images' / SPLITS[split]
    labels_dir = root / 'annotations' / SPLITS[split]
    remedy = 'unpack ADEChallengeData2016.zip and give the folder of this name'
    image_paths = list_files(images_dir, ('.jpg',), remedy=remedy)
    label_paths = list_files(labels_dir, ('.png',), remedy=remedy)
    pairs = pair_files(image_paths, label_paths, images_dir=images_dir, labels_dir=labels_dir)

    spec = make_spec(task)
    things = spec.label_format.thing_classes
    class_of_index = {0: spec.ignore_label}
    for index, semantic in spec.class_of_category.items():
        class_of_index[index] = spec.ignore_label if semantic in things else semantic
    translate = make_semantic_translation(spec, class_of_index, remedy=_WRONG_LABEL)
    without_objects = make_split(
        spec, pairs, translate, images_dir=images_dir, labels_dir=labels_dir
    )
    if task == 'semantic':
        return without_objects

    objects_dir = root / 'annotations_instance' / SPLITS[split]
    remedy = (
        'unpack annotations_instance.tar of the Places challenge 2017 beside annotations, or pass '
        '--task=semantic'
    )
    object_paths = list_files(objects_dir, ('.png',), remedy=remedy)
    pair_files(image_paths, object_paths, images_dir=images_dir, labels_dir=objects_dir)
    items = tuple((pair, object_paths[pair.image_id]) for pair in pairs)
    load = functools.partial(
        _load_with_objects, load_stuff=without_objects.load, spec=spec, objects_dir=objects_dir
    )
    fingerprint = fingerprint_files(
        objects_dir, [path for _, path in items], options=without_objects.fingerprint
    )
    files = functools.partial(
        list_files_with_objects,
        images_dir=images_dir,
        labels_dir=labels_dir,
        objects_dir=objects_dir,
    )
    return AnnotatedSplit(spec, items, load, fingerprint, list_files=files)


def _load_with_objects(
    item: tuple[ImagePair, str],
    *,
    load_stuff: Callable[[ImagePair], LoadedRecord],
    spec: catalog.DatasetSpec,
    objects_dir: epath.Path,
) -> LoadedRecord:
    pair, object_path = item
    record = load_stuff(pair)
    name = f'annotations_instance/{object_path}'
    codes = images.decode_ids(read_outside_file(objects_dir / object_path), name=name)
    if codes.shape != record.panoptic.shape:
        raise ValueError(
            f'{name} has (height, width) {codes.shape}, annotations/{pair.label_path} has '
            f'{record.panoptic.shape}: {_WRONG_OBJECT}'
        )
    # Keep red and green; blue is unused.
    codes &= 0xFFFF
    panoptic = np.where(codes < 256, record.panoptic, _label_objects(codes, spec, name)[codes])
    return dataclasses.replace(record, panoptic=panoptic)


def _label_objects(codes: np.ndarray, spec: catalog.DatasetSpec, name: str) -> np.ndarray:
    """Returns i32[N], code of an object (category + 256 * number) -> panoptic label."""
    present = np.flatnonzero(np.bincount(codes.ravel()))
    table = np.zeros(present[-1] + 1, np.int32)
    things = spec.label_format.thing_classes
    counts: dict[int, int] = {}
    category_of_number: dict[int, int] = {}
    for code in present.tolist():
        number, category = divmod(code, 256)
        if not number:
            continue
        if not 1 <= category <= len(things):
            raise ValueError(
                f'{name}: object {number} (green) has category {category} (red), which is none of '
                f'1 .. {len(things)}: {_WRONG_OBJECT}'
            )
        if category_of_number.setdefault(number, category) != category:
            raise ValueError(
                f'{name}: object {number} (green) has the categories {category_of_number[number]} '
                f'and {category} (red), but an object has one: {_WRONG_OBJECT}'
            )
        # The challenge's categories are the things among the 150 classes, in the same order.
        semantic = things[category - 1]
        counts[semantic] = counts.get(semantic, 0) + 1
        table[code] = semantic * spec.label_divisor + counts[semantic]
    return table


# Entries are `id name color`. Sources: objectInfo150.txt of CSAILVision/sceneparsing; the category
# mapping and the colours, which differ for skyscrapers and roads, are those of
# facebookresearch/Mask2Former.
_THINGS = """
8 bed cc05ff; 9 windowpane e6e6e6; 11 cabinet e005ff; 13 person 96053d; 15 door 08ff33;
16 table ff0652; 19 curtain ff3307; 20 chair cc4603; 21 car 0066c8; 23 painting ff0633;
24 sofa 0b66ff; 25 shelf ff0747; 28 mirror dcdcdc; 31 armchair 08ffd6; 32 seat 07ffe0;
33 fence ffb806; 34 desk 0aff47; 36 wardrobe 07ffff; 37 lamp e0ff08; 38 bathtub 6608ff;
39 railing ff3d06; 40 cushion ffc207; 42 box 00ff14; 43 column ff0829; 44 signboard ff0599;
45 chest of drawers 0633ff; 46 counter eb0cff; 48 sink 00a3ff; 50 fireplace fa0a0f;
51 refrigerator 14ff00; 54 stairs ffe000; 56 case 0000ff; 57 pool table ff4700; 58 pillow 00ebff;
59 screen door 00adff; 63 bookcase 00fff5; 65 coffee table 00ff70; 66 toilet 00ff85;
67 flower ff0000; 68 book ffa300; 70 bench c2ff00; 71 countertop 008fff; 72 stove 33ff00;
73 palm 0052ff; 74 kitchen island 00ff29; 75 computer 00ffad; 76 swivel chair 0a00ff;
77 boat adff00; 79 arcade machine ff5c00; 81 bus ff00f5; 82 towel ff0066; 83 light ffad00;
84 truck ff0014; 86 chandelier 001fff; 87 awning 00ff3d; 88 streetlight 0047ff; 89 booth ff00cc;
90 television 00ffc2; 91 airplane 00ff52; 93 apparel 0070ff; 94 pole 3300ff; 96 bannister 007aff;
98 ottoman ff9900; 99 bottle 00ff0a; 103 van a3ff00; 104 ship ffeb00; 105 fountain 08b8aa;
108 washer b800ff; 109 plaything ff001f; 111 stool 00d6ff; 112 barrel ff0070; 113 basket 5cff00;
116 bag 46b8a0; 117 minibike a300ff; 119 oven 47ff00; 120 ball ff00a3; 121 food ffcc00;
122 step ff008f; 124 trade name 85ff00; 125 microwave ff00eb; 126 pot f500ff; 127 animal ff007a;
128 bicycle fff500; 130 dishwasher d6ff00; 131 screen 00ccff; 133 sculpture ffff00; 134 hood 0099ff;
135 sconce 0029ff; 136 vase 00ffcc; 137 traffic light 2900ff; 138 tray 29ff00; 139 ashcan ad00ff;
140 fan 00f5ff; 143 plate 00ffb8; 144 monitor 005cff; 145 bulletin board b8ff00;
147 radiator ffd600; 148 glass 19c2c2; 149 clock 66ff00; 150 flag 5c00ff
"""

_STUFF = """
1 wall 787878; 2 building b47878; 3 sky 06e6e6; 4 floor 503232; 5 tree 04c803; 6 ceiling 787850;
7 road 8c8c8c; 10 grass 04fa07; 12 sidewalk ebff07; 14 earth 787846; 17 mountain 8fff8c;
18 plant ccff04; 22 water 3de6fa; 26 house ff09e0; 27 sea 0907e6; 29 rug ff095c; 30 field 7009ff;
35 rock ff290a; 41 base ff7a08; 47 sand a09614; 49 skyscraper 8c8cc8; 52 grandstand 1fff00;
53 path ff1f00; 55 runway 99ff00; 60 stairway 1f00ff; 61 river 0bc8c8; 62 bridge ff5200;
64 blind 003dff; 69 hill ff6600; 78 bar 00ff99; 80 hovel ff00ff; 85 tower ffb8b8;
92 dirt track 000aff; 95 land 00c2ff; 97 escalator 00ffa3; 100 buffet ff7000; 101 poster 8fff00;
102 stage 5200ff; 106 conveyer belt 8500ff; 107 canopy 00ff5c; 110 swimming pool 00b8ff;
114 waterfall 00e0ff; 115 tent 70e0ff; 118 cradle 9900ff; 123 tank 00ffeb; 129 lake 0abed4;
132 blanket 1400ff; 141 pier 4700ff; 142 crt screen 7a00ff; 146 shower 0085ff
"""
