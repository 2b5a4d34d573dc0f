"""Prepares a split for training and evaluation: any of the formats below in, TFDS records out.

    python -m pdl_jax.data.prepare --format=FORMAT --split=SPLIT --out=DIR ...

writes DIR/SPLIT; other splits of the data set go into the same DIR. What follows depends on the
format; data sets are read in the layout in which they are published.

    coco_panoptic     --images=FOLDER --panoptic=FOLDER --json=FILE [--spec=NAME] [--ignore_area]
                      COCO panoptic, and any other data set converted to its format:
                      --images=COCO/val2017 --panoptic=COCO/annotations/panoptic_val2017
                      --json=COCO/annotations/panoptic_val2017.json --split=val
    label_maps        --images=FOLDER --labels=FOLDER --classes=FILE [--void_id=255]
                      images and PNGs of class indices with the same names, for semantic
                      segmentation of one's own data
    cityscapes        --input=FOLDER --split=train|val|train_extra [--task=panoptic|semantic]
                      FOLDER holds leftImg8bit and gtFine (gtCoarse for train_extra)
    mapillary_vistas  --input=FOLDER --split=train|val [--task=panoptic|semantic]
                      [--version=1.2|2.0]
    ade20k            --input=FOLDER --split=train|val [--task=semantic|panoptic]
    voc               --input=FOLDER --split=train|val|trainval|trainaug [--sbd=FOLDER]
                      [--task=semantic|panoptic]; trainaug needs --sbd or SegmentationClassAug
    coco_stuff        --input=FOLDER --split=train|val
    camvid            --input=FOLDER --split=train|val|test

The bytes written depend on the inputs only. They are built in DIR/.SPLIT.partial and renamed at the
end, so that a split is there either completely or not at all: after a crash, run the same command
again.
"""

import argparse
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from etils import epath

from pdl_jax.data import catalog, images, records, split_directory
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.data.readers import panoptic_folder
from pdl_jax.runtime import process_map
from pdl_jax.storage import paths

# Format -> module of this package whose `read_split` reads it. The function's parameters are the
# flags that the format takes, those without a default the ones it needs.
FORMATS = {
    'coco_panoptic': 'panoptic_folder',
    'label_maps': 'label_maps',
    'cityscapes': 'cityscapes',
    'mapillary_vistas': 'mapillary',
    'ade20k': 'ade20k',
    'voc': 'voc',
    'coco_stuff': 'coco_stuff',
    'camvid': 'camvid',
}
# Flags that go to the reader, as argparse takes them; `dest` is the reader's parameter.
_READER_FLAGS = {
    '--input': {'dest': 'root', 'help': 'folder of the data set'},
    '--task': {'help': 'panoptic or semantic, where the data set has both'},
    '--version': {'help': 'of the annotations (mapillary_vistas: 1.2 or 2.0)'},
    '--sbd': {'dest': 'sbd_root', 'help': 'folder of the SBD annotations that extend voc'},
    '--images': {'dest': 'images_dir', 'help': 'folder of images (or of city folders)'},
    '--panoptic': {'dest': 'panoptic_dir', 'help': 'folder of PNGs with segment ids'},
    '--json': {'dest': 'json_path', 'help': 'annotation file'},
    '--spec': {
        'choices': catalog.SPEC_NAMES,
        'help': "classes: of COCO, of Cityscapes, the file's own, or recognised (default: auto)",
    },
    '--ignore_area': {
        'dest': 'is_area_checked',
        'action': 'store_const',
        'const': False,
        'help': 'accept segments whose area the JSON misstates',
    },
    '--labels': {'dest': 'labels_dir', 'help': 'folder of PNGs with class indices'},
    '--classes': {'dest': 'classes_path', 'help': 'names of the classes: .json, or one a line'},
    '--void_id': {'type': int, 'help': 'index of pixels without a class (default: 255)'},
}
# TFDS holds the records of one shard in memory while it writes them: 128 photographs are 20 MB, 128
# Cityscapes images 300 MB.
RECORDS_PER_SHARD = 128
MAX_SHARDS = 1024


