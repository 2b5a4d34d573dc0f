"""Label maps as people lay them out: sub-folders, classes that count from 1, id2label."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.readers import label_maps


def write_pair(root, name, label):
    for folder in ('images', 'labels'):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*label.shape, 3), np.uint8)).save(root / 'images' / f'{name}.jpg')
    Image.fromarray(label).save(root / 'labels' / f'{name}.png')


def read(root, classes, **options):
    split = label_maps.read_split(root / 'images', root / 'labels', root / classes, **options)
    return split, [split.load(item) for item in split.items]


LABEL = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)


def test_sub_folders(tmp_path):
    for index, name in enumerate(('aachen/p0', 'aachen/p1', 'bonn/inner/p0', 'p2')):
        write_pair(tmp_path, name, np.roll(LABEL, index))
    (tmp_path / 'images' / '__MACOSX').mkdir()
    (tmp_path / 'images' / '__MACOSX' / 'p9.jpg').write_bytes(b'')
    (tmp_path / 'c.txt').write_text('a\nb\nc\n')
    split, loaded = read(tmp_path, 'c.txt')
    names = [(r.image_id, r.file_name, r.annotation_file_name) for r in loaded]
    assert names == [
        ('aachen/p0', 'aachen/p0.jpg', 'aachen_p0.png'),
        ('aachen/p1', 'p1.jpg', 'p1.png'),
        ('bonn/inner/p0', 'bonn/inner/p0.jpg', 'bonn_inner_p0.png'),
        ('p2', 'p2.jpg', 'p2.png'),
    ]
    for index, record in enumerate(loaded):
        np.testing.assert_array_equal(record.panoptic, np.roll(LABEL, index) * np.int32(1000))
    assert split.list_files is not None
    assert len(split.list_files(split.items[2])) == 2
    (tmp_path / 'labels' / 'aachen' / 'p1.png').rename(tmp_path / 'labels' / 'p1.png')
    with pytest.raises(FileNotFoundError, match='1 of 4 names lack a label map.*first aachen/p1'):
        read(tmp_path, 'c.txt')


@pytest.mark.parametrize(
    'names, classes, told',
    [
        (
            'skin\nlesion\n',
            ('skin', 'lesion'),
            "names count from 1, since 0 is void (first: 1 is 's",
        ),
        ('unlabelled\nskin\nlesion\n', ('skin', 'lesion'), 'index 0, which is void: left out'),
    ],
)
def test_classes_that_count_from_one(tmp_path, names, classes, told):
    write_pair(tmp_path, 'a', LABEL)
    (tmp_path / 'c.txt').write_text(names)
    split, (record,) = read(tmp_path, 'c.txt', void_id=0)
    assert split.spec.class_names == classes
    np.testing.assert_array_equal(record.panoptic, np.choose(LABEL, [255_000, 0, 1000]))
    assert told in '\n'.join(split.notes) and len(split.notes) == 1
    if told.startswith('names count'):
        with pytest.raises(
            ValueError, match=r'a\.png holds value 2 .*count from 1, pass --void_id=0'
        ):
            read(tmp_path, 'c.txt')


@pytest.mark.parametrize(
    'content',
    [
        {'0': 'a', '1': 'b', '2': 'c'},
        ['a', 'b', 'c'],
        [{'id': 2.0, 'name': 'c'}, {'id': '1', 'name': 'b'}, {'id': 0, 'name': 'a'}],
    ],
)
def test_lists_of_classes(tmp_path, content):
    write_pair(tmp_path, 'a', LABEL)
    for encoding in ('utf-8-sig', 'utf-16'):
        (tmp_path / 'c.json').write_text(json.dumps(content), encoding=encoding)
        split, (record,) = read(tmp_path, 'c.json')
        names = np.array([split.spec.class_names[i] for i in record.panoptic.ravel() // 1000])
        np.testing.assert_array_equal(names.reshape(LABEL.shape), np.array(['a', 'b', 'c'])[LABEL])


def test_equal_names_are_told(tmp_path):
    write_pair(tmp_path, 'a', LABEL)
    (tmp_path / 'c.txt').write_text('a\nb\na\n')
    split, _ = read(tmp_path, 'c.txt')
    assert split.spec.class_names == ('a (0)', 'b', 'a (2)')
    assert '2 categories share a name' in split.notes[0]


@pytest.mark.parametrize('text', ['[' * 50_000, '{"0": "a", "0": "b"}', '[NaN]', '', '9' * 5000])
def test_hostile_lists_are_named(tmp_path, text):
    write_pair(tmp_path, 'a', LABEL)
    (tmp_path / 'c.json').write_text(text)
    with pytest.raises(ValueError, match=r'c\.json'):
        read(tmp_path, 'c.json')
