"""Prepares a split for training and evaluation: COCO panoptic format in, TFDS records out.

    python -m pdl_jax.data.prepare --format=coco_panoptic --images=COCO/val2017 \\
        --panoptic=COCO/annotations/panoptic_val2017 \\
        --json=COCO/annotations/panoptic_val2017.json --out=DIR --split=val

writes DIR/val; other splits of the dataset go into the same DIR. The bytes written depend on the
inputs only. They are built in DIR/.val.partial and renamed at the end, so that a split is there
either completely or not at all: after a crash, run the same command again.
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from etils import epath

from pdl_jax.data import catalog, images, panoptic_folder, paths, process_map, records, split_directory

FORMATS = ('coco_panoptic',)
# TFDS holds the records of one shard in memory while it writes them: 128 photographs are 20 MB, 128
# Cityscapes images 300 MB.
RECORDS_PER_SHARD = 128
MAX_SHARDS = 1024


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
    """Writes one split in the COCO panoptic format as records; see the module's docstring.

    A finished split with the same annotation file and spec is left alone.

    Args:
      images_dir, panoptic_dir, json_path, spec: see `panoptic_folder.read_folder`.
      out_dir: the dataset directory, local or gs://.
      split: letters, digits and underscores.
      num_processes: that read and check images; 0 works in this process; None: one a CPU core.
      num_shards: number of files; None: one for every 128 images.
      is_overwritten: whether a finished split is built again.
      is_area_checked: see `panoptic_folder.load_record`.

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
    folder = panoptic_folder.read_folder(
        images_dir=images_dir, panoptic_dir=panoptic_dir, json_path=json_path, spec=spec
    )
    num_images = len(folder.entries)
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
    fingerprint = _fingerprint(folder)
    if _is_finished(final, fingerprint, is_overwritten):
        print(f'{os.fspath(final)} exists already, made from the same annotations: left alone')
        return final
    if folder.num_images_without_annotation:
        print(
            f'{folder.num_images_without_annotation} images of {os.fspath(json_path)} have no '
            f'annotation and are left out'
        )
    # The entries go to the workers one by one; without them the folder is small to send along.
    encode = functools.partial(
        _encode_entry, dataclasses.replace(folder, entries=()), is_area_checked=is_area_checked
    )
    with (
        split_directory.explain_full_disk(final),
        split_directory.claim_workspace(final) as workspace,
    ):
        with process_map.map_ordered(encode, folder.entries, num_processes) as encoded:
            built = _write_split(
                encoded,
                folder,
                split=split,
                num_shards=num_shards,
                fingerprint=fingerprint,
                workspace=workspace,
            )
        split_directory.publish(built, final)
    print(f'wrote {num_images} images to {os.fspath(final)}')
    return final


def _write_split(
    encoded: Iterable[tuple[dict[str, Any], int, int]],
    folder: panoptic_folder.PanopticFolder,
    *,
    split: str,
    num_shards: int,
    fingerprint: str,
    workspace: epath.Path,
) -> epath.Path:
    """Writes the TFDS dataset below `workspace` and returns its directory."""
    num_images = len(folder.entries)
    metadata = tfds.core.MetadataDict(
        spec=folder.spec.to_dict(),
        num_images=num_images,
        max_height_px=max(e.height_px for e in folder.entries),
        max_width_px=max(e.width_px for e in folder.entries),
        max_segments=0,
        max_instances=0,
        image_id_type=type(folder.entries[0].image_id).__name__,
        fingerprint=fingerprint,
    )

    def generate():
        progress = tqdm.tqdm(encoded, total=num_images, desc=split, unit='image', disable=None)
        for key, (example, num_segments, num_instances) in enumerate(progress):
            metadata['max_segments'] = max(metadata['max_segments'], num_segments)
            metadata['max_instances'] = max(metadata['max_instances'], num_instances)
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


def _encode_entry(
    folder: panoptic_folder.PanopticFolder, entry: panoptic_folder.Entry, *, is_area_checked: bool
) -> tuple[dict[str, Any], int, int]:
    """Returns the example of one image, its number of segments and of thing instances."""
    loaded = panoptic_folder.load_record(folder, entry, is_area_checked=is_area_checked)
    example = {
        'image': loaded.image,
        'panoptic': images.encode_ids(loaded.panoptic),
        'image_id': str(entry.image_id),
        'file_name': entry.file_name,
        'annotation_file_name': entry.annotation_file_name,
        'height': entry.height_px,
        'width': entry.width_px,
    }
    return example, loaded.num_segments, loaded.num_instances


def _fingerprint(folder: panoptic_folder.PanopticFolder) -> str:
    """Identifies the annotations, the classes and the record format, not where the files lie."""
    content = [records.FORMAT_VERSION, folder.json_sha256, folder.spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_finished(final: epath.Path, fingerprint: str, is_overwritten: bool) -> bool:
    split_directory.refuse_foreign_files(final)
    if is_overwritten or not split_directory.is_complete(final):
        return False
    if records.read_metadata(final)['fingerprint'] == fingerprint:
        return True
    raise ValueError(
        f'{os.fspath(final)} was prepared from other annotations or with another --spec: '
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
    parser.add_argument('--images', required=True, help='folder of images (or of city folders)')
    parser.add_argument('--panoptic', required=True, help='folder of PNGs with segment ids')
    parser.add_argument('--json', required=True, help='annotation file')
    parser.add_argument('--out', required=True, help='dataset directory, local or gs://')
    parser.add_argument('--split', default='train', help='name of the split (default: train)')
    parser.add_argument(
        '--spec',
        default='auto',
        choices=catalog.SPEC_NAMES,
        help='classes: of COCO, of Cityscapes, the file\'s own, or recognised (default: auto)',
    )
    parser.add_argument('--num_processes', type=int, help='default: one a CPU core')
    parser.add_argument('--num_shards', type=int, help='default: one for every 128 images')
    parser.add_argument('--overwrite', action='store_true', help='build a finished split again')
    parser.add_argument(
        '--ignore_area', action='store_true', help='accept segments whose area the JSON misstates'
    )
    flags = parser.parse_args(arguments)
    try:
        prepare_panoptic_folder(
            images_dir=flags.images,
            panoptic_dir=flags.panoptic,
            json_path=flags.json,
            out_dir=flags.out,
            split=flags.split,
            spec=flags.spec,
            num_processes=flags.num_processes,
            num_shards=flags.num_shards,
            is_overwritten=flags.overwrite,
            is_area_checked=not flags.ignore_area,
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f'error: {error}\n')


if __name__ == '__main__':
    main()