def prepare_split(
    source: AnnotatedSplit,
    *,
    out_dir: str | os.PathLike,
    split: str = 'train',
    num_processes: int | None = None,
    num_shards: int | None = None,
    is_overwritten: bool = False,
) -> epath.Path:
    """Writes one split as records; see the module's docstring.

    A finished split with the same annotations and spec is left alone.

    Args:
      source: what a reader returned.
      out_dir: the dataset directory, local or gs://.
      split: letters, digits and underscores.
      num_processes: that read and check images; 0 works in this process; None: one a CPU core.
      num_shards: number of files; None: one for every 128 images.
      is_overwritten: whether a finished split is built again.

    Returns:
      The split's directory, out_dir/split.

    Raises:
      ValueError: the inputs contradict themselves, or out_dir/split was made from other inputs.
      FileNotFoundError: an input is missing.
      FileExistsError: out_dir/split holds files of something else.
      OSError: the disk is full, or another process prepares the same split.
    """
    if not re.fullmatch(r'[A-Za-z]\w*', split, re.ASCII) or split.lower() == 'all':
        raise ValueError(
            f'split {split!r} must start with a letter, hold letters, digits and underscores only '
            f'and not be "all"'
        )
    num_images = len(source.items)
    if num_shards is None:
        num_shards = min(MAX_SHARDS, math.ceil(num_images / RECORDS_PER_SHARD))
    if not 1 <= num_shards <= num_images:
        raise ValueError(f'num_shards (={num_shards}) must lie in 1 .. {num_images}, the images')
    if num_processes is None:
        num_processes = os.cpu_count() or 1
    if num_processes < 0:
        raise ValueError(f'num_processes (={num_processes}) must not be negative')

    out = paths.make_path(out_dir)
    final = out / split
    fingerprint = _fingerprint(source)
    if _is_finished(final, fingerprint, is_overwritten):
        print(f'{os.fspath(final)} exists already, made from the same annotations: left alone')
        return final
    if source.num_images_without_annotation:
        print(f'{source.num_images_without_annotation} images have no annotation and are left out')
    encode = functools.partial(_encode_item, load=source.load, spec=source.spec)
    with (
        split_directory.explain_full_disk(final),
        split_directory.claim_workspace(final) as workspace,
    ):
        with process_map.map_ordered(encode, source.items, num_processes) as encoded:
            built = _write_split(
                encoded,
                source.spec,
                split=split,
                num_images=num_images,
                num_shards=num_shards,
                fingerprint=fingerprint,
                workspace=workspace,
            )
        split_directory.publish(built, final)
    print(f'wrote {num_images} images to {os.fspath(final)}')
    return final


def prepare_panoptic_folder(
    *,
    images_dir: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    json_path: str | os.PathLike,
    out_dir: str | os.PathLike,
    split: str = 'train',
    spec: str = 'auto',
    num_processes: int | None = None,
    num_shards: int | None = None,
    is_overwritten: bool = False,
    is_area_checked: bool = True,
) -> epath.Path:
    """Writes one split in the COCO panoptic format as records.

    Args:
      images_dir, panoptic_dir, json_path, spec: see `panoptic_folder.read_folder`.
      out_dir, split, num_processes, num_shards, is_overwritten: see `prepare_split`.
      is_area_checked: see `panoptic_folder.load_record`.

    Returns:
      The split's directory, out_dir/split.

    Raises:
      ValueError, FileNotFoundError, FileExistsError, OSError: as `prepare_split`.
    """
    return prepare_split(
        panoptic_folder.read_split(
            images_dir, panoptic_dir, json_path, spec=spec, is_area_checked=is_area_checked
        ),
        out_dir=out_dir,
        split=split,
        num_processes=num_processes,
        num_shards=num_shards,
        is_overwritten=is_overwritten,
    )


def get_reader(name: str) -> Callable[..., AnnotatedSplit]:
    """Returns the `read_split` of a format."""
    return importlib.import_module(f'pdl_jax.data.readers.{FORMATS[name]}').read_split


