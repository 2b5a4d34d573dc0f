"""Prepares a split for training and evaluation: reads any of the formats below, writes records.

    pdl_jax prepare --format=FORMAT --split=SPLIT --out=DIR ...

writes DIR/SPLIT; other splits of the data set go into the same DIR. The other flags depend on the
format; data sets are read in the layout in which they are published.

    coco_panoptic     --images=FOLDER --panoptic=FOLDER --json=FILE [--spec=NAME] [--ignore_area]
                      COCO panoptic, and any other data set converted to its format:
                      --images=COCO/val2017 --panoptic=COCO/annotations/panoptic_val2017
                      --json=COCO/annotations/panoptic_val2017.json --split=val
    coco_instances    --images=FOLDER --json=FILE [--semantic=FOLDER] [--ignore_iscrowd] and (*)
                      polygons and run lengths, as COCO, CVAT, Roboflow, Label Studio and others
                      write them; --semantic: PNGs with the category ids of stuff
    labelme           --input=FOLDER [--images=FOLDER] and (*)
                      a JSON per image, beside it or with the image inside
    yolo              --input=FOLDER and (*)
                      polygons of YOLO segmentation, classes in data.yaml or classes.txt
    instance_masks    --images=FOLDER --labels=FOLDER [--class=NAME] [--background=NAME]
                      a map of object numbers per image: PNG, TIFF or .npy; without --class a
                      folder of maps per class
    object_masks      --class=NAME --input=FOLDER | --images=FOLDER --labels=FOLDER
                      [--background=NAME]
                      a binary mask per object: IMAGE/masks/*.png, IMAGE_1.png or IMAGE/1.png
    voc_pairs         --input=FOLDER [--classes=FILE] [--stuff=NAMES] [--void_id=255]
                      own data with JPEGImages, SegmentationClass and SegmentationObject
    label_maps        --images=FOLDER --labels=FOLDER --classes=FILE [--void_id=255]
                      images and PNGs of class indices with the same names, or of the colours
                      that the list gives, for semantic segmentation of one's own data
    binary_masks      --images=FOLDER --labels=FOLDER --class=NAME
                      a mask per image of 0 and 1, 0 and 255, or bits, for semantic segmentation
    cityscapes        --input=FOLDER --split=train|val|train_extra [--task=panoptic|semantic]
                      FOLDER holds leftImg8bit and gtFine (gtCoarse for train_extra)
    mapillary_vistas  --input=FOLDER --split=train|val [--task=panoptic|semantic]
                      [--version=1.2|2.0] [--ignore_area]
    ade20k            --input=FOLDER --split=train|val [--task=panoptic|semantic]
    voc               --input=FOLDER --split=train|val|trainval|trainaug [--sbd=FOLDER]
                      [--task=semantic|panoptic]; trainaug needs --sbd or SegmentationClassAug
    coco_stuff        --input=FOLDER --split=train|val
    camvid            --input=FOLDER --split=train|val|test
    image_folder      --input=FOLDER [--split=SPLIT] [--classes=FILE] [--max_side=640]
                      a folder of images per class, to classify whole images
    imagenet          --input=FOLDER --split=train|val [--max_side=640]
                      ILSVRC 2012, as it is published
    tfds              --input=FOLDER --split=SPLIT [--max_side=640]
                      a version of a data set of TFDS with image and label, as ArrayRecord

(*) [--classes=FILE] [--stuff=NAMES] [--background=NAME]: the classes and their order, those
without single objects, and the class of pixels without an object (default: background; void: none).
Where objects overlap, the smaller one lies on top. For the other formats --background=NAME makes a
class of all void pixels. --val_fraction=0.2 writes DIR/train and DIR/val from one input.

The bytes written depend only on the inputs. They are built in DIR/.SPLIT.partial and renamed at the
end, so the split is complete or missing: after a crash, run the same command again.
"""

import argparse
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pdl_jax.data.dataset_formats import FORMATS, SPEC_NAMES

if TYPE_CHECKING:
    from pdl_jax.data.annotated_split import AnnotatedSplit

SUMMARY = 'write a split of a data set as records for training and evaluation'

EXAMPLES = """\
pdl_jax prepare photos --out=data/own
pdl_jax prepare --format=cityscapes --input=CITYSCAPES --split=train --out=data/cityscapes
pdl_jax prepare --format=coco_panoptic --images=val2017 --panoptic=panoptic_val2017 \\
    --json=panoptic_val2017.json --split=val --out=data/coco
pdl_jax prepare --format=coco_instances --images=photos --json=instances.json \\
    --val_fraction=0.2 --out=data/own
pdl_jax prepare --format=label_maps --images=photos --labels=masks --classes=classes.txt \\
    --split=train --out=data/own
"""

