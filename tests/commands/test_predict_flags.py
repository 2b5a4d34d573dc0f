"""Flags of `predict` that exclude each other, told before the network is loaded."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--overlap_px=64'], '--overlap_px needs --tile_px'),
        (['--noimage_context'], '--image_context needs --tile_px'),
        (['--tile_px=8'], 'tile_px (=8) must be at least 32 pixels'),
        (['--tile=64', '--shards=2'], '--tile_px is for files per image: leave out --shards'),
        (['--tile=64', '--write=center'], 'tiles have no center to draw'),
        (['--tile=64', '--image_info=a.json'], '--image_info writes whole images'),
        (['--stack', '--shards=2'], '--stack is one volume: leave out --shards'),
        (['--stack', '--write=ids'], '--write is for single images: leave out --stack'),
        (['--stack', '--tile=64'], '--tile_px is for single images: leave out --stack'),
        (['--min_iou=0.5'], '--min_iou needs --stack'),
        (['--stack', '--min_iou=2'], 'min_iou (=2.0) must lie in [0, 1]'),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flags, message):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'a.png')
    common = ['--checkpoint=missing', f'--images={tmp_path}/a.png', f'--output={tmp_path}/out']
    with pytest.raises(SystemExit) as error:
        main(['predict', *common, *flags])
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert message in text.splitlines()[-1]
    assert not (tmp_path / 'out').exists()
