"""Matching against SciPy's, for every shape of the problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pdl_jax.losses.matching import match_rows

match_batch = jax.jit(jax.vmap(match_rows))


def make_costs(kind, shape, rng):
    *batch, rows, columns = shape
    if kind == 'random':
        return -rng.random(shape)
    if kind == 'tied':
        # Few distinct values, which float32 adds without rounding.
        return rng.integers(-3, 4, shape).astype(float)
    if kind == 'rank_one':
        # All rows want the same columns.
        return -rng.integers(0, 40, (*batch, rows, 1)) * rng.integers(0, 40, (*batch, 1, columns))
    return np.zeros(shape)


def check(cost, valid, match, is_unique):
    rows = np.flatnonzero(valid)
    expected_rows, expected_columns = linear_sum_assignment(cost[rows].astype(np.float64))
    assert (match[~valid] == -1).all()
    matched = np.flatnonzero(match >= 0)
    assert len(matched) == len(expected_rows) == len(set(match[matched]))
    expected = cost[rows][expected_rows, expected_columns].sum(dtype=np.float64)
    found = cost[matched, match[matched]].sum(dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    if is_unique:
        np.testing.assert_array_equal(matched, rows[expected_rows])
        np.testing.assert_array_equal(match[matched], expected_columns)


@pytest.mark.parametrize('shape', [(6, 6), (9, 5), (7, 1), (24, 32)])
def test_equals_scipy(shape):
    rng = np.random.default_rng(0)
    kinds = [kind for kind in ('random', 'tied', 'rank_one', 'equal') for _ in range(16)]
    cost = np.stack([make_costs(kind, shape, rng) for kind in kinds]).astype(np.float32)
    # All rows, none of them, and every number between.
    shares = rng.random((len(kinds), 1)) * 1.4 - 0.2
    valid = rng.random((len(kinds), shape[0])) < shares
    matches = np.asarray(match_batch(cost, valid))
    for kind, *case in zip(kinds, cost, valid, matches, strict=True):
        check(*case, is_unique=kind == 'random')


def test_invalid_rows_change_nothing():
    rng = np.random.default_rng(1)
    cost = rng.random((64, 9, 5)).astype(np.float32)
    valid = rng.random((64, 9)) < 0.5
    other = np.where(valid[..., None], cost, -1e9)
    np.testing.assert_array_equal(match_batch(cost, valid), match_batch(other, valid))


def test_ends_whatever_the_costs():
    cost = np.zeros((64, 6, 6), np.float32)
    cost[0], cost[1], cost[2], cost[3, 2:4], cost[4, :, 1] = np.nan, np.inf, -np.inf, 3e38, np.nan
    cost[5] = jnp.float32(3e38) * np.random.default_rng(0).uniform(-1, 1, (6, 6))
    matches = np.asarray(match_batch(cost, np.ones((64, 6), bool)))
    assert (np.sort(matches, axis=1) == np.arange(6)).all()