# Flags of the readers, as argparse takes them; `dest` is the parameter of `read_split`.
_READER_FLAGS: dict[str, dict[str, Any]] = {
    '--input': {'dest': 'root', 'help': 'folder of the data set'},
    '--task': {'help': 'panoptic or semantic, where the data set has both'},
    '--version': {'help': 'version of the annotations (mapillary_vistas: 1.2 or 2.0)'},
    '--sbd': {'dest': 'sbd_root', 'help': 'folder of the SBD annotations that extend voc'},
    '--images': {'dest': 'images_dir', 'help': 'folder of images (or of city folders)'},
    '--panoptic': {'dest': 'panoptic_dir', 'help': 'folder of PNGs with segment ids'},
    '--json': {'dest': 'json_path', 'help': 'annotation file'},
    '--spec': {
        'choices': SPEC_NAMES,
        'help': "classes: of COCO, of Cityscapes, the file's own, or recognised (default: auto)",
    },
    '--ignore_area': {
        'dest': 'check_area',
        'action': 'store_const',
        'const': False,
        'help': 'accept segments whose area differs from the one in the JSON',
    },
    '--ignore_iscrowd': {
        'dest': 'uses_iscrowd',
        'action': 'store_const',
        'const': False,
        'help': 'read annotations with iscrowd 1 as single objects',
    },
    '--semantic': {'dest': 'semantic_dir', 'help': 'folder of PNGs with category ids of stuff'},
    '--labels': {'dest': 'labels_dir', 'help': 'folder of label maps or masks'},
    '--class': {'dest': 'class_name', 'help': 'name of the only class'},
    '--classes': {
        'dest': 'classes_path',
        'help': 'list of the classes: one name per line, .json, .csv, .yaml or labelmap.txt',
    },
    '--stuff': {'help': 'names of classes without single objects, separated by commas'},
    '--background': {
        'help': 'class of pixels without any other (default: background for formats of objects, '
        'void for others, which stands for none)'
    },
    '--max_side': {
        'dest': 'max_side_px',
        'type': int,
        'help': 'longest side in pixels of stored images to classify; larger ones are shrunk, 0 '
        'shrinks none (default: 640)',
    },
    '--void_id': {'type': int, 'help': 'index of pixels without a class (default: 255)'},
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        'path',
        nargs='?',
        metavar='PATH',
        help='folder or annotation file whose layout is recognised, see `pdl_jax check`; or give '
        '--format',
    )
    parser.add_argument('--format', choices=FORMATS, help='format of the input')
    parser.add_argument('--out', required=True, help='dataset directory, local or gs://')
    parser.add_argument(
        '--split', help='name of the split (default: train; of PATH: all that are found)'
    )
    parser.add_argument(
        '--val_fraction',
        type=float,
        help='share of the images that DIR/val gets, chosen by their names; the others go to '
        'DIR/train (of a PATH without splits: 0.2)',
    )
    parser.add_argument('--seed', type=int, default=0, help='another number for --val_fraction')
    parser.add_argument('--num_processes', type=int, help='default: one per CPU core')
    parser.add_argument('--num_shards', type=int, help='default: one per 128 images')
    parser.add_argument('--overwrite', action='store_true', help='build a finished split again')
    parser.add_argument(
        '--num_channels',
        type=int,
        default=3,
        help='channels of the images: 1 grey, 3 RGB (default), 4 RGBA, or that of TIFF files',
    )
    parser.add_argument(
        '--value_range',
        default='dataset',
        help='values of files with more than 8 bits that become 0 and 255: dataset (percentiles of '
        'the data set, default), image (of each image) or LOW,HIGH',
    )
    # A flag that is not given leaves no attribute, so that the reader's own default holds.
    inputs = parser.add_argument_group(
        'inputs, depending on the format', argument_default=argparse.SUPPRESS
    )
    for flag, options in _READER_FLAGS.items():
        inputs.add_argument(flag, **options)


def run(flags: argparse.Namespace) -> None:
    """Prepares the split.

    Args:
      flags: the parsed flags of `add_flags`.

    Raises:
      ValueError: a flag of the format is missing, or belongs to another one, or the inputs are
        malformed.
      OSError, ImportError, RuntimeError: see `prepare.prepare_split`.
    """
    # Imported late, so that --help needs neither NumPy nor TFDS.
    from pdl_jax.data import prepare

    if bool(flags.path) == bool(flags.format):
        raise ValueError('give either PATH, whose layout is recognised, or --format and its flags')
    parts = _recognize_parts(flags) if flags.path else _read_parts(flags)
    for split, source in parts.items():
        prepare.prepare_split(
            source,
            out_dir=flags.out,
            split=split,
            num_processes=flags.num_processes,
            num_shards=flags.num_shards,
            overwrite=flags.overwrite,
            num_channels=flags.num_channels,
            value_range=flags.value_range,
        )


