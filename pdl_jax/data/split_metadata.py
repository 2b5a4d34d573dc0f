"""Descriptions that lie beside the records of a prepared split, checked before they are used.

A split may come from anywhere: dataset_info.json and features.json are read here and not by TFDS,
which imports whatever class features.json names.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.json_fields import get_field, get_integer
from pdl_jax.data.split_directory import INFO_FILE
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, describe_value, read_json
from pdl_jax.storage.outside_files import refuse_irregular

FORMAT_VERSION = '1.0.0'
_NAME = 'panoptic_records'
_FILE_FORMAT = 'array_record'
_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
_MAX_SHARDS = 2**16
# Canvases hold the largest height and the largest width, which may come from two images.
_MAX_CANVAS_PX = 2**30

# Field -> lowest and highest value. Numbers are counts, except where `_px` says pixels.
_COUNTS = {
    'num_images': (0, 2**31 - 1),
    'max_height_px': (1, images.MAX_PIXELS),
    'max_width_px': (1, images.MAX_PIXELS),
    'max_segments': (0, images.MAX_IDS),
    'max_instances': (0, images.MAX_IDS),
}
_IMAGE_ID_TYPES = ('int', 'str')

_PREFIX = 'tensorflow_datasets.core.features.'
_FEATURES_CLASS = f'{_PREFIX}features_dict.FeaturesDict'
# Feature -> class that features.json names.
_FEATURE_CLASSES = {
    'image': f'{_PREFIX}image_feature.Image',
    'panoptic': f'{_PREFIX}image_feature.Image',
    'image_id': f'{_PREFIX}text_feature.Text',
    'file_name': f'{_PREFIX}text_feature.Text',
    'annotation_file_name': f'{_PREFIX}text_feature.Text',
    'height': f'{_PREFIX}scalar.Scalar',
    'width': f'{_PREFIX}scalar.Scalar',
}


@dataclasses.dataclass
class Shard:
    """A record file, as array_record's FileInstruction describes it.

    Attributes:
      filename: path of the file.
      skip: number of records that are left out at the beginning, 0.
      take: number of records that are read.
      examples_in_shard: number of records of the file.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class SplitMetadata(NamedTuple):
    """Description of a prepared split.

    Attributes:
      values: content of metadata.json, with at least num_images, max_height_px, max_width_px,
        max_segments, max_instances, image_id_type, fingerprint and spec.
      spec: classes and label format.
      shards: the record files.
    """

    values: dict[str, Any]
    spec: catalog.DatasetSpec
    shards: tuple[Shard, ...]


def read_split_metadata(directory: epath.Path) -> SplitMetadata:
    """Reads and checks the three JSON files of a prepared split.

    Args:
      directory: directory of the split.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or the directory was written by something else or in another
        format; the message names the file.
    """
    lengths = _read_info(directory)
    _check_features(directory)
    values, spec = _read_metadata(directory)
    if sum(lengths) != values['num_images']:
        raise ValueError(
            f'{os.fspath(directory)} is damaged: {INFO_FILE} lists {sum(lengths)} records '
            f'(shardLengths), metadata.json {values["num_images"]} (num_images): prepare the split '
            f'again with --overwrite'
        )
    return SplitMetadata(values, spec, _list_shards(directory, lengths))


def _read_info(directory: epath.Path) -> list[int]:
    """Checks dataset_info.json and returns the number of records of each file."""
    info, where = _read(directory, INFO_FILE)
    if get_field(info, 'name', str, where) != _NAME:
        raise ValueError(
            f'{where}: name is {describe_value(info["name"])}: it is a TFDS dataset but not one of '
            f'`pdl_jax prepare`'
        )
    version = get_field(info, 'version', str, where)
    if version != FORMAT_VERSION:
        raise ValueError(
            f'{where}: the record format is {describe_value(version)}, this version of pdl_jax '
            f'reads {FORMAT_VERSION}: prepare the split again with --overwrite'
        )
    file_format = get_field(info, 'fileFormat', str, where)
    if file_format != _FILE_FORMAT:
        raise ValueError(
            f'{where}: fileFormat must be {_FILE_FORMAT!r}, got {describe_value(file_format)}'
        )
    splits = get_field(info, 'splits', list, where)
    if len(splits) != 1:
        raise ValueError(f'{where}: splits must list one split, got {len(splits)}')
    split, place = splits[0], f'splits[0] of {where}'
    name = get_field(split, 'name', str, place)
    if name != directory.name:
        raise ValueError(
            f'{place}: name {describe_value(name)} is not that of its folder: a prepared split '
            f'cannot be renamed'
        )
    if split.get('filepathTemplate', _TEMPLATE) not in (_TEMPLATE, ''):
        raise ValueError(
            f'{place}: filepathTemplate must be {_TEMPLATE!r}, got '
            f'{describe_value(split["filepathTemplate"])}'
        )
    lengths = get_field(split, 'shardLengths', list, place)
    if not 1 <= len(lengths) <= _MAX_SHARDS:
        raise ValueError(
            f'{place}: shardLengths must list 1 .. {_MAX_SHARDS} files, got {len(lengths)}'
        )
    # Protocol buffers write 64-bit integers as text.
    return [
        get_integer({'shardLengths': n}, 'shardLengths', place, low=0, high=2**31 - 1)
        for n in lengths
    ]


