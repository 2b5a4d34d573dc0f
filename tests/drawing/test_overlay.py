"""Pictures: colours, outlines, names and their places."""

import itertools

import numpy as np
import pytest

from pdl_jax.drawing import overlay as visualize
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(num_classes=4, thing_classes=(2, 3), ignore_label=255, label_divisor=1000)
NAMES = ('sky', 'grass', 'cow', 'dog')
COLORS = np.array([[70, 130, 180], [152, 251, 152], [220, 20, 60], [0, 0, 142]], np.uint8)
VOID = FORMAT.void_label


def make_scene():
    """Sky above grass, two cows, a crowd of dogs and a strip of void."""
    panoptic = np.full((240, 320), 0, np.int32)
    panoptic[120:] = 1000
    panoptic[60:180, 20:120] = 2001
    panoptic[60:180, 140:220] = 2002
    panoptic[100:200, 240:310] = 3000
    panoptic[230:] = VOID
    return panoptic


def overlay(panoptic, image=None, **arguments):
    image = np.full((*panoptic.shape, 3), 100, np.uint8) if image is None else image
    arguments = {'class_names': NAMES, 'colors': COLORS} | arguments
    return visualize.overlay_panoptic(image, panoptic, FORMAT, **arguments)


def test_palette_is_deterministic_and_distinct():
    palette = visualize.class_palette(24).astype(int)
    np.testing.assert_array_equal(palette, visualize.class_palette(24))
    np.testing.assert_array_equal(palette[:7], visualize.class_palette(7))
    for a, b in itertools.combinations(palette, 2):
        assert np.abs(a - b).sum() >= 30


def test_semantic_colors_and_void():
    semantic = np.array([[0, 1, 2], [3, 255, 4]], np.int32)
    picture = visualize.color_semantic(semantic, COLORS)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0], COLORS[:3])
    np.testing.assert_array_equal(picture[1], [COLORS[3], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    'semantic', [np.zeros((2, 2), np.float32), np.zeros(4, np.int32), np.full((2, 2), -1)]
)
def test_bad_maps_are_refused(semantic):
    with pytest.raises(ValueError, match='semantic'):
        visualize.color_semantic(semantic, COLORS)


def test_panoptic_stuff_keeps_its_color_and_void_is_black():
    picture = visualize.color_panoptic(make_scene(), FORMAT, COLORS)
    np.testing.assert_array_equal(picture[0, 0], COLORS[0])
    np.testing.assert_array_equal(picture[220, 0], COLORS[1])
    np.testing.assert_array_equal(picture[239, 0], [0, 0, 0])


def test_crowd_is_striped():
    picture = visualize.color_panoptic(make_scene(), FORMAT, COLORS)
    crowd = picture[100:200, 240:310].reshape(-1, 3)
    shades, counts = np.unique(crowd, axis=0, return_counts=True)
    assert len(shades) == 2 and COLORS[3].tolist() in shades.tolist()
    assert counts.min() > 0.4 * len(crowd)


@pytest.mark.parametrize('color', [(220, 20, 60), (0, 0, 142), (134, 134, 103), (255, 255, 255)])
def test_instances_of_a_class_differ_but_stay_near_their_hue(color):
    colors = np.tile(np.array(color, np.uint8), (4, 1))
    panoptic = (2001 + np.arange(8, dtype=np.int32))[None]
    shades = visualize.color_panoptic(panoptic, FORMAT, colors)[0].astype(int)
    for a, b in itertools.combinations(shades, 2):
        assert np.abs(a - b).max() >= 16
    if color == (0, 0, 142):
        assert (shades.argmax(axis=1) == 2).all()


def test_shade_depends_on_the_label_alone():
    alone = visualize.color_panoptic(np.array([[2007]], np.int32), FORMAT, COLORS)
    among = visualize.color_panoptic(np.array([[2007, 2001, 0]], np.int32), FORMAT, COLORS)
    np.testing.assert_array_equal(alone[0, 0], among[0, 0])


def test_overlay_mixes_outlines_and_leaves_void():
    panoptic = make_scene()
    image = np.random.default_rng(0).integers(0, 256, (*panoptic.shape, 3), np.uint8)
    before = image.copy()
    picture = overlay(panoptic, image, class_names=())
    np.testing.assert_array_equal(image, before)
    expected = (image[5, 5].astype(int) + COLORS[0]) / 2
    np.testing.assert_allclose(picture[5, 5], expected, atol=1)
    # Void is untouched but for the outline of what it touches.
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
    """The names that an overlay writes, with the boxes of their plates as (y0, x0, y1, x1)."""
    texts = []
    draw_text = visualize.ImageDraw.ImageDraw.text

    def record(self, position, text, **options):
        x0, y0, x1, y1 = self.textbbox(position, text, font=options['font'], anchor='mm')
        texts.append((text, (y0, x0, y1, x1)))
        draw_text(self, position, text, **options)

    monkeypatch.setattr(visualize.ImageDraw.ImageDraw, 'text', record)
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
    # Stripes narrower than their names: beside each other only some fit, above each other all do.
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
    # Nothing spills: the plate of the cow lies in the cow and no plate lies on what is too small.
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
    semantic = panoptic // 1000
    for picture in (
        overlay(panoptic, image),
        visualize.color_panoptic(panoptic, FORMAT, COLORS),
        visualize.color_semantic(semantic, COLORS),
        visualize.heatmap_picture(np.ones(size, np.float32), image),
        visualize.offset_picture(np.zeros((*size, 2), np.float32)),
    ):
        assert picture.dtype == np.uint8 and picture.shape == (*size, 3)
    if label == VOID:
        np.testing.assert_array_equal(overlay(panoptic, image), image)
    if semantic.flat[0] >= len(COLORS):
        assert not visualize.color_panoptic(panoptic, FORMAT, COLORS).any()


def test_a_palette_longer_than_the_label_format_is_no_error():
    panoptic = np.array([[400 * 1000, 2001]], np.int32)
    colors = visualize.class_palette(500)
    picture = visualize.color_panoptic(panoptic, FORMAT, colors)
    np.testing.assert_array_equal(picture[0, 0], colors[400])


def test_room_is_the_distance_to_the_nearest_border():
    border = np.random.default_rng(1).random((17, 23)) < 0.05
    rows, columns = np.indices((19, 25))
    is_wall = np.pad(border, 1, constant_values=True)
    walls = np.argwhere(is_wall)
    expected = np.abs(rows[..., None] - walls[:, 0]) * 2.5 + np.abs(
        columns[..., None] - walls[:, 1]
    )
    np.testing.assert_allclose(
        visualize._measure_room(border), expected.min(axis=-1)[1:-1, 1:-1], rtol=1e-5
    )


def test_heatmap_rises_and_takes_an_image_and_nan():
    heat = np.array([[0.0, 0.5, 1.0, np.nan, 7.0]], np.float32)
    picture = visualize.heatmap_picture(heat).astype(int)
    assert picture[0, 0].sum() < picture[0, 1].sum() < picture[0, 2].sum()
    np.testing.assert_array_equal(picture[0, 3], picture[0, 0])
    np.testing.assert_array_equal(picture[0, 4], picture[0, 2])
    image = np.full((1, 5, 3), 200, np.uint8)
    over = visualize.heatmap_picture(heat, image)
    np.testing.assert_array_equal(over[0, 0], [120, 120, 120])
    np.testing.assert_array_equal(over[0, 2], picture[0, 2])


def test_offset_hue_is_the_direction_and_saturation_the_length():
    # Right, down, left, up, none.
    offset = np.array([[[0, 9], [9, 0], [0, -9], [-9, 0], [0, 0]]], np.float32)
    picture = visualize.offset_picture(offset).astype(int)[0]
    expected = [[255, 0, 0], [128, 255, 0], [0, 255, 255], [128, 0, 255], [255, 255, 255]]
    np.testing.assert_allclose(picture, expected, atol=1)
    masked = visualize.offset_picture(offset, np.array([[1, 1, 1, 1, 0]]))
    np.testing.assert_array_equal(masked[0, 4], [0, 0, 0])
    assert visualize.offset_picture(offset, np.zeros((1, 5), bool)).max() == 0


def test_opposite_offsets_have_complementary_colors():
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    offset = 30 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)[None].astype(np.float32)
    there = visualize.offset_picture(offset).astype(int)
    back = visualize.offset_picture(-offset).astype(int)
    np.testing.assert_allclose(there + back, 255, atol=2)
    assert len(np.unique(there[0], axis=0)) == 24


