"""Maps of object numbers: one class or a folder per class, endings of names, many objects."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import instance_masks
from tests.data.own_formats import write_map
from tests.data.prepare_command import run_prepare

SIZE = (20, 30)


def make_objects():
    objects = np.zeros(SIZE, np.int32)
    objects[2:8, 2:8], objects[2:8, 8:12], objects[12:, :] = 7, 300, 2
    return objects


@pytest.fixture
def folder(tmp_path):
    for name in ('images', 'labels'):
        (tmp_path / name / 'day').mkdir(parents=True)
    for name in ('a', 'day/b'):
        Image.new('RGB', SIZE[::-1], 'gray').save(tmp_path / 'images' / f'{name}.jpg')
        write_map(tmp_path / 'labels' / f'{name}.png', make_objects())
    return tmp_path


def read(folder, **options):
    return instance_masks.read_split(folder / 'images', folder / 'labels', **options)


def test_one_class(folder):
    split = read(folder, class_name='cell')
    assert split.spec.class_names == ('cell', 'background')
    record = split.load(split.items[1])
    # Objects are numbered in the order of their numbers.
    expected = np.choose(np.searchsorted([0, 2, 7, 300], make_objects()), [1000, 1, 2, 3])
    np.testing.assert_array_equal(record.panoptic, expected)
    assert (record.image_id, record.annotation_file_name) == ('day/b', 'b.png')
    void = read(folder, class_name='cell', background='void')
    assert void.spec.class_names == ('cell',)
    assert void.load(void.items[0]).panoptic[0, 0] == void.spec.label_format.void_label
    assert void.fingerprint != split.fingerprint


def test_a_folder_per_class(folder):
    for name, objects in (('nucleus', make_objects() == 7), ('cell', make_objects() > 2)):
        (folder / 'both' / name).mkdir(parents=True)
        write_map(folder / 'both' / name / 'a_mask.tif', objects.astype(np.int32))
    split = instance_masks.read_split(folder / 'images', folder / 'both')
    assert split.spec.class_names == ('cell', 'nucleus', 'background')
    record = split.load(split.items[0])
    assert (record.panoptic[2:8, 2:8] == 1001).all() and (record.panoptic[2:8, 8:12] == 1).all()
    assert list(record.remarks.values()) == [1]
    bare = split.load(split.items[1])
    assert (bare.panoptic == 2000).all()
    assert any("1 images have no map of 'cell': kept" in note for note in split.notes)
    assert split.list_files is not None
    names = ['/'.join(path.parts[-2:]) for path in split.list_files(split.items[0])]
    assert names == ['images/a.jpg', 'cell/a_mask.tif', 'nucleus/a_mask.tif']
    write_map(folder / 'both' / 'cell' / 'a_mask.tif', np.ones((4, 5), np.int32))
    with pytest.raises(ValueError, match=r'nucleus/a_mask\.tif has .* \(20, 30\), cell/a_mask'):
        split.load(split.items[0])


def test_many_objects_and_splits_that_agree(folder, capsys):
    few = [
        '--format=instance_masks', f'--images={folder / "images"}', '--class=cell',
        f'--labels={folder / "labels"}', f'--out={folder / "out"}', '--num_processes=0',
    ]  # fmt: skip
    run_prepare([*few, '--split=val'])
    assert records.open_split(folder / 'out', 'val').spec.label_divisor == 1000
    (folder / 'full').mkdir()
    image = Image.new('RGB', (60, 40), 'gray')
    (folder / 'pictures').mkdir()
    image.save(folder / 'pictures' / 'c.png')
    write_map(folder / 'full' / 'c.npy', np.arange(2400).reshape(40, 60) // 2)
    many = [*few, f'--images={folder / "pictures"}', f'--labels={folder / "full"}']
    run_prepare([*many, '--split=train'])
    train = records.open_split(folder / 'out', 'train')
    assert train.spec.label_divisor == 4096 and train.max_instances == 1199
    assert 'prepare val again with --overwrite' in capsys.readouterr().out
    # The validation split takes the divisor of the other one.
    run_prepare([*few, '--split=val', '--overwrite'])
    val = records.open_split(folder / 'out', 'val')
    assert val.spec == train.spec
    _, label = val.decode(0)
    assert sorted(set(label.ravel().tolist())) == [1, 2, 3, 4096]
    assert 'again' not in capsys.readouterr().out
    # Other classes are told.
    run_prepare([*few, '--split=test', '--class=yeast'])
    assert 'has the classes cell, background, this split has yeast, background' in (
        capsys.readouterr().out
    )


def test_binary_masks_are_told(folder):
    for name in ('a', 'day/b'):
        mask = (make_objects() == 2).astype(np.uint8) * 255
        Image.fromarray(mask).save(folder / 'labels' / f'{name}.png')
    split = read(folder, class_name='cell')
    (remark,) = split.load(split.items[0]).remarks
    assert '0 and 255 only' in remark and '--format=binary_masks' in remark


def test_folders_that_do_not_match(folder):
    with pytest.raises(ValueError, match=r'shape|name|has no folder per class: pass --class=NAME'):
        instance_masks.read_split(folder / 'images', folder / 'labels' / 'day')
    (folder / 'labels' / 'day' / 'b.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 names lack a label map .*first day/b'):
        read(folder, class_name='cell')
    with pytest.raises(FileNotFoundError, match='none does not exist'):
        instance_masks.read_split(folder / 'images', folder / 'none')
    (folder / 'images' / 'day' / 'b.jpg').unlink()
    split = read(folder, class_name='cell')
    Image.new('RGB', (5, 5)).save(folder / 'images' / 'a.jpg')
    with pytest.raises(ValueError, match=r'a\.jpg has 5x5 pixels .* a\.png has 20x30'):
        split.load(split.items[0])
