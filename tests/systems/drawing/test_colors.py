"""Colours of label maps, heatmaps and offset maps."""

import itertools

import numpy as np
import pytest

from pdl_jax.systems.drawing.colors import (
    class_palette,
    color_panoptic,
    color_semantic,
    heatmap_picture,
    offset_picture,
)
from tests.systems.drawing.scene import COLORS, FORMAT, VOID, make_scene


def test_palette_is_deterministic_and_distinct():
    palette = class_palette(24).astype(int)
    np.testing.assert_array_equal(palette, class_palette(24))
    np.testing.assert_array_equal(palette[:7], class_palette(7))
    for a, b in itertools.combinations(palette, 2):
        assert np.abs(a - b).sum() >= 30


def test_semantic_colors_and_void():
    semantic = np.array([[0, 1, 2], [3, 255, 4]], np.int32)
    picture = color_semantic(semantic, COLORS)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0], COLORS[:3])
    np.testing.assert_array_equal(picture[1], [COLORS[3], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    'semantic', [np.zeros((2, 2), np.float32), np.zeros(4, np.int32), np.full((2, 2), -1)]
)
def test_bad_maps_are_refused(semantic):
    with pytest.raises(ValueError, match='semantic'):
        color_semantic(semantic, COLORS)


def test_panoptic_stuff_keeps_its_color_and_void_is_black():
    picture = color_panoptic(make_scene(), FORMAT, COLORS)
    np.testing.assert_array_equal(picture[0, 0], COLORS[0])
    np.testing.assert_array_equal(picture[220, 0], COLORS[1])
    np.testing.assert_array_equal(picture[239, 0], [0, 0, 0])


def test_crowd_is_striped():
    picture = color_panoptic(make_scene(), FORMAT, COLORS)
    crowd = picture[100:200, 240:310].reshape(-1, 3)
    shades, counts = np.unique(crowd, axis=0, return_counts=True)
    assert len(shades) == 2 and COLORS[3].tolist() in shades.tolist()
    assert counts.min() > 0.4 * len(crowd)


@pytest.mark.parametrize('color', [(220, 20, 60), (0, 0, 142), (134, 134, 103), (255, 255, 255)])
def test_instances_of_a_class_differ_but_stay_near_their_hue(color):
    colors = np.tile(np.array(color, np.uint8), (4, 1))
    panoptic = (2001 + np.arange(8, dtype=np.int32))[None]
    shades = color_panoptic(panoptic, FORMAT, colors)[0].astype(int)
    for a, b in itertools.combinations(shades, 2):
        assert np.abs(a - b).max() >= 16
    if color == (0, 0, 142):
        assert (shades.argmax(axis=1) == 2).all()


def test_shade_depends_on_the_label_alone():
    alone = color_panoptic(np.array([[2007]], np.int32), FORMAT, COLORS)
    among = color_panoptic(np.array([[2007, 2001, 0]], np.int32), FORMAT, COLORS)
    np.testing.assert_array_equal(alone[0, 0], among[0, 0])


@pytest.mark.parametrize('label', [0, 2001, 3000, VOID, 7 * 1000, 7 * 1000 + 5, 400 * 1000 + 2])
@pytest.mark.parametrize('size', [(1, 1), (1, 40), (9, 7), (5, 300)])
def test_odd_sizes_and_labels_do_not_fail(size, label):
    panoptic = np.full(size, label, np.int32)
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    semantic = panoptic // 1000
    for picture in (
        color_panoptic(panoptic, FORMAT, COLORS),
        color_semantic(semantic, COLORS),
        heatmap_picture(np.ones(size, np.float32), image),
        offset_picture(np.zeros((*size, 2), np.float32)),
    ):
        assert picture.dtype == np.uint8 and picture.shape == (*size, 3)
    if semantic.flat[0] >= len(COLORS):
        assert not color_panoptic(panoptic, FORMAT, COLORS).any()


def test_a_palette_longer_than_the_label_format_is_no_error():
    panoptic = np.array([[400 * 1000, 2001]], np.int32)
    colors = class_palette(500)
    picture = color_panoptic(panoptic, FORMAT, colors)
    np.testing.assert_array_equal(picture[0, 0], colors[400])


def test_heatmap_rises_and_takes_an_image_and_nan():
    heat = np.array([[0.0, 0.5, 1.0, np.nan, 7.0]], np.float32)
    picture = heatmap_picture(heat).astype(int)
    assert picture[0, 0].sum() < picture[0, 1].sum() < picture[0, 2].sum()
    np.testing.assert_array_equal(picture[0, 3], picture[0, 0])
    np.testing.assert_array_equal(picture[0, 4], picture[0, 2])
    image = np.full((1, 5, 3), 200, np.uint8)
    over = heatmap_picture(heat, image)
    np.testing.assert_array_equal(over[0, 0], [120, 120, 120])
    np.testing.assert_array_equal(over[0, 2], picture[0, 2])


def test_offset_hue_is_the_direction_and_saturation_the_length():
    # Right, down, left, up, none.
    offset = np.array([[[0, 9], [9, 0], [0, -9], [-9, 0], [0, 0]]], np.float32)
    picture = offset_picture(offset).astype(int)[0]
    expected = [[255, 0, 0], [128, 255, 0], [0, 255, 255], [128, 0, 255], [255, 255, 255]]
    np.testing.assert_allclose(picture, expected, atol=1)
    masked = offset_picture(offset, np.array([[1, 1, 1, 1, 0]]))
    np.testing.assert_array_equal(masked[0, 4], [0, 0, 0])
    assert offset_picture(offset, np.zeros((1, 5), bool)).max() == 0


def test_opposite_offsets_have_complementary_colors():
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    offset = 30 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)[None].astype(np.float32)
    there = offset_picture(offset).astype(int)
    back = offset_picture(-offset).astype(int)
    np.testing.assert_allclose(there + back, 255, atol=2)
    assert len(np.unique(there[0], axis=0)) == 24
