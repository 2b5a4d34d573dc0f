"""Overlays: outlines, and names and their places."""

import dataclasses
import sys

import numpy as np
import pytest

import pdl_jax.systems.drawing.overlay as overlay_module
from pdl_jax.systems.drawing.overlay import overlay_panoptic
from pdl_jax.typing import LabelFormat
from tests.systems.drawing.scene import COLORS, FORMAT, NAMES, VOID, make_scene


def overlay(panoptic, image=None, **arguments):
    image = np.full((*panoptic.shape, 3), 100, np.uint8) if image is None else image
    arguments = {'class_names': NAMES, 'colors': COLORS} | arguments
    return overlay_panoptic(image, panoptic, FORMAT, **arguments)


def test_overlay_mixes_outlines_and_leaves_void():
    panoptic = make_scene()
    image = np.random.default_rng(0).integers(0, 256, (*panoptic.shape, 3), np.uint8)
    before = image.copy()
    picture = overlay(panoptic, image, class_names=())
    np.testing.assert_array_equal(image, before)
    expected = (image[5, 5].astype(int) + COLORS[0]) / 2
    np.testing.assert_allclose(picture[5, 5], expected, atol=1)
    # Void keeps the image, except for outlines of adjacent segments.
    np.testing.assert_array_equal(picture[230:], image[230:])
    # The left border of the first cow lies just before its first column and is nearly white.
    assert picture[90, 19].min() >= 180
    assert (picture[90, 60:100].min(axis=-1) < 180).all()


def test_every_change_of_label_is_outlined_in_white_and_nothing_else():
    # Stuff, two cows that touch, a crowd of cows and void, each 10 pixels wide.
    labels = [0, 2001, 2002, 2000, VOID, 1000]
    panoptic = np.repeat(np.array(labels, np.int32), 10)[None].repeat(40, axis=0)
    black = np.zeros((*panoptic.shape, 3), np.uint8)
    picture = overlay(panoptic, black, class_names=(), colors=np.zeros((4, 3), np.uint8))
    is_white = picture.min(axis=-1) > 180
    assert np.flatnonzero(is_white.all(axis=0)).tolist() == [9, 19, 29, 39, 49]
    assert np.flatnonzero(is_white.any(axis=0)).tolist() == [9, 19, 29, 39, 49]


def test_outlines_grow_with_the_picture():
    def count(scale):
        panoptic = np.zeros((240 * scale, 320 * scale), np.int32)
        panoptic[:, 160 * scale :] = 1000
        image = np.zeros((*panoptic.shape, 3), np.uint8)
        return int((overlay(panoptic, image, class_names=())[5].min(axis=-1) > 180).sum())

    assert count(1) == 1
    assert count(4) == 2


def test_overlay_refuses_another_size():
    with pytest.raises(ValueError, match=r'\(240, 320, 3\)'):
        overlay(make_scene(), np.zeros((320, 240, 3), np.uint8))


def written_plates(monkeypatch, panoptic, **arguments):
    """Returns the plates that an overlay writes, and checks that nothing else changes."""
    plates = []

    def record(picture, plate, color):
        plates.append(plate)
        write(picture, plate, color)

    write = overlay_module._write
    monkeypatch.setattr(overlay_module, '_write', record)
    named = overlay(panoptic, **arguments)
    plain = overlay(panoptic, **{**arguments, 'class_names': ()})
    outside = np.ones(panoptic.shape, bool)
    for plate in plates:
        y0, x0, y1, x1 = plate.box
        outside[y0:y1, x0:x1] = False
    np.testing.assert_array_equal(named[outside], plain[outside])
    return plates


def test_names_scores_and_crowds_are_written_inside_their_segments(monkeypatch):
    panoptic = np.kron(make_scene(), np.ones((2, 2), np.int32))
    scores = {2001: 0.987, 2002: 0.5, 0: 0.3, 3000: 0.2}
    plates = written_plates(monkeypatch, panoptic, scores=scores)
    labels = {'sky': 0, 'grass': 1000, 'cow 99%': 2001, 'cow 50%': 2002, 'dog (crowd)': 3000}
    assert sorted(plate.text for plate in plates) == sorted(labels)
    for plate in plates:
        y0, x0, y1, x1 = plate.box
        assert (panoptic[y0:y1, x0:x1] == labels[plate.text]).all(), plate


