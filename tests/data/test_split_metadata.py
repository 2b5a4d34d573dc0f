"""Descriptions of prepared splits: what is damaged is named, nothing is imported, sums agree."""

import json
import os
import random
import shutil
import sys

import numpy as np
import pytest

from pdl_jax.data import prepare, records
from tests.data import json_mutations, tiny_folder

FILES = ('dataset_info.json', 'features.json', 'metadata.json')


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp('prepared')
    folder = tiny_folder.write_tiny_folder(root / 'in', num_images=3)
    return prepare.prepare_panoptic_folder(
        **folder, out_dir=root / 'out', num_processes=0, num_shards=2
    )


@pytest.fixture
def split(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / 'data' / 'train')
    return tmp_path / 'data' / 'train'


def edit(split, name, change):
    content = json.loads((split / name).read_text())
    change(content)
    (split / name).write_text(json.dumps(content))


def set_path(*keys):
    """Returns a change that sets a value, the last argument, at a path of keys."""
    *path, last, value = keys

    def change(content):
        for key in path:
            content = content[key]
        content[last] = value

    return change


INFO, FEATURES, METADATA = FILES


@pytest.mark.parametrize(
    'name, change, message',
    [
        (INFO, set_path('version', '2.0.0'), r"the record format is '2\.0\.0', this version"),
        (INFO, set_path('version', 1), r'version must be str, got 1'),
        (INFO, set_path('name', 'mnist'), r"name is 'mnist': it is a TFDS dataset but not one"),
        (INFO, set_path('fileFormat', 'tfrecord'), r"fileFormat must be 'array_record'"),
        (INFO, set_path('splits', []), r'splits must list one split, got 0'),
        (INFO, set_path('splits', 0, 'name', 'val'), r"name 'val' is not that of its folder"),
        (INFO, set_path('splits', 0, 'filepathTemplate', '../{X}'), r'filepathTemplate must be'),
        (INFO, set_path('splits', 0, 'shardLengths', 0, '7'), r'lists 8 records.*metadata\.json 3'),
        (
            INFO,
            set_path('splits', 0, 'shardLengths', ['1', 'x']),
            r"shardLengths must be int, got 'x",
        ),
        (
            INFO,
            set_path('splits', 0, 'shardLengths', ['-1', '4']),
            r'shardLengths must lie in 0 \.\.',
        ),
        (INFO, set_path('splits', 0, 'shardLengths', ['3']), r'lacks 1 of 1 record files'),
        (INFO, set_path('splits', 0, 'shardLengths', []), r'shardLengths must list 1 \.\. 65536'),
        (
            METADATA,
            set_path('num_images', 1),
            r'lists 3 records \(shardLengths\), metadata\.json 1',
        ),
        (METADATA, set_path('num_images', True), r'num_images must be int, got True'),
        (METADATA, set_path('num_images', 0), r'train is empty'),
        (METADATA, set_path('max_instances', -1), r'max_instances must lie in 0 \.\. .*got -1'),
        (METADATA, set_path('max_instances', 99), r'max_instances 99 exceeds max_segments'),
        (METADATA, set_path('max_segments', 10**400), r'max_segments .*more than 70 digits'),
        (METADATA, set_path('max_width_px', 0), r'max_width_px must lie in 1 \.\.'),
        (METADATA, set_path('max_width_px', 2**26), r'exceeds 1073741824 pixels'),
        (METADATA, set_path('image_id_type', 'float'), r'image_id_type must be int or str'),
        (METADATA, set_path('fingerprint', 'xyz'), r"fingerprint must be a hash in hex, got 'xyz'"),
        (METADATA, set_path('files_hash', 3), r'files_hash must be str, got 3'),
        (
            METADATA,
            set_path('pixels', 'num_channels', -1),
            r'metadata\.json: the pixel format, an obj',
        ),
        (
            METADATA,
            set_path('statistics', 'pixels', [1]),
            r'metadata\.json: pixels must be 4 numbers',
        ),
        (METADATA, set_path('spec', []), r'spec must be dict, got \[\]'),
        (
            METADATA,
            set_path('spec', 'label_divisor', 0),
            r'spec is malformed: .*label_divisor must',
        ),
        (METADATA, set_path('spec', 'first_class', '0x'), r"first_class must be int, got '0x'"),
        (
            METADATA,
            set_path('spec', 'categories', 0, 'id', None),
            r'categories\[0\].*id must be int',
        ),
        (FEATURES, set_path('featuresDict', 'features', {}), r'features must be annotation_file'),
        (FEATURES, lambda c: c['featuresDict']['features'].pop('width'), r'features must be'),
        (
            FEATURES,
            set_path('pythonClassName', 'os.system'),
            r"pythonClassName must be .*'os\.system",
        ),
    ],
)
def test_damage_is_named(split, name, change, message):
    edit(split, name, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        records.open_split(split.parent, 'train')
    assert str(split) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('text', ['', '{', '[]', '3', '{"a": NaN}', '[' * 50_000, '9' * 5000])
def test_text_that_is_no_description(split, name, text):
    (split / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        records.open_split(split.parent, 'train')


def test_features_import_nothing(split, tmp_path, monkeypatch):
    (tmp_path / 'planted.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(str(tmp_path))
    change = set_path('featuresDict', 'features', 'image', 'pythonClassName', 'planted.Image')
    edit(split, FEATURES, change)
    with pytest.raises(ValueError, match=r"feature 'image' of .*features\.json: pythonClassName"):
        records.open_split(split.parent, 'train')
    assert 'planted' not in sys.modules


def test_missing_and_strange_files_are_named(split):
    (split / FEATURES).rename(split / 'x')
    with pytest.raises(FileNotFoundError, match=r'train lacks features\.json'):
        records.open_split(split.parent, 'train')
    (split / 'x').rename(split / FEATURES)
    shard = next(path for path in sorted(split.iterdir()) if '00001-of' in path.name)
    shutil.copy(shard, str(shard).replace('-of-00002', '-of-00003'))
    with pytest.raises(ValueError, match=r'holds the record file .*-of-00003, which dataset_info'):
        records.open_split(split.parent, 'train')


def test_pipe_among_the_record_files_is_named(split):
    shard = next(path for path in sorted(split.iterdir()) if '00001-of' in path.name)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(ValueError, match=f'{shard} is a named pipe'):
        records.open_split(split.parent, 'train')


def test_records_of_another_length_are_named(split):
    # The descriptions agree with each other, but not with the files.
    edit(split, INFO, set_path('splits', 0, 'shardLengths', ['2', '3']))
    edit(split, METADATA, set_path('num_images', 5))
    source = records.open_split(split.parent, 'train')
    with pytest.raises(ValueError, match=r'record 4 of .*train cannot be read'):
        source.decode(4)


def test_larger_images_than_described_are_named(split):
    edit(split, METADATA, set_path('max_height_px', 10))
    source = records.open_split(split.parent, 'train')
    with pytest.raises(ValueError, match=r'000000\.png \(record 0 .* has 24x32 pixels, metadata'):
        source.decode(0)


def test_classes_that_the_split_does_not_have_are_named(split):
    # The same records with fewer classes in their description.
    edit(split, METADATA, set_path('spec', 'label_divisor', 100))
    source = records.open_split(split.parent, 'train')
    with pytest.raises(
        ValueError, match=r'label of 000000\.png .* holds class \d+ .* classes: prep'
    ):
        source.decode(0)


def test_descriptions_of_earlier_versions_are_read(split):
    edit(split, METADATA, lambda content: content.pop('files_hash'))
    assert len(records.open_split(split.parent, 'train')) == 3


def test_mutations_are_refused_or_harmless(split):
    reference = [records.open_split(split.parent, 'train').decode(i)[1] for i in range(3)]
    texts = {name: (split / name).read_text() for name in FILES}
    num_refused = 0
    for seed in range(200):
        rng = random.Random(seed)
        name = rng.choice(FILES)
        (split / name).write_bytes(json_mutations.mutate(json.loads(texts[name]), rng))
        try:
            source = records.open_split(split.parent, 'train')
            assert len(source) == 3
            for index in range(3):
                assert source.decode(index)[1].shape == reference[index].shape
        except (ValueError, OSError) as error:
            assert str(split) in str(error), (seed, error)
            num_refused += 1
        (split / name).write_text(texts[name])
    assert 100 < num_refused < 200
    np.testing.assert_array_equal(
        records.open_split(split.parent, 'train').decode(2)[1], reference[2]
    )