def _write_split(
    encoded: Iterable[tuple[dict[str, Any], str, int, int]],
    spec: catalog.DatasetSpec,
    *,
    split: str,
    num_images: int,
    num_shards: int,
    fingerprint: str,
    workspace: epath.Path,
) -> epath.Path:
    """Writes the TFDS dataset below `workspace` and returns its directory."""
    # The maxima and the type of the ids are filled in while the records pass by.
    metadata = tfds.core.MetadataDict(
        spec=spec.to_dict(),
        num_images=num_images,
        max_height_px=0,
        max_width_px=0,
        max_segments=0,
        max_instances=0,
        image_id_type='',
        fingerprint=fingerprint,
    )

    def generate():
        progress = tqdm.tqdm(encoded, total=num_images, desc=split, unit='image', disable=None)
        for key, (example, image_id_type, num_segments, num_instances) in enumerate(progress):
            for name, value in (
                ('max_height_px', example['height']),
                ('max_width_px', example['width']),
                ('max_segments', num_segments),
                ('max_instances', num_instances),
            ):
                metadata[name] = max(metadata[name], value)
            metadata['image_id_type'] = image_id_type
            yield key, example

    stream = generate()
    bounds = [round(num_images * i / num_shards) for i in range(num_shards + 1)]
    builder = records.PanopticRecords(
        split=split,
        make_shards=[
            functools.partial(itertools.islice, stream, stop - start)
            for start, stop in itertools.pairwise(bounds)
        ],
        metadata=metadata,
        data_dir=workspace,
    )
    builder.download_and_prepare(file_format='array_record')
    return epath.Path(builder.data_dir)


def _encode_item(
    item: Any, *, load: Callable[[Any], LoadedRecord], spec: catalog.DatasetSpec
) -> tuple[dict[str, Any], str, int, int]:
    """Returns an image's example, the type of its id, its numbers of segments and of instances."""
    loaded = load(item)
    height, width = loaded.panoptic.shape
    example = {
        'image': loaded.image,
        'panoptic': images.encode_ids(loaded.panoptic),
        'image_id': str(loaded.image_id),
        'file_name': loaded.file_name,
        'annotation_file_name': loaded.annotation_file_name,
        'height': height,
        'width': width,
    }
    labels = np.flatnonzero(np.bincount(loaded.panoptic.ravel()))
    labels = labels[labels != spec.label_format.void_label]
    num_instances = int((labels % spec.label_divisor > 0).sum())
    return example, type(loaded.image_id).__name__, len(labels), num_instances


def _fingerprint(source: AnnotatedSplit) -> str:
    """Identifies the annotations, the classes and the record format, not where the files lie."""
    content = [records.FORMAT_VERSION, source.fingerprint, source.spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_finished(final: epath.Path, fingerprint: str, is_overwritten: bool) -> bool:
    split_directory.refuse_foreign_files(final)
    if is_overwritten or not split_directory.is_complete(final):
        return False
    if records.read_metadata(final)['fingerprint'] == fingerprint:
        return True
    raise ValueError(
        f'{os.fspath(final)} was prepared from other annotations or with another --spec or --task: '
        f'pass --overwrite to replace it, or choose another --out'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `python -m pdl_jax.data.prepare --help` lists the flags."""
    parser = argparse.ArgumentParser(
        prog='python -m pdl_jax.data.prepare',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--format', required=True, choices=FORMATS, help='format of the input')
    parser.add_argument('--out', required=True, help='dataset directory, local or gs://')
    parser.add_argument('--split', default='train', help='name of the split (default: train)')
    parser.add_argument('--num_processes', type=int, help='default: one a CPU core')
    parser.add_argument('--num_shards', type=int, help='default: one for every 128 images')
    parser.add_argument('--overwrite', action='store_true', help='build a finished split again')
    # Left out of the result where not given, so that the reader's own defaults hold.
    inputs = parser.add_argument_group(
        'inputs, depending on the format', argument_default=argparse.SUPPRESS
    )
    for flag, options in _READER_FLAGS.items():
        inputs.add_argument(flag, **options)
    flags = parser.parse_args(arguments)
    read_split = get_reader(flags.format)
    options = _select_reader_options(parser, flags, read_split)
    try:
        prepare_split(
            read_split(**options),
            out_dir=flags.out,
            split=flags.split,
            num_processes=flags.num_processes,
            num_shards=flags.num_shards,
            is_overwritten=flags.overwrite,
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f'error: {error}\n')


def _select_reader_options(
    parser: argparse.ArgumentParser,
    flags: argparse.Namespace,
    read_split: Callable[..., AnnotatedSplit],
) -> dict[str, Any]:
    """Returns what the reader gets; ends with an error where a flag is missing or foreign."""
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
        parser.error(f'--format={flags.format} needs {" ".join(missing)}')
    foreign = [flag for flag in given if flag not in taken]
    if foreign:
        parser.error(
            f'{" ".join(foreign)} does not belong to --format={flags.format}, '
            f'which takes {" ".join(taken)}'
        )
    options = {name: getattr(flags, name) for name in given.values()}
    if 'split' in parameters:
        options['split'] = flags.split
    return options


if __name__ == '__main__':
    main()
