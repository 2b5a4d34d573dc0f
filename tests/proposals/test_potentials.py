"""The potentials of 3DOP against stored brute-force values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops.integral_image import integrate, integrate_fractions
from pdl_jax.proposals import potentials


@jax.jit
def make_integrals(occupied, free, prior):
    return potentials.Integrals(integrate(occupied), integrate(~free), integrate_fractions(prior))


@jax.jit
def sum_potentials(integrals, boxes):
    return potentials.sum_potentials(integrals, boxes, enlargement=3)


@pytest.mark.parametrize(('is_wide', 'tolerance'), [(True, 1e-9), (False, 1e-6)])
def test_potentials_are_those_of_the_reference(find_golden, is_wide, tolerance):
    golden = np.load(find_golden('dop3d', 'own_potentials'))
    rows = golden['boxes_and_potentials']
    with jax.enable_x64(is_wide):
        prior = golden['height_prior'].astype(np.float64 if is_wide else np.float32)
        integrals = make_integrals(
            golden['occupied'].astype(bool), golden['free'].astype(bool), prior
        )
        boxes = jnp.asarray(rows[:, :6].astype(np.int32))
        sums = sum_potentials(integrals, boxes)
        found = [
            sums.occupied / sums.volume,
            sums.blocked / sums.volume,
            sums.height / sums.volume,
            sums.enlarged_height / sums.enlarged_volume,
            sums.height,
            sums.enlarged_height,
        ]
        found = np.stack([np.asarray(values, np.float64) for values in found], axis=1)
    np.testing.assert_allclose(found[:, :4], rows[:, 6:10], rtol=0, atol=tolerance)
    np.testing.assert_allclose(found[:, 4:], rows[:, 10:], rtol=tolerance, atol=tolerance)


def test_the_prior_is_a_gaussian_of_the_height_on_occupied_voxels():
    occupied = np.zeros((2, 3, 2), bool)
    occupied[0, 1, 1] = True
    prior = potentials.height_prior(
        jnp.asarray(occupied), jnp.array([0.1, 0.3, 0.5]), jnp.float32(0.5), jnp.float32(0.4)
    )
    assert np.count_nonzero(prior) == 1
    np.testing.assert_allclose(prior[0, 1, 1], np.exp(-0.125), rtol=1e-6)


def test_sliding_and_single_boxes_have_the_same_potentials():
    rng = np.random.default_rng(0)
    occupied, free = rng.random((2, 20, 8, 24)) < 0.3
    prior = (occupied * rng.random(occupied.shape)).astype(np.float32)
    integrals = make_integrals(occupied, free, prior)
    low, high = jnp.array([-2, 1, -3]), jnp.array([3, 5, 2])
    slid = jax.jit(lambda *x: potentials.slide_potentials(*x, enlargement=3))(
        potentials.extend_integrals(integrals), low, high
    )
    places = np.array([(x, 0, z) for x in (2, 9, 17) for z in (3, 12, 21)])
    boxes = jnp.asarray(np.concatenate([places + low, places + high], axis=1))
    single = sum_potentials(integrals, boxes)
    for name, values in single._asdict().items():
        picked = getattr(slid, name)[places[:, 0], places[:, 2]]
        np.testing.assert_allclose(picked, values, rtol=1e-6, err_msg=name)


def test_a_box_that_fits_has_a_higher_contrast_than_one_beside_it():
    occupied = np.zeros((30, 12, 30), bool)
    occupied[10:18, 1:8, 12:20] = True
    integrals = make_integrals(occupied, ~occupied, occupied.astype(np.float32))
    boxes = jnp.array([[10, 1, 12, 18, 8, 20], [13, 1, 12, 21, 8, 20], [10, 1, 9, 18, 8, 17]])
    sums = sum_potentials(integrals, boxes)
    features = np.asarray(potentials.make_features(sums))
    assert features.shape == (3, len(potentials.NAMES))
    assert (features[0] > features[1:]).all(axis=0)[[0, 2, 3]].all()
    np.testing.assert_allclose(features[0, :3], 1)
