"""Writes a split of any data set as TFDS records.

A reader (see `annotated_split`) gives the annotated images; `prepare_split` writes OUT_DIR/SPLIT.
The bytes written depend only on the inputs. They are built in OUT_DIR/.SPLIT.partial and renamed at
the end, so a split is complete or missing: after a crash, call again. `pdl_jax prepare` is the
command.
"""

import collections
import functools
import hashlib
import importlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from etils import epath

from pdl_jax.data import catalog, records, split_directory
from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.dataset_formats import FORMATS
from pdl_jax.data.notices import Notices
from pdl_jax.data.pixel_format import PixelFormat, parse_value_range
from pdl_jax.data.readers import panoptic_folder
from pdl_jax.data.record_encoding import EncodedRecord, encode_item, hash_items
from pdl_jax.data.record_images import UnknownRangeError
from pdl_jax.data.sibling_splits import match_siblings
from pdl_jax.data.split_pixels import choose_pixel_format, describe_changes, measure_split
from pdl_jax.data.statistics import StatisticsCollector, find_warnings, format_statistics
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.runtime import process_map
from pdl_jax.storage import paths

# TFDS holds the records of one shard in memory while it writes them: 128 photographs take 20 MB,
# 128 Cityscapes images 300 MB.
RECORDS_PER_SHARD = 128
MAX_SHARDS = 1024


def prepare_split(
    source: AnnotatedSplit,
    *,
    out_dir: str | os.PathLike,
    split: str = 'train',
    num_processes: int | None = None,
    num_shards: int | None = None,
    overwrite: bool = False,
    num_channels: int = 3,
    value_range: str = 'dataset',
) -> epath.Path:
    """Writes one split as records; a finished one with the same annotations and spec is kept.

    Args:
      source: the split, as a reader returned it.
      out_dir: the dataset directory, local or gs://.
      split: name of the split: letters, digits and underscores.
      num_processes: number of processes that read and check images; 0: only this process; None: one
        per CPU core.
      num_shards: number of files; None: one per 128 images.
      overwrite: build a finished split again.
      num_channels: channels of the images: 3 makes RGB of grey, palette and RGBA files; any other
        number must be that of the files.
      value_range: values of files with more than 8 bits that become 0 and 255: 'dataset' takes
        percentiles of the data set, those of another split in `out_dir` if it has any; 'image' of
        each image; 'LOW,HIGH' are given.

    Returns:
      The directory of the split, out_dir/split.

    Raises:
      ValueError: the inputs contradict each other, or out_dir/split was made from other inputs, or
        an image has another number of channels.
      FileNotFoundError: an input is missing.
      FileExistsError: out_dir/split holds files of something else.
      OSError: the disk is full, or another process prepares the same split.
      RuntimeError: a worker process died.
    """
    _check_split_name(split)
    num_images = len(source.items)
    if num_shards is None:
        num_shards = min(MAX_SHARDS, ceil_div(num_images, RECORDS_PER_SHARD))
    if not 1 <= num_shards <= num_images:
        raise ValueError(
            f'num_shards (={num_shards}) must lie in 1 .. {num_images}, the number of images'
        )
    if num_processes is not None and num_processes < 0:
        raise ValueError(f'num_processes (={num_processes}) must not be negative')

    chosen_range = parse_value_range(value_range)
    final = paths.make_path(out_dir) / split
    source = match_siblings(source, final)
    fingerprint = _fingerprint(source, num_channels, value_range)
    if _is_finished(final, source, fingerprint, overwrite):
        return final
    if source.num_images_without_annotation:
        print(f'{source.num_images_without_annotation} images have no annotation: left out')
    for note in source.notes:
        print(f'note: {note}')
    build = functools.partial(
        _build,
        source,
        final,
        split=split,
        num_processes=num_processes,
        num_shards=num_shards,
        fingerprint=fingerprint,
    )
    pixels, has_range = choose_pixel_format(final, num_channels, chosen_range)
    try:
        changes = build(pixels=pixels, has_range=has_range)
    except UnknownRangeError:
        # Most data sets have 8 bits, so that the values are looked at only where one is met that
        # has more: at the first image of a data set of one kind.
        pixels = measure_split(source, num_channels)
        changes = build(pixels=pixels, has_range=True)
    for line in describe_changes(changes, pixels):
        print(line)
    print(f'wrote {num_images} images to {os.fspath(final)}')
    _print_statistics(final)
    return final


def _build(
    source: AnnotatedSplit,
    final: epath.Path,
    *,
    split: str,
    num_processes: int | None,
    num_shards: int,
    fingerprint: str,
    pixels: PixelFormat,
    has_range: bool,
) -> collections.Counter[str]:
    """Writes the split and moves it to its place; returns how often images were changed."""
    encode = functools.partial(
        encode_item,
        load=source.load,
        list_files=source.list_files,
        spec=source.spec,
        pixels=pixels,
        has_range=has_range,
    )
    changes: collections.Counter[str] = collections.Counter()
    notices = Notices()
    with (
        split_directory.explain_full_disk(final),
        split_directory.claim_workspace(final) as workspace,
    ):
        with process_map.map_ordered(encode, source.items, num_processes) as encoded:
            built = _write_split(
                encoded,
                source.spec,
                split=split,
                num_images=len(source.items),
                num_shards=num_shards,
                fingerprint=fingerprint,
                pixels=pixels,
                changes=changes,
                workspace=workspace,
                notices=notices,
            )
        split_directory.publish(built, final)
    for note in notices.to_lines():
        print(f'note: {note}')
    return changes


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
    overwrite: bool = False,
    check_area: bool = True,
    num_channels: int = 3,
    value_range: str = 'dataset',
) -> epath.Path:
    """Writes one split in the COCO panoptic format as records.

    Args:
      images_dir, panoptic_dir, json_path, spec: see `panoptic_folder.read_folder`.
      out_dir, split, num_processes, num_shards, overwrite, num_channels, value_range: see
        `prepare_split`.
      check_area: see `panoptic_folder.load_record`.

    Returns:
      The directory of the split, out_dir/split.

    Raises:
      ValueError, FileNotFoundError, FileExistsError, OSError, RuntimeError: see `prepare_split`.
    """
    return prepare_split(
        panoptic_folder.read_split(
            images_dir, panoptic_dir, json_path, spec=spec, check_area=check_area
        ),
        out_dir=out_dir,
        split=split,
        num_processes=num_processes,
        num_shards=num_shards,
        overwrite=overwrite,
        num_channels=num_channels,
        value_range=value_range,
    )


