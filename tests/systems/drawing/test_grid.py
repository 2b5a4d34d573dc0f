"""Grids of pictures, and the pictures of training."""

import numpy as np
import pytest

from pdl_jax.systems.drawing.grid import picture_grid, training_pictures
from tests.systems.drawing.scene import COLORS, FORMAT, make_scene


def test_grid_places_pictures_and_titles():
    red = np.full((10, 20, 3), (255, 0, 0), np.uint8)
    blue = np.full((30, 40, 3), (0, 0, 255), np.uint8)
    grid = picture_grid([[red, blue], [blue]])
    assert grid.shape == (30 + 4 + 30, 40 + 4 + 40, 3)
    np.testing.assert_array_equal(grid[:10, :20], red)
    np.testing.assert_array_equal(grid[:30, 44:], blue)
    np.testing.assert_array_equal(grid[34:, :40], blue)
    assert (grid[34:, 44:] == 255).all()
    titled = picture_grid([[red]], [['a title']])
    np.testing.assert_array_equal(titled[-10:], red)
    assert titled[:-10].min() < 100
    with pytest.raises(ValueError, match='titles'):
        picture_grid([[red, blue]], [['one']])
    with pytest.raises(ValueError, match='needs a picture'):
        picture_grid([[]])


def test_training_pictures_are_two_rows_of_bounded_size():
    panoptic = np.kron(make_scene(), np.ones((4, 4), np.int32))
    shape = panoptic.shape
    semantic = panoptic // 1000
    target = {
        'semantic': semantic,
        'center': np.zeros(shape, np.float32),
        'offset': np.ones((*shape, 2), np.float32),
        'semantic_weight': np.ones(shape, np.float32),
        'center_weight': (semantic != 255).astype(np.float32),
        'offset_weight': (panoptic % 1000 > 0).astype(np.float32),
    }
    # The outputs of a diverged network must still be drawn.
    prediction = {
        'semantic': semantic % 4,
        'center': np.full(shape, np.nan, np.float32),
        'offset': np.full((*shape, 2), np.inf, np.float32),
        'panoptic': panoptic,
    }
    image = np.full((*shape, 3), 90, np.uint8)
    pictures = training_pictures(
        image, target, prediction, label_format=FORMAT, colors=COLORS, max_side_px=256
    )
    assert sorted(pictures) == ['prediction', 'target']
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[1] == 5 * 256 + 4 * 4
        assert 192 < picture.shape[0] <= 192 + 36
    assert (pictures['target'][-192:, :256] == 90).all()
