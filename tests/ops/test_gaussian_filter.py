"""Gaussian filters against sums over all pairs, and the lattice against what defines it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops import gaussian_filter, permutohedral


def sum_pairs(points, values):
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    return np.exp(-0.5 * distance) @ values


# More points than a tile has rows, and columns.
@pytest.mark.parametrize('num_points', [300, 2100])
def test_the_exact_filter_is_the_sum_over_pairs(num_points):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(num_points, 4))
    values = rng.normal(size=(num_points, 3))
    found = gaussian_filter.filter_points(
        jnp.asarray(points, jnp.float32), jnp.asarray(values, jnp.float32)
    )
    wanted = sum_pairs(points, values)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_filter_of_an_image_is_the_one_of_its_pixels():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 14, 2))
    y, x = np.mgrid[:9, :14]
    points = np.stack([y, x], -1).reshape(-1, 2) / 2.5
    wanted = sum_pairs(points, image.reshape(-1, 2)).reshape(image.shape)
    found = gaussian_filter.filter_image(jnp.asarray(image, jnp.float32), 2.5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.fixture(scope='module')
def lattice():
    points = 2 * np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    return points, jax.jit(permutohedral.make_lattice)(points)


def test_points_are_weighted_means_of_the_vertices_around_them(lattice):
    points, made = lattice
    keys, weights = (np.asarray(x) for x in permutohedral._find_simplices(jnp.asarray(points)))
    assert (weights >= -1e-6).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    elevated = np.asarray(permutohedral._elevate(jnp.asarray(points)))
    np.testing.assert_allclose(elevated.sum(1), 0, atol=1e-5)
    means = np.einsum('nr,nrk->nk', weights, keys)
    np.testing.assert_allclose(means, elevated[:, :-1], atol=1e-4)
    # Rows number the distinct vertices by their first appearance.
    seen = {}
    for key in map(tuple, keys.reshape(-1, 3).tolist()):
        seen.setdefault(key, len(seen))
    assert int(made.num_vertices) == len(seen)
    rows = [seen[key] for key in map(tuple, keys.reshape(-1, 3).tolist())]
    np.testing.assert_array_equal(made.vertices, np.reshape(rows, (120, 4)))


def test_neighbours_are_one_step_along_an_axis(lattice):
    points, made = lattice
    keys = np.asarray(permutohedral._find_simplices(jnp.asarray(points))[0]).reshape(-1, 3)
    row_of = dict(zip(map(tuple, keys.tolist()), np.asarray(made.vertices).ravel(), strict=True))
    none = made.neighbours.shape[2] - 1
    count = 0
    for (key, row), axis in itertools.product(row_of.items(), range(4)):
        step = np.ones(3, int)
        step[axis : axis + 1] = -3
        for side, sign in enumerate((-1, 1)):
            other = row_of.get(tuple((np.array(key) + sign * step).tolist()), none)
            assert made.neighbours[axis, side, row] == other
            count += other != none
    assert count > 50