def _read_parts(flags: argparse.Namespace) -> 'dict[str, AnnotatedSplit]':
    """Reads the split, or the two, that the flags describe."""
    from pdl_jax.data import prepare

    flags.split = flags.split or 'train'
    read_split = prepare.get_reader(flags.format)
    options = _select_reader_options(flags, read_split)
    return _divide(flags, flags.split, _add_background(flags, read_split(**options), options))


def _recognize_parts(flags: argparse.Namespace) -> 'dict[str, AnnotatedSplit]':
    """Reads the splits that are found at PATH."""
    from pdl_jax.data import prepare, recognition

    layouts = recognition.recognize(flags.path, class_name=getattr(flags, 'class_name', ''))
    if flags.split:
        layouts = [item for item in layouts if item.split in ('', flags.split)]
        if not layouts:
            raise ValueError(f'--split={flags.split} is not among the splits of {flags.path}')
    is_divided = len(layouts) > 1 or 'split' in layouts[0].options or layouts[0].split == 'val'
    if is_divided and flags.val_fraction is not None:
        names = ', '.join(item.split for item in layouts)
        raise ValueError(f'--val_fraction: {flags.path} has splits of its own ({names})')
    if not is_divided and flags.val_fraction is None and not flags.split:
        flags.val_fraction = 0.2
    parts: dict[str, AnnotatedSplit] = {}
    for layout in layouts:
        print(f'found {layout.format} ({layout.evidence})')
        read_split = prepare.get_reader(layout.format)
        flags.format = layout.format
        given = argparse.Namespace(**{**layout.options, **vars(flags)})
        options = _select_reader_options(given, read_split)
        if 'split' in layout.options:
            options['split'] = layout.options['split']
        source = _add_background(flags, read_split(**options), options)
        parts |= _divide(flags, layout.split or flags.split or 'train', source)
    return parts


def _add_background(
    flags: argparse.Namespace, source: 'AnnotatedSplit', options: Mapping[str, Any]
) -> 'AnnotatedSplit':
    """Turns void into a class if told to, unless the reader did."""
    from pdl_jax.data.background import add_background
    from pdl_jax.data.class_lists import NO_BACKGROUND

    background = getattr(flags, 'background', NO_BACKGROUND)
    if 'background' in options or background == NO_BACKGROUND:
        return source
    return add_background(source, background)


def _divide(
    flags: argparse.Namespace, split: str, source: 'AnnotatedSplit'
) -> 'dict[str, AnnotatedSplit]':
    """Returns the split by its name, or the two that --val_fraction makes of it."""
    from pdl_jax.data.validation_split import divide_split

    if flags.val_fraction is None:
        return {split: source}
    divided = divide_split(source, flags.val_fraction, seed=flags.seed)
    return dict(zip(('train', 'val'), divided, strict=True))


def _select_reader_options(
    flags: argparse.Namespace, read_split: Callable[..., Any]
) -> dict[str, Any]:
    """Returns the arguments of `read_split`; refuses missing and foreign flags."""
    parameters = inspect.signature(read_split).parameters
    parameter_of_flag = {
        flag: options.get('dest', flag.removeprefix('--'))
        for flag, options in _READER_FLAGS.items()
    }
    given = {flag: name for flag, name in parameter_of_flag.items() if hasattr(flags, name)}
    taken = {flag: name for flag, name in parameter_of_flag.items() if name in parameters}
    needed = [f for f, name in taken.items() if parameters[name].default is inspect.Parameter.empty]
    missing = [flag for flag in needed if flag not in given]
    if missing:
        raise ValueError(f'--format={flags.format} needs {" ".join(missing)}')
    # Any format may have its void pixels turned into a class.
    foreign = [flag for flag in given if flag not in taken and flag != '--background']
    if foreign:
        raise ValueError(
            f'{" ".join(foreign)} does not belong to --format={flags.format}, '
            f'which takes {" ".join(taken)}'
        )
    options = {name: getattr(flags, name) for name in given.values() if name in parameters}
    if flags.val_fraction is not None:
        _check_division(flags, parameters)
    elif 'split' in parameters:
        options['split'] = flags.split
    return options


def _check_division(flags: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    if flags.split not in (None, 'train'):
        raise ValueError(
            f'--val_fraction writes the splits train and val: leave --split={flags.split} out'
        )
    if 'split' in parameters and parameters['split'].default is inspect.Parameter.empty:
        raise ValueError(
            f'--val_fraction does not belong to --format={flags.format}, which is published with '
            f'splits: prepare --split=train and --split=val'
        )
