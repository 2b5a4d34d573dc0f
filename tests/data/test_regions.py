"""Regions: polygons and run lengths as pycocotools draws them, and hostile values."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pdl_jax.data import regions
from pdl_jax.data.regions import Bitmap, Patch, parse_polygon, parse_run_lengths

SIZE = (37, 53)


def paint(patch, size=SIZE):
    """The patch on an empty image."""
    image = np.zeros(size, np.uint8)
    height, width = patch.ids.shape
    image[patch.top : patch.top + height, patch.left : patch.left + width] = patch.ids
    return image


def draw_by_pycocotools(values, size=SIZE):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([values], *size)))


@pytest.mark.parametrize('seed', range(30))
def test_polygons_are_drawn_as_by_pycocotools(seed):
    random = np.random.default_rng(seed)
    # Some points lie outside of the image, on all sides.
    points = random.uniform((-15, -15), (65, 50), (random.integers(3, 9), 2))
    values = points.ravel().tolist()
    drawn = paint(parse_polygon(values, 'x').draw(SIZE))
    np.testing.assert_array_equal(drawn, draw_by_pycocotools(values))
    np.testing.assert_array_equal(drawn, paint(parse_polygon(points.tolist(), 'x').draw(SIZE)))
    relative = regions.Polygon(points / (SIZE[1], SIZE[0]), is_relative=True)
    assert (drawn != paint(relative.draw(SIZE))).mean() < 0.01


def test_pixels_belong_to_a_polygon_by_their_centres():
    square = parse_polygon([[2, 3], [5, 3], [5, 4], [2, 4]], 'x').draw(SIZE)
    assert (square.top, square.left, square.ids.sum()) == (3, 2, 3) or paint(square)[3, 2:5].all()
    assert paint(square).sum() == 3
    assert paint(parse_polygon([60, 40, 70, 40, 70, 50], 'x').draw(SIZE)).sum() == 0
    assert paint(parse_polygon([-9, -9, -2, -9, -2, -2], 'x').draw(SIZE)).sum() == 0
    assert paint(parse_polygon([4, 4, 4, 4, 4, 4], 'x').draw(SIZE)).sum() == 0


@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.98, 1])
def test_run_lengths_of_both_kinds(share):
    mask = np.asfortranarray(np.random.default_rng(0).random(SIZE) < share).astype(np.uint8)
    encoded = coco_mask.encode(mask)
    text = encoded['counts'].decode()
    runs = parse_run_lengths(list(SIZE), text, 'x')
    np.testing.assert_array_equal(paint(runs.draw(SIZE)), mask)
    again = parse_run_lengths(list(SIZE), runs.counts.tolist(), 'x')
    np.testing.assert_array_equal(paint(again.draw(SIZE)), mask)
    with pytest.raises(ValueError, match=r'image of 37x53 pixels .*has 53x37: repair'):
        runs.draw(SIZE[::-1])


def test_large_run_lengths():
    # A length of 2**26 takes six characters.
    size = (2**13, 2**13)
    encoded = coco_mask.frPyObjects({'size': size, 'counts': [2**25, 2**24, 2**24]}, *size)
    runs = parse_run_lengths(list(size), encoded['counts'].decode(), 'x')
    assert runs.counts.tolist() == [2**25, 2**24, 2**24]
    patch = runs.draw(size)
    assert (patch.top, patch.left, patch.ids.shape) == (0, 2**12, (2**13, 2**11))


@pytest.mark.parametrize('top, left', [(3, 4), (-2, -3), (34, 50), (90, 0), (-9, -9)])
def test_bitmaps_are_cut_at_the_edges(top, left):
    pixels = np.random.default_rng(0).random((6, 7)) < 0.5
    padded = np.zeros((200, 200), bool)
    padded[top + 50 : top + 56, left + 50 : left + 57] = pixels
    expected = padded[50 : 50 + SIZE[0], 50 : 50 + SIZE[1]]
    np.testing.assert_array_equal(paint(Bitmap(top, left, pixels).draw(SIZE)), expected)


def test_parts_are_united():
    parts = [Patch(1, 1, np.ones((2, 2), np.uint8)), Patch(0, 0, np.zeros((0, 0), np.uint8))]
    parts.append(Patch(2, 2, np.ones((3, 1), np.uint8)))
    united = paint(regions.unite(parts))
    assert united.sum() == 6 and united.max() == 1 and united[1:3, 1:3].all() and united[4, 2]
    assert regions.unite(parts[1:2] * 2).ids.size == 0


@pytest.mark.parametrize(
    'values, message',
    [
        ([1, 2, 3, 4], 'got 4 numbers'),
        ([1, 2, 3, 4, 5, 6, 7], 'got 7 numbers'),
        ([[1, 2, 3]] * 4, 'shape 4x3'),
        ([[1, 2], [3]], 'x is no polygon'),
        ('1 2 3', 'is no polygon'),
        ({'a': 1}, 'is no polygon'),
        ([1, 2, 3, float('nan'), 5, 6], 'not finite'),
        ([1, 2, None, 4, 5, 6], 'not finite'),
        ([1, 2, 3, 1e300, 5, 6], r'x=3, y=1e\+300, which lies far'),
        ([1, 2, 3, 10**400, 5, 6], 'is no polygon, got a list of 6 values'),
        ([1, 2, float('-inf'), 4, 5, 6], 'x=-inf'),
    ],
)
def test_malformed_polygons(values, message):
    with pytest.raises(ValueError, match=message):
        parse_polygon(values, 'x')


def test_endless_outlines_are_refused():
    # Each step of the zigzag crosses the image: 16 GiB in pycocotools.
    zigzag = np.tile([[0.0, 0.0], [2**13, 2**13]], (2**14, 1))
    polygon = parse_polygon(zigzag.tolist(), 'x')
    with pytest.raises(ValueError, match='outline is .* pixels long, more than'):
        polygon.draw((2**13, 2**13))


@pytest.mark.parametrize(
    'size, counts, message',
    [
        ([4, 5], [10, 5], 'add up to 15 pixels .* 4x5 = 20'),
        ([4, 5], [10, 15, -5], 'list of integers >= 0'),
        ([4, 5], [20.0], 'list of integers >= 0'),
        ([4, 5], [2**70], 'list of integers >= 0'),
        ([4, 5], [2**31 - 1] * 3, 'add up to'),
        ([4, 5], None, 'list of integers >= 0 or a string'),
        ([4], [4], r'size must be \[height, width\]'),
        ([0, 5], [], r'size must be \[height, width\]'),
        ('45', [20], r'size must be \[height, width\]'),
        ([4, 5], 'd', 'ends in the middle of a length'),
        ([4, 5], 'd\u00e9', "character 'é'"),
        ([4, 5], 'a b', "character ' '"),
        ([4, 5], 'oooooooooo0', 'over 32 bits'),
        ([4, 5], '', 'add up to 0'),
        # The sign bit: lengths of -1.
        ([4, 5], 'OOO', 'shortest run of -1'),
    ],
)
def test_malformed_run_lengths(size, counts, message):
    with pytest.raises(ValueError, match=message):
        parse_run_lengths(size, counts, 'x')


def test_random_strings_never_reach_pixels_outside():
    random = np.random.default_rng(0)
    for _ in range(2000):
        text = bytes(random.integers(48, 112, random.integers(1, 12)).astype(np.uint8)).decode()
        try:
            runs = parse_run_lengths([4, 5], text, 'x')
        except ValueError:
            continue
        assert paint(runs.draw((4, 5)), (4, 5)).shape == (4, 5)
