"""Places of names."""

import itertools

import numpy as np
import pytest

from pdl_jax.systems.drawing.captions import (
    Caption,
    find_boxes,
    measure_plate,
    measure_room,
    place_captions,
)
from pdl_jax.systems.drawing.fonts import load_font, make_drawable


def make_crowd(height, width, num, seed):
    """Ellipses of random sizes over two halves of stuff, and captions for all."""
    rng = np.random.default_rng(seed)
    index = np.zeros((height, width), np.int32)
    index[height // 2 :] = 1
    rows, columns = np.ogrid[:height, :width]
    for i in range(num):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.lognormal(0, 0.6, 2) * min(height, width) / 25 + 1
        index[((rows - y) / radius[0]) ** 2 + ((columns - x) / radius[1]) ** 2 <= 1] = 2 + i
    areas = np.bincount(index.ravel(), minlength=num + 2)
    things = 2 + np.argsort(-areas[2:], kind='stable')
    captions = [Caption(int(i), (f'object {i} 90%', f'object {i}'), True) for i in things]
    return index, [*captions, Caption(0, ('above',), False), Caption(1, ('below',), False)]


@pytest.mark.parametrize(
    ('height', 'width', 'num'), [(480, 640, 300), (64, 64, 6), (900, 1200, 80), (60, 900, 40)]
)
def test_plates_never_overlap_and_stay_in_the_picture(height, width, num):
    for seed in range(2):
        index, captions = make_crowd(height, width, num, seed)
        font_px = max(10, round(min(height, width) / 36))
        plates = place_captions(index, captions, font_px)
        assert len(plates) >= min(num, 8) / 4
        is_taken = np.zeros(index.shape, int)
        for plate in plates:
            y0, x0, y1, x1 = plate.box
            assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
            assert (y1 - y0, x1 - x0) == measure_plate(plate.text, plate.font_px)
            is_taken[y0:y1, x0:x1] += 1
        assert is_taken.max() == 1
        assert len({plate.row for plate in plates}) == len(plates)


def test_plates_lie_in_or_beside_their_segments_and_hide_no_other_object():
    index, captions = make_crowd(480, 640, 60, 0)
    objects = [caption.row for caption in captions if caption.may_stand_beside]
    plates = place_captions(index, captions, 13)
    for plate in plates:
        y0, x0, y1, x1 = plate.box
        rows, columns = np.nonzero(index == plate.row)
        # The gap between the plate and the box of its segment.
        gap = max(y0 - rows.max() - 1, rows.min() - y1, x0 - columns.max() - 1, columns.min() - x1)
        assert gap <= 0, plate
        covered = index[y0:y1, x0:x1]
        assert np.mean(covered == plate.row) <= 1
        if not (covered == plate.row).any():
            assert np.isin(covered, objects).mean() <= 0.1, plate


def test_names_move_aside_for_each_other():
    # The stripes are narrower than their names: all names fit only on different heights.
    index = np.tile(np.arange(320, dtype=np.int32) // 20, (240, 1))
    captions = [Caption(i, (f'cow {i} 97%',), True) for i in range(16)]
    assert [plate.row for plate in place_captions(index, captions, 10)] == list(range(16))


def test_the_first_caption_gets_the_only_place():
    # Two objects with room for one name between them and the edges of the picture.
    index = np.zeros((20, 90), np.int32)
    index[4:16, 2:10], index[4:16, 80:88] = 1, 2
    captions = [Caption(i, ('cow 97%',), True) for i in (1, 2)]
    for order in (captions, captions[::-1]):
        assert [plate.row for plate in place_captions(index, order, 10)] == [order[0].row]


def test_a_crowded_name_gets_smaller_and_then_shorter():
    index = np.zeros((60, 70), np.int32)
    (plate,) = place_captions(index, [Caption(0, ('nucleus 97%', '97%'), True)], 20)
    # 20 pixels are wider than the picture and 15 too, as the whole text.
    assert (plate.text, plate.font_px) == ('97%', 15)
    assert place_captions(index[:8, :8], [Caption(0, ('nucleus 97%', '97%'), True)], 20) == []


def test_segments_without_a_pixel_on_the_coarse_map_have_no_name():
    index = np.zeros((3000, 3000), np.int32)
    index[7, 1:9] = 1
    assert place_captions(index, [Caption(1, ('thin',), True)], 20) == []


def test_plates_are_as_wide_as_their_texts():
    for text, font_px in itertools.product(('cow', 'potted plant 97%'), (10, 24, 160)):
        left, top, right, bottom = load_font(font_px).getbbox(text)
        height, width = measure_plate(text, font_px)
        assert height >= bottom - top and right - left < width < right - left + font_px + 4


def test_boxes_are_the_smallest():
    index = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.int32)
    boxes = find_boxes(index, 6)
    for i in range(5):
        rows, columns = np.nonzero(index == i)
        assert boxes[i] == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert boxes[5][2:] == (0, 0)


def test_text_without_glyphs_is_left_out():
    assert make_drawable('potted plant') == 'potted plant'
    assert make_drawable(' a\tb\nc ') == 'a b c'
    assert make_drawable('naïve café') == 'naive cafe'
    assert make_drawable('細胞 nucleus 🦠') == 'nucleus'
    assert make_drawable('клетка\u202e') == ''


def test_room_is_the_distance_to_the_nearest_border():
    border = np.random.default_rng(1).random((17, 23)) < 0.05
    rows, columns = np.indices((19, 25))
    is_wall = np.pad(border, 1, constant_values=True)
    walls = np.argwhere(is_wall)
    expected = np.abs(rows[..., None] - walls[:, 0]) * 2.5 + np.abs(
        columns[..., None] - walls[:, 1]
    )
    np.testing.assert_allclose(measure_room(border), expected.min(axis=-1)[1:-1, 1:-1], rtol=1e-5)
