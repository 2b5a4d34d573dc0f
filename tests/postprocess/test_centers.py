"""Peaks of a heat map against a loop over pixels."""

import jax
import numpy as np
import pytest

from pdl_jax.postprocess import centers as centers_module
from pdl_jax.postprocess.centers import find_centers

PIXELS = np.arange(19 * 23, dtype=np.int32).reshape(19, 23)


def find_by_loops(heatmap, threshold, kernel, count):
    """Every pixel against its window; the `count` highest in raster order."""
    before, height, width = (kernel - 1) // 2, *heatmap.shape
    found = []
    for y in range(height):
        for x in range(width):
            top, left = max(0, y - before), max(0, x - before)
            window = heatmap[top : y - before + kernel, left : x - before + kernel]
            if heatmap[y, x] > threshold and heatmap[y, x] == window.max():
                found.append((-heatmap[y, x], y, x))
    return sorted((y, x, -negative) for negative, y, x in sorted(found)[:count])


@pytest.mark.parametrize(
    ('kernel', 'count'), [(1, 600), (2, 5), (3, 600), (4, 5), (7, 1), (7, 600), (41, 5)]
)
@pytest.mark.parametrize('num_levels', [5, 2**20])
def test_equals_loops_with_and_without_plateaus_and_tied_scores(kernel, count, num_levels):
    heatmap = (
        np.random.default_rng(kernel).integers(0, num_levels + 1, PIXELS.shape).astype(np.float32)
        / num_levels
    )
    find = jax.jit(find_centers, static_argnames=('threshold', 'kernel_px', 'max_centers'))
    centers, scores, valid = find(heatmap, threshold=0.4, kernel_px=kernel, max_centers=count)
    expected = find_by_loops(heatmap, np.float32(0.4), kernel, count)
    assert centers.shape == (count, 2)
    np.testing.assert_array_equal(valid, np.arange(count) < len(expected))
    found = np.concatenate([centers, np.asarray(scores)[:, None]], -1)
    np.testing.assert_array_equal(found[: len(expected)], np.array(expected, np.float32))
    np.testing.assert_array_equal(found[len(expected) :], 0)


@pytest.mark.parametrize('count', [1, 30, 200])
def test_both_ways_to_select_agree_on_ties(count):
    scores = np.random.default_rng(1).integers(0, 9, PIXELS.shape).astype(np.float32)
    order = np.argsort(-scores.ravel(), kind='stable')[:count]
    for select in (centers_module._take_by_selection, centers_module._take_by_sort):
        values, pixels = map(np.asarray, jax.jit(select, static_argnums=2)(scores, PIXELS, count))
        np.testing.assert_array_equal(np.sort(pixels), np.sort(order))
        np.testing.assert_array_equal(values, scores.ravel()[pixels])


def test_threshold_is_strict_and_may_be_negative():
    heatmap = np.array([[-0.5, -0.2], [-0.5, -0.5]], np.float32)
    _, scores, valid = find_centers(heatmap, threshold=-0.3, kernel_px=3, max_centers=2)
    np.testing.assert_array_equal(valid, [True, False])
    assert scores[0] == np.float32(-0.2)
    assert not find_centers(heatmap, threshold=-0.2, kernel_px=3, max_centers=2)[2].any()


def test_vmap_equals_single_images():
    heatmaps = np.random.default_rng(0).random((3, 12, 17), np.float32)
    find = jax.jit(lambda h: find_centers(h, kernel_px=5, max_centers=8))
    batched = jax.jit(jax.vmap(find))(heatmaps)
    for i, heatmap in enumerate(heatmaps):
        for one, many in zip(find(heatmap), batched, strict=True):
            np.testing.assert_array_equal(one, many[i])


def test_errors_name_the_values():
    with pytest.raises(ValueError, match=r'kernel_px \(=0\)'):
        find_centers(np.zeros((4, 4), np.float32), kernel_px=0, max_centers=3)
