"""Writes a split of any data set as TFDS records.

A reader (see `annotated_split`) gives the annotated images; `prepare_split` writes OUT_DIR/SPLIT.
The bytes written depend only on the inputs. They are built in OUT_DIR/.SPLIT.partial and renamed at
the end, so a split is complete or missing: after a crash, call again. `pdl_jax prepare` is the
command.
"""

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
from pdl_jax.data.readers import panoptic_folder
from pdl_jax.data.record_encoding import EncodedRecord, encode_item
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

    Returns:
      The directory of the split, out_dir/split.

    Raises:
      ValueError: the inputs contradict each other, or out_dir/split was made from other inputs.
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
    if num_processes is None:
        num_processes = os.cpu_count() or 1
    if num_processes < 0:
        raise ValueError(f'num_processes (={num_processes}) must not be negative')

    final = paths.make_path(out_dir) / split
    fingerprint = _fingerprint(source)
    if _is_finished(final, fingerprint, overwrite):
        print(f'{os.fspath(final)} exists already, made from the same annotations: kept')
        return final
    if source.num_images_without_annotation:
        print(f'{source.num_images_without_annotation} images have no annotation: left out')
    encode = functools.partial(encode_item, load=source.load, spec=source.spec)
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
    _print_statistics(final)
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
    overwrite: bool = False,
    check_area: bool = True,
) -> epath.Path:
    """Writes one split in the COCO panoptic format as records.

    Args:
      images_dir, panoptic_dir, json_path, spec: see `panoptic_folder.read_folder`.
      out_dir, split, num_processes, num_shards, overwrite: see `prepare_split`.
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
    workspace: epath.Path,
) -> epath.Path:
    """Writes the TFDS dataset below `workspace` and returns its directory."""
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
    )
    collector = StatisticsCollector(spec)

    def generate() -> Iterator[tuple[int, dict[str, Any]]]:
        progress = tqdm.tqdm(encoded, total=num_images, desc=split, unit='image', disable=None)
        for key, record in enumerate(progress):
            for name, value in (
                ('max_height_px', record.example['height']),
                ('max_width_px', record.example['width']),
                ('max_segments', record.num_segments),
                ('max_instances', record.num_instances),
            ):
                metadata[name] = max(metadata[name], value)
            metadata['image_id_type'] = record.image_id_type
            collector.add(record.statistics)
            if (
                key + 1 == num_images
            ):  # Nothing asks for more, so no line behind the loop would run.
                metadata['statistics'] = collector.compute().to_dict()
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


def _fingerprint(source: AnnotatedSplit) -> str:
    """Returns a SHA-256 of the annotations, classes and record format, not of the files' places."""
    content = [records.FORMAT_VERSION, source.fingerprint, source.spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_finished(final: epath.Path, fingerprint: str, overwrite: bool) -> bool:
    split_directory.refuse_foreign_files(final)
    if overwrite or not split_directory.is_complete(final):
        return False
    if records.read_metadata(final)['fingerprint'] == fingerprint:
        return True
    raise ValueError(
        f'{os.fspath(final)} was prepared from other annotations or with another --spec or --task: '
        f'pass --overwrite to replace it, or choose another --out'
    )