def _check_features(directory: epath.Path) -> None:
    """Checks that features.json describes the features that records have.

    Reading needs no more of it. It is there for TFDS.
    """
    content, where = _read(directory, 'features.json')
    features = get_field(
        get_field(content, 'featuresDict', dict, where),
        'features',
        dict,
        f'featuresDict of {where}',
    )
    if set(features) != set(_FEATURE_CLASSES):
        raise ValueError(
            f'{where}: features must be {", ".join(sorted(_FEATURE_CLASSES))}, got '
            f'{describe_value(features)}: prepare the split again with --overwrite'
        )
    classes = {**_FEATURE_CLASSES, '': _FEATURES_CLASS}
    for name, values in {**features, '': content}.items():
        place = f'feature {name!r} of {where}' if name else where
        found = get_field(values, 'pythonClassName', str, place)
        if found != classes[name]:
            raise ValueError(
                f'{place}: pythonClassName must be {classes[name]}, got {describe_value(found)}: '
                f'prepare the split again with --overwrite'
            )


def _read_metadata(directory: epath.Path) -> tuple[dict[str, Any], catalog.DatasetSpec]:
    values, where = _read(directory, 'metadata.json')
    counts = {}
    for key, (low, high) in _COUNTS.items():
        get_field(values, key, int, where)
        counts[key] = get_integer(values, key, where, low=low, high=high)
    if not counts['num_images']:
        raise ValueError(f'{os.fspath(directory)} is empty: prepare it from at least one image')
    if counts['max_height_px'] * counts['max_width_px'] > _MAX_CANVAS_PX:
        raise ValueError(
            f'{where}: max_height_px {counts["max_height_px"]} times max_width_px '
            f'{counts["max_width_px"]} exceeds {_MAX_CANVAS_PX} pixels: split tall and wide images'
        )
    if counts['max_instances'] > counts['max_segments']:
        raise ValueError(
            f'{where}: max_instances {counts["max_instances"]} exceeds max_segments '
            f'{counts["max_segments"]}: prepare the split again with --overwrite'
        )
    id_type = get_field(values, 'image_id_type', str, where)
    if id_type not in _IMAGE_ID_TYPES:
        raise ValueError(
            f'{where}: image_id_type must be {" or ".join(_IMAGE_ID_TYPES)}, got '
            f'{describe_value(id_type)}'
        )
    for key in ('fingerprint', 'files_hash'):
        # Earlier versions did not remember the files.
        text = get_field(values, key, str, where) if key in values or key == 'fingerprint' else ''
        if not re.fullmatch('[0-9a-f]*', text):
            raise ValueError(f'{where}: {key} must be a hash in hex, got {describe_value(text)}')
    spec = get_field(values, 'spec', dict, where)
    try:
        return dict(values), catalog.DatasetSpec.from_dict(spec)
    except ValueError as error:
        raise ValueError(f'{where}: spec is malformed: {error}') from error


def _list_shards(directory: epath.Path, lengths: list[int]) -> tuple[Shard, ...]:
    names = [
        f'{_NAME}-{directory.name}.{_FILE_FORMAT}-{i:05d}-of-{len(lengths):05d}'
        for i in range(len(lengths))
    ]
    present = {path.name for path in directory.iterdir()}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f'{os.fspath(directory)} lacks {len(missing)} of {len(names)} record files, first '
            f'{missing[0]}: copy it again, or prepare the split again with --overwrite'
        )
    strange = sorted(n for n in present - set(names) if n.startswith(_NAME))
    if strange:
        raise ValueError(
            f'{os.fspath(directory)} holds the record file {strange[0]}, which {INFO_FILE} does '
            f'not list: prepare the split again with --overwrite'
        )
    for name in names:
        # ArrayRecord would wait for ever for somebody to write into a pipe.
        refuse_irregular(directory / name)
    return tuple(
        Shard(os.fspath(directory / name), 0, length, length)
        for name, length in zip(names, lengths, strict=True)
    )


def _read(directory: epath.Path, name: str) -> tuple[Mapping[str, Any], str]:
    path = directory / name
    if not path.exists():
        raise FileNotFoundError(
            f'{os.fspath(directory)} lacks {name}: prepare the split again with --overwrite'
        )
    content = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
    if not isinstance(content, Mapping):
        raise ValueError(f'{os.fspath(path)} must be an object, got {describe_value(content)}')
    return content, os.fspath(path)
