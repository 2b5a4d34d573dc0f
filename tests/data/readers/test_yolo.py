"""YOLO segmentation: the layouts of folders, lines, malformed files."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.readers import yolo
from tests.data.prepare_command import run_prepare

SIZE = (20, 40)
# Columns 10 .. 19 and rows 5 .. 9.
LINE = '1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5'
LAYOUTS = (
    ('images/{split}', 'labels/{split}', 'train'),
    ('{split}/images', '{split}/labels', 'train'),
    ('images', 'labels', ''),
    ('.', '.', ''),
)


def write(root, images='images', labels='labels', names=('a', 'b'), line=LINE):
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / labels).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new('RGB', SIZE[::-1], 'gray').save(root / images / f'{name}.png')
    (root / labels / f'{names[0]}.txt').write_text(line)
    (root / 'data.yaml').write_text('train: ../train/images\nnc: 2\nnames: [dirt, cell]\n')
    return root


@pytest.mark.parametrize('images, labels, split', LAYOUTS)
def test_layouts(tmp_path, images, labels, split):
    for name in ('train', 'valid') if split else ('',):
        write(tmp_path, images.format(split=name), labels.format(split=name))
    found = yolo.read_split(tmp_path, split)
    assert found.spec.class_names == ('dirt', 'cell', 'background')
    assert [c.id for c in found.spec.categories] == [0, 1, 2]
    first, second = map(found.load, found.items)
    expected = np.full(SIZE, 2000, np.int32)
    expected[5:10, 10:20] = 1001
    np.testing.assert_array_equal(first.panoptic, expected)
    assert (second.panoptic == 2000).all()
    assert any('1 images have no text file: kept' in note for note in found.notes)
    assert found.list_files is not None
    assert [path.name for path in found.list_files(found.items[0])] == ['a.png', 'a.txt']
    if split:
        assert len(yolo.read_split(tmp_path, 'val').items) == 2
        with pytest.raises(
            ValueError, match='has the splits train, valid.* it needs no --val_frac'
        ):
            yolo.read_split(tmp_path)
        with pytest.raises(ValueError, match='--split=test is none of them'):
            yolo.read_split(tmp_path, 'test')


def test_classes_of_other_files(tmp_path):
    root = write(tmp_path)
    (root / 'data.yaml').unlink()
    with pytest.raises(FileNotFoundError, match=r'has none of data\.yaml, .*pass --classes'):
        yolo.read_split(root)
    (root / 'classes.txt').write_text('dirt\ncell\n')
    assert yolo.read_split(root).spec.class_names == ('dirt', 'cell', 'background')
    (root / 'own.txt').write_text('background\ncell\n')
    split = yolo.read_split(root, classes_path=root / 'own.txt', background='background')
    assert split.spec.class_names == ('background', 'cell')
    assert split.load(split.items[0]).panoptic.max() == 1001


def test_outlines_reach_over_the_edge_a_little(tmp_path):
    root = write(tmp_path, line='0 -0.001 0 1.004 0 1 1 0 1\n\n1 0.5 0.5 0.6 0.5 0.6 0.6')
    split = yolo.read_split(root)
    record = split.load(split.items[0])
    assert set(np.unique(record.panoptic)) == {1, 1001}
    assert len(record.remarks) == 1


def test_val_fraction(tmp_path):
    root = write(tmp_path, names=tuple('abcdef'))
    arguments = ['--format=yolo', f'--input={root}', '--num_processes=0']
    run_prepare([*arguments, f'--out={tmp_path / "out"}', '--val_fraction=0.4', '--seed=2'])
    sizes = [
        len(list((tmp_path / 'out' / split).glob('*array_record*'))) for split in ('train', 'val')
    ]
    assert sizes == [1, 1]
    with pytest.raises(ValueError, match='leave --split=val out'):
        run_prepare([*arguments, f'--out={tmp_path}', '--val_fraction=0.4', '--split=val'])


@pytest.mark.parametrize(
    'line, message',
    [
        ('1 0.5 0.5 0.2 0.2', r'line 1 of a\.txt has four numbers, a box'),
        (f'{LINE}\n1 0.5 0.5 0.2 0.2', r'line 2 of a\.txt has four numbers'),
        ('1 0.5 0.5 0.2', 'has 3 numbers after the class: an outline is x y'),
        ('1 0.1 0.1 0.2 0.2 0.3 0.3 0.4', 'has 7 numbers'),
        ('2 0.1 0.1 0.2 0.2 0.3 0.3', r'class 2 is not in data\.yaml, which has 2: add it'),
        ('cell 0.1 0.1 0.2 0.2 0.3 0.3', "the class must be an integer >= 0, got 'cell'"),
        ('-1 0.1 0.1 0.2 0.2 0.3 0.3', "got '-1'"),
        ('99999999999999999999 0.1 0.1 0.2 0.2 0.3 0.3', 'the class must be an integer'),
        ('1 10 10 20 20 30 30', 'holds 10: coordinates are fractions'),
        ('1 0.1 nan 0.2 0.2 0.3 0.3', 'holds nan'),
        ('1 0.1 inf 0.2 0.2 0.3 0.3', 'holds inf'),
        ('1 0.1 x 0.2 0.2 0.3 0.3', "holds other than numbers: could not convert .* 'x'"),
    ],
)
def test_malformed_lines(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        yolo.read_split(write(tmp_path, line=line))


def test_folders_that_do_not_match(tmp_path):
    root = write(tmp_path)
    (root / 'labels' / 'x.txt').write_text('')
    assert any('1 text files belong to no image' in note for note in yolo.read_split(root).notes)
    (root / 'labels' / 'a.txt').rename(root / 'labels' / 'y.txt')
    with pytest.raises(
        FileNotFoundError, match='no text file of .*labels has the name of an image'
    ):
        yolo.read_split(root)
    with pytest.raises(FileNotFoundError, match='none does not exist: give the folder'):
        yolo.read_split(root / 'none')
