"""Overlays: outlines, and names and their places."""

import itertools

import numpy as np
import pytest
from PIL import ImageDraw

from pdl_jax.systems.drawing.overlay import _measure_room, overlay_panoptic
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
    assert (picture[90, 60:100] < 230).all()


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


def written_texts(monkeypatch, panoptic, **arguments):
    """Returns the names that an overlay writes and the boxes of their texts, (y0, x0, y1, x1)."""
    texts = []
    draw_text = ImageDraw.ImageDraw.text

    def record(self, position, text, **options):
        x0, y0, x1, y1 = self.textbbox(position, text, font=options['font'], anchor='mm')
        texts.append((text, (y0, x0, y1, x1)))
        draw_text(self, position, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', record)
    overlay(panoptic, **arguments)
    return texts


def test_names_scores_and_crowds_are_written_inside_their_segments(monkeypatch):
    panoptic = make_scene()
    scores = {2001: 0.987, 2002: 0.5, 0: 0.3, 3000: 0.2}
    texts = written_texts(monkeypatch, panoptic, scores=scores)
    labels = {'sky': 0, 'grass': 1000, 'cow 99%': 2001, 'cow 50%': 2002, 'dog (crowd)': 3000}
    assert sorted(text for text, _ in texts) == sorted(labels)
    for text, (y0, x0, y1, x1) in texts:
        assert panoptic[int(y0 + y1) // 2, int(x0 + x1) // 2] == labels[text]
        assert (panoptic[int(y0) : int(y1), int(x0) : int(x1)] == labels[text]).all(), text


def test_names_never_overlap_and_stay_in_the_picture(monkeypatch):
    # The stripes are narrower than their names: all names fit only on different heights.
    panoptic = np.tile(2001 + np.arange(320, dtype=np.int32) // 20, (240, 1))
    texts = written_texts(monkeypatch, panoptic)
    assert len(texts) == 16
    for _, (y0, x0, y1, x1) in texts:
        assert 0 <= y0 and 0 <= x0 and y1 <= 240 and x1 <= 320
    for (_, a), (_, b) in itertools.combinations(texts, 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_names_are_readable_on_every_background():
    panoptic = np.zeros((120, 160), np.int32)
    for grey in (0, 128, 255):
        image = np.full((120, 160, 3), grey, np.uint8)
        picture = overlay(panoptic, image, colors=np.full((4, 3), grey, np.uint8))
        plate = picture[54:66, 70:90]
        assert plate.max() >= 230 and plate.min() <= 90


def test_names_change_large_segments_only():
    panoptic = np.zeros((240, 320), np.int32)
    panoptic[20:100, 200:300] = 2001
    panoptic[150:154, 50:54] = 2002
    named = (overlay(panoptic) != overlay(panoptic, class_names=())).any(axis=-1)
    cow = panoptic == 2001
    assert named[cow].sum() > 100
    # The plate of the cow stays inside the cow, and a segment too small for a name has no plate.
    around = np.zeros(panoptic.shape, bool)
    around[15:105, 195:305] = True
    assert not named[around & ~cow].any()
    assert not named[panoptic == 2002].any()


def test_a_segment_that_is_all_border_gets_no_name(monkeypatch):
    panoptic = np.full((240, 320), VOID, np.int32)
    panoptic[50] = 2001
    assert written_texts(monkeypatch, panoptic) == []


@pytest.mark.parametrize('label', [0, 2001, 3000, VOID, 7 * 1000, 7 * 1000 + 5, 400 * 1000 + 2])
@pytest.mark.parametrize('size', [(1, 1), (1, 40), (9, 7), (5, 300)])
def test_odd_sizes_and_labels_do_not_fail(size, label):
    panoptic = np.full(size, label, np.int32)
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    picture = overlay(panoptic, image)
    assert picture.dtype == np.uint8 and picture.shape == (*size, 3)
    if label == VOID:
        np.testing.assert_array_equal(picture, image)


def test_room_is_the_distance_to_the_nearest_border():
    border = np.random.default_rng(1).random((17, 23)) < 0.05
    rows, columns = np.indices((19, 25))
    is_wall = np.pad(border, 1, constant_values=True)
    walls = np.argwhere(is_wall)
    expected = np.abs(rows[..., None] - walls[:, 0]) * 2.5 + np.abs(
        columns[..., None] - walls[:, 1]
    )
    np.testing.assert_allclose(_measure_room(border), expected.min(axis=-1)[1:-1, 1:-1], rtol=1e-5)
