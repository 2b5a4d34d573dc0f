"""Colours of label maps."""

import dataclasses

import numpy as np
import pytest

from pdl_jax.data.color_difference import color_distances
from pdl_jax.systems.drawing.colors import color_panoptic, color_semantic
from tests.systems.drawing.scene import COLORS, FORMAT, VOID, make_scene


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
@pytest.mark.parametrize('things', [(2,), (2, 3)])
def test_neighboring_instances_of_a_class_differ_under_all_kinds_of_sight(color, things):
    label_format = dataclasses.replace(FORMAT, thing_classes=things)
    colors = np.tile(np.array(color, np.uint8), (4, 1))
    # A board of squares, every one beside up to eight others.
    panoptic = np.kron(2001 + np.arange(64).reshape(8, 8), np.ones((30, 30), int)).astype(np.int32)
    shades = color_panoptic(panoptic, label_format, colors)[::30, ::30]
    for one, other in ((shades[:, 1:], shades[:, :-1]), (shades[1:], shades[:-1])):
        distances = color_distances(one.reshape(-1, 3), other.reshape(-1, 3))
        assert np.diagonal(distances).min() > 5


def test_a_lone_instance_has_the_color_of_its_class_and_keeps_its_shade_among_others():
    alone = color_panoptic(np.array([[2001]], np.int32), FORMAT, COLORS)
    np.testing.assert_array_equal(alone[0, 0], COLORS[2])
    alone = color_panoptic(np.array([[2003]], np.int32), FORMAT, COLORS)
    among = color_panoptic(np.array([[2001, 2002, 2003, 0]], np.int32), FORMAT, COLORS)
    np.testing.assert_array_equal(alone[0, 0], among[0, 2])


@pytest.mark.parametrize('label', [0, 2001, 3000, VOID, 7 * 1000, 7 * 1000 + 5, 400 * 1000 + 2])
@pytest.mark.parametrize('size', [(1, 1), (1, 40), (9, 7), (5, 300)])
def test_odd_sizes_and_labels_do_not_fail(size, label):
    panoptic = np.full(size, label, np.int32)
    semantic = panoptic // 1000
    for picture in (
        color_panoptic(panoptic, FORMAT, COLORS),
        color_semantic(semantic, COLORS),
    ):
        assert picture.dtype == np.uint8 and picture.shape == (*size, 3)
    if semantic.flat[0] >= len(COLORS):
        assert not color_panoptic(panoptic, FORMAT, COLORS).any()


def test_a_palette_longer_than_the_label_format_is_no_error():
    panoptic = np.array([[400 * 1000, 2001]], np.int32)
    colors = np.arange(1500).reshape(500, 3).astype(np.uint8)
    picture = color_panoptic(panoptic, FORMAT, colors)
    np.testing.assert_array_equal(picture[0, 0], colors[400])
