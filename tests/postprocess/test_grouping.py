"""Assignment of pixels to centres against a full distance table."""

import jax
import numpy as np
import pytest

from pdl_jax.postprocess import grouping
from pdl_jax.postprocess.grouping import group_pixels


def make_case(seed, count, num_valid, size=(21, 34)):
    rng = np.random.default_rng(seed)
    centers = np.stack([rng.integers(0, n, count) for n in size], -1).astype(np.float32)
    valid = np.zeros(count, bool)
    valid[rng.choice(count, num_valid, replace=False)] = True
    return centers, valid, rng.integers(-9, 9, (*size, 2)).astype(np.float32)


def group_by_table(centers, valid, offsets):
    """The whole table of distances; integers, so float32 is exact and ties are real."""
    y, x = np.mgrid[: offsets.shape[0], : offsets.shape[1]]
    votes = offsets + np.stack([y, x], -1)
    distance = ((votes[:, :, None] - centers) ** 2).sum(-1)
    distance[..., ~valid] = np.inf
    return np.where(valid.any(), distance.argmin(-1) + 1, 0)


@pytest.mark.parametrize('block', [1, 8, 32])
@pytest.mark.parametrize(('count', 'num_valid'), [(1, 1), (1, 0), (13, 0), (13, 5), (40, 40)])
def test_equals_the_distance_table(block, count, num_valid):
    case = make_case(count, count, num_valid)
    instance = jax.jit(group_pixels, static_argnames='block')(*case, block=block)
    np.testing.assert_array_equal(instance, group_by_table(*case))


@pytest.mark.parametrize('pixels', [1, 34 * 4])
def test_rows_after_rows_equal_all_at_once(monkeypatch, pixels):
    # One row a step, and four, of which the last step repeats three.
    monkeypatch.setattr(grouping, '_PIXELS_PER_STEP', pixels)
    case = make_case(3, 20, 11)
    np.testing.assert_array_equal(group_pixels(*case), group_by_table(*case))


def test_lower_row_wins_ties():
    centers = np.array([[0, 4], [0, 0], [0, 4]], np.float32)
    instance = group_pixels(centers, np.ones(3, bool), np.zeros((1, 5, 2), np.float32))
    np.testing.assert_array_equal(instance, [[2, 2, 1, 1, 1]])


def test_vmap_with_different_numbers_of_centers():
    cases = [make_case(seed, 20, n) for seed, n in enumerate([0, 3, 20])]
    batched = jax.jit(jax.vmap(group_pixels))(*(np.stack(v) for v in zip(*cases, strict=True)))
    for case, instance in zip(cases, batched, strict=True):
        np.testing.assert_array_equal(instance, group_by_table(*case))


def test_errors_name_the_shapes():
    centers, valid, offsets = make_case(0, 5, 5)
    with pytest.raises(ValueError, match=r'\(4,\)'):
        group_pixels(centers, valid[:4], offsets)
