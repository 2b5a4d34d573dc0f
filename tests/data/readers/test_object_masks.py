"""A binary mask per object: the three layouts, names, what does not match."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.readers import object_masks
from tests.data.prepare_command import run_prepare

SIZE = (12, 16)


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', SIZE[::-1], 'gray').save(path)


def save_mask(path, x, value=255, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[2:5, x : x + 3] = value
    Image.fromarray(mask).save(path)


def check(split):
    record = split.load(split.items[0])
    expected = np.full(SIZE, 1000, np.int32)
    for k in range(3):
        expected[2:5, 4 * k : 4 * k + 3] = 1 + k
    np.testing.assert_array_equal(record.panoptic, expected)
    return record


def read_beside(folder, **options):
    return object_masks.read_split(
        images_dir=folder / 'images', labels_dir=folder / 'masks', class_name='cell', **options
    )


def test_the_layout_of_the_data_science_bowl(tmp_path):
    save_image(tmp_path / 'x1' / 'images' / 'x1.png')
    for k in range(3):
        save_mask(tmp_path / 'x1' / 'masks' / f'{k}f.png', 4 * k)
    save_image(tmp_path / 'x2' / 'images' / 'x2.png')
    split = object_masks.read_split(tmp_path, class_name='cell')
    record = check(split)
    assert (record.image_id, record.file_name) == ('x1', 'x1.png')
    assert (split.load(split.items[1]).panoptic == 1000).all()
    assert split.notes == ('1 images have no mask: kept, without objects',)
    assert split.list_files is not None and len(split.list_files(split.items[0])) == 4
    save_image(tmp_path / 'x2' / 'images' / 'x3.png')
    with pytest.raises(ValueError, match=r'x2/images/x2\.png and x2/images/x3\.png: one image'):
        object_masks.read_split(tmp_path, class_name='cell')


@pytest.mark.parametrize('pattern', ['{}_{}', '{}/{}', '{}-cell {}', '{}/masks/cell_{}'])
def test_masks_beside_images(tmp_path, pattern):
    # Names that begin with each other, and numbers that are sorted by value.
    for name in ('a', 'a_1', 'b.v2'):
        save_image(tmp_path / 'images' / f'{name}.jpg')
    for k, number in enumerate((1, 9, 10)):
        save_mask(tmp_path / 'masks' / f'{pattern.format("a_1", number)}.png', 4 * k, value=1)
    save_mask(tmp_path / 'masks' / f'{pattern.format("b.v2", 0)}.png', 0)
    split = read_beside(tmp_path)
    record = split.load(split.items[1])
    assert record.panoptic[2, [0, 4, 8]].tolist() == [1, 2, 3]
    assert [len(item.objects) for item in split.items] == [0, 3, 1]


def test_a_mask_may_have_the_name_of_its_image(tmp_path):
    save_image(tmp_path / 'images' / 'a.png')
    save_mask(tmp_path / 'masks' / 'a.png', 0)
    assert len(read_beside(tmp_path, background='void').items[0].objects) == 1


def test_masks_that_do_not_fit(tmp_path):
    save_image(tmp_path / 'images' / 'a.png')
    save_mask(tmp_path / 'masks' / 'a_0.png', 0, size=(5, 5))
    split = read_beside(tmp_path)
    with pytest.raises(ValueError, match=r'a_0\.png: it has 5x5 pixels .*its image has 12x16'):
        split.load(split.items[0])
    grey = np.arange(192, dtype=np.uint8).reshape(SIZE)
    Image.fromarray(grey).save(tmp_path / 'masks' / 'a_0.png')
    with pytest.raises(ValueError, match=r'a_0\.png is no binary mask: besides 0 it holds 191'):
        split.load(split.items[0])
    Image.fromarray(grey * 0).save(tmp_path / 'masks' / 'a_0.png')
    assert list(split.load(split.items[0]).remarks.values()) == [1]
    save_mask(tmp_path / 'masks' / 'c_0.png', 0)
    with pytest.raises(ValueError, match=r'c_0\.png of .*masks belongs to no image'):
        read_beside(tmp_path)


def test_folders_that_do_not_match(tmp_path):
    save_image(tmp_path / 'x1' / 'images' / 'x1.png')
    with pytest.raises(FileNotFoundError, match='no image of .* has a mask: give folders'):
        object_masks.read_split(tmp_path, class_name='cell')
    save_mask(tmp_path / 'x2' / 'masks' / '0.png', 0)
    with pytest.raises(ValueError, match=r'has x2/masks, but no x2/images'):
        object_masks.read_split(tmp_path, class_name='cell')
    with pytest.raises(FileNotFoundError, match='has no folder IMAGE/images'):
        object_masks.read_split(tmp_path / 'x2', class_name='cell')
    with pytest.raises(ValueError, match='needs --input, or --images and --labels'):
        run_prepare(['--format=object_masks', '--class=a', '--images=b', f'--out={tmp_path}'])
    with pytest.raises(ValueError, match='--format=object_masks needs --class'):
        run_prepare(['--format=object_masks', '--input=a', f'--out={tmp_path}'])
