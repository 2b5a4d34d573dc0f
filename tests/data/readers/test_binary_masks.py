"""Binary masks of one class."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import binary_masks
from tests.data.prepare_command import run_prepare

MASK = np.arange(12).reshape(3, 4) > 6


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    masks = {
        'bits': Image.fromarray(MASK),
        'one': Image.fromarray(MASK.astype(np.uint8)),
        'full': Image.fromarray(MASK.astype(np.uint8) * 255),
        'none': Image.new('L', (4, 3)),
    }
    for name, mask in masks.items():
        Image.new('RGB', (4, 3), 'gray').save(tmp_path / 'images' / f'{name}.jpg')
        mask.save(tmp_path / 'masks' / f'{name}_mask.png')
    return tmp_path


def test_masks_of_every_kind(folder):
    split = binary_masks.read_split(folder / 'images', folder / 'masks', class_name='lesion')
    assert split.spec.class_names == ('background', 'lesion')
    assert split.spec.label_format.thing_classes == ()
    for item in split.items:
        record = split.load(item)
        expected = MASK & (item.image_id != 'none')
        np.testing.assert_array_equal(record.panoptic, expected * 1000)
        assert record.annotation_file_name == f'{item.image_id}.png'
    with pytest.raises(ValueError, match='--class=background names the pixels outside'):
        binary_masks.read_split(folder / 'images', folder / 'masks', class_name='background')


def test_command_line(folder):
    arguments = [
        '--format=binary_masks', f'--images={folder / "images"}', f'--labels={folder / "masks"}',
        f'--out={folder / "out"}', '--num_processes=0',
    ]  # fmt: skip
    with pytest.raises(ValueError, match='--format=binary_masks needs --class'):
        run_prepare(arguments)
    run_prepare([*arguments, '--class=lesion'])
    assert len(records.open_split(folder / 'out', 'train')) == 4
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(
        folder / 'masks' / 'one_mask.png'
    )
    with pytest.raises(ValueError, match=r'one_mask\.png is no binary mask'):
        run_prepare([*arguments, '--class=lesion', '--overwrite'])
