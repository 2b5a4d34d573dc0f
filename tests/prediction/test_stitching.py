"""Tiles cut from a known label map, joined again."""

import numpy as np
import pytest

from pdl_jax.prediction.formats import describe_segments
from pdl_jax.prediction.stitching import Stitcher
from pdl_jax.prediction.tiles import TileGrid
from tests.prediction.label_maps import BAR, DISK, GROUND, SKY, SPEC, make_result


def draw_map(size=(300, 420), num_disks=60) -> np.ndarray:
    """Disks, and bars that are longer than a tile, on two kinds of stuff."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    panoptic = np.where(y < size[0] // 2, SKY, GROUND).astype(np.int32) * 1000
    for i in range(num_disks):
        center = rng.uniform(0, 1, 2) * size
        panoptic[(y - center[0]) ** 2 + (x - center[1]) ** 2 < rng.uniform(4, 12) ** 2] = i + 1
    panoptic[abs(y - 0.6 * x - 20) < 7] = BAR * 1000 + 1
    panoptic[abs(y - 200) < 5] = BAR * 1000 + 2
    panoptic[:9, :9] = SPEC.label_format.void_label
    return panoptic


def stitch(panoptic, grid, limits=None, change=lambda tile, part: part, score=lambda tile: 0.5):
    stitcher = Stitcher(SPEC)
    pieces = np.full(panoptic.shape, -1)
    for tile in grid:
        part = change(tile, panoptic[tile.window.slices].copy())
        ids = stitcher.add(tile, make_result(part, score(tile)))
        assert (pieces[tile.core.slices] == -1).all()
        pieces[tile.core.slices] = ids[tile.core.within(tile.window).slices]
    stitched = stitcher.finish(limits or {})
    return stitched.id_of_piece[pieces], stitched.segments


@pytest.mark.parametrize('tile_size', [(97, 97), (129, 65), (300, 100), (512, 512)])
def test_objects_across_tiles_have_one_id(tile_size):
    truth = draw_map()
    ids, segments = stitch(truth, TileGrid(truth.shape, tile_size, 32, 16))
    expected = {s['label']: s for s in describe_segments(truth, SPEC)}
    # One id for each label, and one label for each id.
    pairs = np.unique(np.stack([truth.ravel(), ids.ravel()]), axis=1).T
    pairs = [(label, i) for label, i in pairs.tolist() if label // 1000 != 255]
    parts = {}
    for label, i in pairs:
        parts.setdefault(i, set()).add(label)
    assert all(len(labels) == 1 for labels in parts.values())
    # Disks that others cover leave parts, which are linked only where both tiles see them.
    assert len(pairs) == len(expected)
    assert (ids[truth // 1000 == 255] == 0).all()
    assert [s.label for s in segments] == list(range(1, len(segments) + 1))
    for segment in segments:
        y, x = np.nonzero(ids == segment.label)
        (label,) = parts[segment.label]
        assert segment.area_px == len(y) == expected[label]['area']
        assert segment.class_id == label // 1000
        assert segment.box == (y.min(), x.min(), y.max() + 1, x.max() + 1)
        assert segment.centroid == pytest.approx((y.mean(), x.mean()))
        assert segment.score == pytest.approx(0.5)
    assert [s.class_name for s in segments if not s.is_thing] == ['ground', 'sky']


def test_limits_hold_for_whole_segments():
    truth = draw_map()
    grid = TileGrid(truth.shape, (97, 97), 32, 16)
    areas = {s['label']: s['area'] for s in describe_segments(truth, SPEC)}
    # The larger stuff class is kept.
    assert areas[GROUND * 1000] < areas[SKY * 1000]
    limits = {'min_area_px': 150, 'stuff_area_limit_px': areas[SKY * 1000]}
    ids, segments = stitch(truth, grid, limits)
    kept = {label for label, area in areas.items() if area >= 150} - {GROUND * 1000}
    assert {truth[ids == s.label][0] for s in segments} == kept
    assert (ids[truth == GROUND * 1000] == 0).all()


def test_scores_combine_by_area_and_classes_by_vote():
    truth = np.full((60, 200), GROUND * 1000, np.int32)
    truth[20:40, 10:190] = DISK * 1000 + 1
    grid = TileGrid(truth.shape, (60, 80), 20)
    tiles = list(grid)
    assert len(tiles) == 3

    def change(tile, part):
        # The last tile takes the object for a bar.
        return np.where(part == 1, BAR * 1000 + 1, part) if tile.column == 2 else part

    ids, segments = stitch(truth, grid, change=change, score=lambda tile: 0.2 + 0.3 * tile.column)
    (thing,) = (s for s in segments if s.is_thing)
    assert thing.class_name == 'disk' and thing.area_px == 20 * 180
    areas = [(truth[t.core.slices] == 1).sum() for t in tiles]
    assert thing.score == pytest.approx(np.average([0.2, 0.5, 0.8], weights=areas))
    _, segments = stitch(truth, grid, {'min_score': 0.51}, change=change)
    assert [s.class_name for s in segments] == ['ground']


def test_objects_that_only_touch_at_a_border_stay_apart():
    truth = np.full((64, 200), GROUND * 1000, np.int32)
    # Two squares meet where two tiles do.
    grid = TileGrid(truth.shape, (64, 80), 20)
    edge = list(grid)[0].core.x1
    truth[10:50, edge - 30 : edge] = 1
    truth[10:50, edge : edge + 30] = 2
    ids, segments = stitch(truth, grid)
    assert len([s for s in segments if s.is_thing]) == 2
    assert len(np.unique(ids[truth == 1])) == len(np.unique(ids[truth == 2])) == 1


def test_an_image_of_void_has_no_segments():
    truth = np.full((64, 200), SPEC.label_format.void_label, np.int32)
    ids, segments = stitch(truth, TileGrid(truth.shape, (64, 80), 20))
    assert segments == () and (ids == 0).all()


@pytest.mark.parametrize('size', [(1000, 37), (200, 1000), (65, 65), (66, 81), (1024, 1024)])
def test_cores_fill_the_image_once_and_windows_share_a_size(size):
    grid = TileGrid(size, (129, 161), 40, 16)
    count = np.zeros(size, int)
    canvases = set()
    for tile in grid:
        count[tile.core.slices] += 1
        assert tile.window.y0 % 16 == tile.window.x0 % 16 == 0
        assert tile.core.intersect(tile.window) == tile.core
        height, width = tile.window.size
        canvases.add((-(-(height - 1) // 16), -(-(width - 1) // 16)))
    assert (count == 1).all() and len(canvases) == 1
    tiles = list(grid)
    assert len(tiles) == len(grid)
    for one, other in zip(tiles, tiles[1:], strict=False):
        if one.row == other.row:
            assert one.window.x1 - other.window.x0 >= 40
        elif len({t.row for t in tiles}) > 1:
            assert one.window.y1 - other.window.y0 >= 40


@pytest.mark.parametrize('overlap', [0, 7, 120, 400])
def test_overlaps_that_link_nothing_are_refused(overlap):
    with pytest.raises(ValueError, match=rf'overlap_px \(={overlap}\) must lie in 8 \.\. '):
        TileGrid((500, 500), (129, 129), overlap, 16)