def test_text_follows_the_size_of_the_picture(monkeypatch):
    sizes = []
    for factor in (1, 2, 8):
        panoptic = np.zeros((240 * factor, 320 * factor), np.int32)
        (plate,) = written_plates(monkeypatch, panoptic)
        monkeypatch.undo()
        sizes.append((plate.font_px, plate.box[2] - plate.box[0]))
    # 10 pixels are the least that can be read.
    assert [font_px for font_px, _ in sizes] == [10, 13, 53]
    assert sizes[2][1] == pytest.approx(4 * sizes[1][1], abs=8)


def test_many_objects_of_the_only_class_are_named_by_their_scores(monkeypatch):
    label_format = dataclasses.replace(FORMAT, thing_classes=(2,))
    panoptic = np.full((240, 320), 1000, np.int32)
    for i in range(12):
        y, x = 20 + 50 * (i // 4), 80 * (i % 4)
        panoptic[y : y + 25, x : x + 60] = 2001 + i
    scores = {2001 + i: 0.5 + i / 100 for i in range(12)}
    monkeypatch.setattr(sys.modules[__name__], 'FORMAT', label_format)
    plates = written_plates(monkeypatch, panoptic, scores=scores)
    expected = [f'{50 + i}%' for i in range(12)]
    assert sorted(p.text for p in plates if p.text != 'grass') == expected


def test_background_is_left_plain():
    label_format = LabelFormat(2, thing_classes=(1,), ignore_label=255, label_divisor=1000)
    panoptic = np.zeros((100, 100), np.int32)
    panoptic[40:60, 40:60] = 1001
    image = np.random.default_rng(0).integers(0, 99, (100, 100, 3), np.uint8)
    picture = overlay_panoptic(
        image, panoptic, label_format, class_names=('background', 'cell'), colors=COLORS
    )
    np.testing.assert_array_equal(picture[:20], image[:20])
    assert (picture[41:58, 41:58] != image[41:58, 41:58]).any(axis=-1).mean() > 0.9
    road = overlay_panoptic(
        image, panoptic, label_format, class_names=('road', 'cell'), colors=COLORS
    )
    assert (road[:20] != image[:20]).any(axis=-1).mean() > 0.9


def test_names_that_the_font_cannot_draw_become_numbers(monkeypatch):
    panoptic = np.zeros((240, 320), np.int32)
    panoptic[120:] = 1000
    plates = written_plates(monkeypatch, panoptic, class_names=('細胞', 'Zürich \u200b\n'))
    assert sorted(plate.text for plate in plates) == ['Zurich', 'class 0']


def test_small_pictures_are_enlarged():
    panoptic = np.zeros((64, 48), np.int32)
    panoptic[20:40, 10:30] = 2001
    image = np.full((64, 48, 3), 100, np.uint8)
    arguments = {'class_names': (), 'colors': COLORS}
    picture = overlay_panoptic(image, panoptic, FORMAT, min_side_px=640, **arguments)
    assert picture.shape == (640, 480, 3)
    # The outline lies just outside of the object, whose first row is 200.
    assert picture[199, 150].min() > 170 and picture[201, 150].min() < 120
    same = overlay_panoptic(image, panoptic, FORMAT, min_side_px=90, **arguments)
    assert same.shape == (64, 48, 3)


def test_strips_make_no_difference(monkeypatch):
    panoptic = np.kron(make_scene(), np.ones((4, 4), np.int32))
    image = np.random.default_rng(0).integers(0, 256, (*panoptic.shape, 3), np.uint8)
    expected = overlay(panoptic, image)
    monkeypatch.setattr(overlay_module, '_STRIP_ROWS', 7)
    np.testing.assert_array_equal(overlay(panoptic, image), expected)


def test_names_are_readable_on_every_background():
    panoptic = np.zeros((120, 160), np.int32)
    for grey in (0, 128, 255):
        image = np.full((120, 160, 3), grey, np.uint8)
        picture = overlay(panoptic, image, colors=np.full((4, 3), grey, np.uint8))
        plate = picture[54:66, 70:90]
        assert plate.max() >= 230 and plate.min() <= 90


@pytest.mark.parametrize('label', [0, 2001, 3000, VOID, 7 * 1000, 7 * 1000 + 5, 400 * 1000 + 2])
@pytest.mark.parametrize('size', [(1, 1), (1, 40), (9, 7), (5, 300)])
def test_odd_sizes_and_labels_do_not_fail(size, label):
    panoptic = np.full(size, label, np.int32)
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    picture = overlay(panoptic, image)
    assert picture.dtype == np.uint8 and picture.shape == (*size, 3)
    if label == VOID:
        np.testing.assert_array_equal(picture, image)