def test_grid_places_pictures_and_titles():
    red = np.full((10, 20, 3), (255, 0, 0), np.uint8)
    blue = np.full((30, 40, 3), (0, 0, 255), np.uint8)
    grid = visualize.picture_grid([[red, blue], [blue]])
    assert grid.shape == (30 + 4 + 30, 40 + 4 + 40, 3)
    np.testing.assert_array_equal(grid[:10, :20], red)
    np.testing.assert_array_equal(grid[:30, 44:], blue)
    np.testing.assert_array_equal(grid[34:, :40], blue)
    assert (grid[34:, 44:] == 255).all()
    titled = visualize.picture_grid([[red]], [['a title']])
    np.testing.assert_array_equal(titled[-10:], red)
    assert titled[:-10].min() < 100
    with pytest.raises(ValueError, match='titles'):
        visualize.picture_grid([[red, blue]], [['one']])
    with pytest.raises(ValueError, match='needs a picture'):
        visualize.picture_grid([[]])


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
    # What a diverged network answers must still be drawn.
    prediction = {
        'semantic': semantic % 4,
        'center': np.full(shape, np.nan, np.float32),
        'offset': np.full((*shape, 2), np.inf, np.float32),
        'panoptic': panoptic,
    }
    image = np.full((*shape, 3), 90, np.uint8)
    pictures = visualize.training_pictures(
        image, target, prediction, label_format=FORMAT, colors=COLORS, max_side_px=256
    )
    assert sorted(pictures) == ['prediction', 'target']
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[1] == 5 * 256 + 4 * 4
        assert 192 < picture.shape[0] <= 192 + 36
    assert (pictures['target'][-192:, :256] == 90).all()