def get_reader(name: str) -> Callable[..., AnnotatedSplit]:
    """Returns the `read_split` of a format, a key of `FORMATS`."""
    return importlib.import_module(f'pdl_jax.data.readers.{FORMATS[name]}').read_split


def _check_split_name(split: str) -> None:
    if not re.fullmatch(r'[A-Za-z]\w*', split, re.ASCII) or split.lower() == 'all':
        raise ValueError(
            f'split {split!r} must start with a letter, hold letters, digits and underscores only '
            f'and not be "all"'
        )


def _write_split(
    encoded: Iterable[EncodedRecord],
    spec: catalog.DatasetSpec,
    *,
    split: str,
    num_images: int,
    num_shards: int,
    fingerprint: str,
    pixels: PixelFormat,
    changes: collections.Counter[str],
    workspace: epath.Path,
    notices: Notices,
) -> epath.Path:
    """Writes the TFDS dataset below `workspace` and returns its directory; counts in `changes`."""
    # The maxima and the type of the ids are known only when all records have been generated.
    metadata = tfds.core.MetadataDict(
        spec=spec.to_dict(),
        num_images=num_images,
        max_height_px=0,
        max_width_px=0,
        max_segments=0,
        max_instances=0,
        image_id_type='',
        fingerprint=fingerprint,
        statistics={},
        pixels=pixels.to_dict(),
        files_hash='',
    )
    collector = StatisticsCollector(spec)
    digest = hashlib.sha256()

    def generate() -> Iterator[tuple[int, dict[str, Any]]]:
        progress = tqdm.tqdm(encoded, total=num_images, desc=split, unit='image', disable=None)
        for key, record in enumerate(progress):
            for name, value in (
                ('max_height_px', record.example['height']),
                ('max_width_px', record.example['width']),
                ('max_segments', record.statistics.num_segments),
                ('max_instances', len(record.statistics.object_classes)),
            ):
                metadata[name] = max(metadata[name], value)
            metadata['image_id_type'] = record.image_id_type
            collector.add(record.statistics)
            if (
                key + 1 == num_images
            ):  # Nothing asks for more, so no line behind the loop would run.
                metadata['statistics'] = collector.compute().to_dict()
            changes.update(record.image_changes)
            digest.update(record.files_hash.encode())
            metadata['files_hash'] = digest.hexdigest()
            notices.add_remarks(record.remarks, record.example['file_name'])
            yield key, record.example

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


def _print_statistics(directory: epath.Path) -> None:
    source = records.open_split(directory.parent, directory.name)
    assert source.statistics is not None  # Just written.
    print(format_statistics(source.statistics, source.spec))
    for warning in find_warnings(source.statistics, source.spec):
        print(f'warning: {warning}')


def _fingerprint(source: AnnotatedSplit, num_channels: int, value_range: str) -> str:
    """Returns a SHA-256 of the annotations, classes and record format, not of the files' places."""
    content = [records.FORMAT_VERSION, source.fingerprint, source.spec.to_dict()]
    if (num_channels, value_range) != (3, 'dataset'):
        # Splits of earlier versions keep their fingerprints.
        content += [num_channels, value_range]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_finished(
    final: epath.Path, source: AnnotatedSplit, fingerprint: str, overwrite: bool
) -> bool:
    split_directory.refuse_foreign_files(final)
    if overwrite or not split_directory.is_complete(final):
        return False
    metadata = records.read_metadata(final)
    if metadata['fingerprint'] != fingerprint:
        raise ValueError(
            f'{os.fspath(final)} was prepared from other annotations or with another --spec, '
            f'--task, --num_channels or --value_range: pass --overwrite to replace it, or choose '
            f'another --out'
        )
    if not metadata.get('files_hash'):
        print(
            f'{os.fspath(final)} exists already, made from the same annotations: kept (an earlier '
            f'version made it, which did not remember the files: pass --overwrite if pictures or '
            f'PNGs have changed)'
        )
        return True
    digest = hashlib.sha256()
    hashes = hash_items(source)
    for files_hash in tqdm.tqdm(
        hashes, total=len(source.items), desc='comparing files', unit='image', disable=None
    ):
        digest.update(files_hash.encode())
    if digest.hexdigest() != metadata['files_hash']:
        raise ValueError(
            f'{os.fspath(final)} was prepared from the same annotations, but pictures or PNGs have '
            f'changed since: pass --overwrite to prepare it again, or choose another --out'
        )
    print(f'{os.fspath(final)} exists already, made from the same files: kept')
    return True
