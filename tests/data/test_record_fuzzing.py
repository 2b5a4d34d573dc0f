"""Damaged record files: read as far as they are intact, or refused with the name of the split.

PDL_JAX_MUTATIONS sets the number.
"""

import os
import pathlib
import random

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from pdl_jax.data import check, images, prepare, records
from tests.data import tiny_folder

COUNT = int(os.environ.get('PDL_JAX_MUTATIONS', '100'))
BYTES = (b'', b'\xff\xfe', b'/etc/passwd', b'../x', b'\0', b'12x', b'9' * 5000, b'a' * 100_000)


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp('records')
    folder = tiny_folder.write_tiny_folder(root / 'in', num_images=4)
    return pathlib.Path(
        prepare.prepare_panoptic_folder(
            **folder, out_dir=root / 'out', num_processes=0, num_shards=2
        )
    )


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Changes, moves, removes or inserts bytes anywhere in a file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((1, 2, 8, 64, 4096)))
        kind = rng.randrange(6)
        if kind == 0:
            changed[start:end] = rng.randbytes(end - start)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = rng.randbytes(rng.choice((1, 8, 64)))
        elif kind == 3:
            other = rng.randrange(len(changed) + 1)
            changed[start:end] = changed[other : other + end - start]
        elif kind == 4:
            changed[start : start + 8] = rng.choice((0, 2**31 - 1, 2**64 - 1)).to_bytes(8, 'little')
        else:
            del changed[start:]
    return bytes(changed)


def mutate_example(data: bytes, rng: random.Random) -> bytes:
    """Changes one feature of a record, so that all checksums of the file are right."""
    example = tf_example_pb2.Example.FromString(data)  # pyright: ignore[reportAttributeAccessIssue]
    features = example.features.feature
    value = features[rng.choice(sorted(features))]
    kind = rng.randrange(4)
    if kind < 3:
        value.Clear()
    if kind == 1:
        value.int64_list.value.append(rng.choice((0, -1, 2**40)))
    elif kind == 2:
        value.bytes_list.value.append(rng.choice(BYTES))
    elif kind == 3:
        size = rng.choice(((24, 32), (1, 1), (32, 24), (300, 300)))
        ids = np.random.default_rng(rng.randrange(99)).integers(0, 2**24, size, np.int32)
        features['panoptic'].bytes_list.value[0] = images.encode_ids(ids)
    return example.SerializeToString(deterministic=True)


def write_shard(path: pathlib.Path, content: list[bytes]) -> None:
    path.unlink()
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    for data in content:
        writer.write(data)
    writer.close()


def read_shard(path: pathlib.Path) -> list[bytes]:
    reader = ArrayRecordReader(str(path))
    content = [reader.read([i])[0] for i in range(reader.num_records())]
    reader.close()
    return content


def test_damaged_records_are_read_or_refused_by_name(split):
    shards = sorted(split.glob('*array_record-*'))
    intact = {path: (path.read_bytes(), read_shard(path)) for path in shards}
    num_refused = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        path = rng.choice(shards)
        data, content = intact[path]
        if seed % 2:
            path.write_bytes(mutate_bytes(data, rng))
        else:
            content = list(content)
            number = rng.randrange(len(content))
            content[number] = rng.choice((mutate_bytes, mutate_example))(content[number], rng)
            write_shard(path, content)
        source = records.open_split(split.parent, 'train')
        for index in range(4):
            try:
                image, panoptic = source.decode(index)
                assert image.shape[:2] == panoptic.shape
            except ValueError as error:
                num_refused += 1
                assert str(split) in str(error) and '\n' not in str(error), (seed, error)
        if seed % 10 == 0:
            checked = check.check_split(source.as_annotated_split(), num_processes=0)
            assert all(str(split) in fault for fault in checked.faults), seed
        path.write_bytes(data)
    assert COUNT / 2 < num_refused < 4 * COUNT
