"""Heatmaps and offset maps."""

import numpy as np
import pytest

from pdl_jax.systems.drawing.fields import (
    draw_offset,
    heatmap_picture,
    longest_offset,
    offset_picture,
    offset_wheel,
)


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (9, 7), (5, 300)])
def test_odd_sizes_do_not_fail(size):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    offset = np.zeros((*size, 2), np.float32)
    for picture in (heatmap_picture(np.ones(size, np.float32), image), draw_offset(offset)):
        assert picture.dtype == np.uint8 and picture.shape == (*size, 3)


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


def test_the_wheel_is_the_key_of_offsets():
    wheel = offset_wheel(41)
    assert wheel.shape == (41, 41, 3) and not wheel[0, 0].any()
    np.testing.assert_array_equal(wheel[20, 20], [255, 255, 255])
    for dy, dx in ((0, 20), (20, 0), (0, -20), (-12, 9)):
        offset = np.array([[[dy, dx], [0, 20]]], np.float32)
        expected = offset_picture(offset, longest_px=20.0)[0, 0]
        np.testing.assert_allclose(wheel[20 + dy, 20 + dx], expected.astype(int), atol=1)


def test_offsets_are_drawn_with_their_key():
    offset = np.full((200, 300, 2), 7.0, np.float32)
    assert longest_offset(offset) == pytest.approx(7 * np.sqrt(2))
    picture = draw_offset(offset)
    plain = offset_picture(offset)
    differs = (picture != plain).any(axis=-1)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    # 22 percent of 200 pixels, and a line of text below.
    assert columns[0] >= 300 - 44 and 200 - 44 - 14 <= rows[0] < 200 - 44
    np.testing.assert_array_equal(draw_offset(offset[:60]), plain[:60])
