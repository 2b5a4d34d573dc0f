"""Integral images against sums of NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops import integral_image


def draw_boxes(rng, shape, count):
    ends = np.sort(rng.integers(0, np.array(shape) + 1, (2, count, 3)), axis=0)
    return np.concatenate(list(ends), axis=1)


def sum_by_hand(volume, boxes):
    return np.array([volume[x0:x1, y0:y1, z0:z1].sum() for x0, y0, z0, x1, y1, z1 in boxes])


@pytest.mark.parametrize('high', [2, 2**20])
def test_sums_of_boxes_are_exact_also_where_the_total_wraps_around(high):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, high, (14, 9, 40))
    boxes = draw_boxes(rng, volume.shape, 50)
    wanted = sum_by_hand(volume, boxes)
    # Only boxes whose own sum fits are promised.
    fits = wanted < 2**31
    assert fits.sum() > 20
    integral = integral_image.integrate(jnp.asarray(volume, jnp.int32))
    found = np.asarray(integral_image.sum_boxes(integral, jnp.asarray(boxes)))
    np.testing.assert_array_equal(found[fits], wanted[fits])


def test_fractions_keep_digits_that_a_running_float32_sum_loses():
    rng = np.random.default_rng(1)
    volume = rng.random((100, 16, 100)).astype(np.float32)
    boxes = draw_boxes(rng, volume.shape, 50)
    wanted = sum_by_hand(volume.astype(np.float64), boxes)
    limbs = integral_image.integrate_fractions(jnp.asarray(volume))
    found = integral_image.combine_limbs(integral_image.sum_boxes(limbs, jnp.asarray(boxes)))
    np.testing.assert_allclose(found, wanted, rtol=2e-7)
    running = np.pad(volume.cumsum(0).cumsum(1).cumsum(2), [(1, 0)] * 3)
    x, y, z = boxes[:, :3].T
    difference = np.abs(
        running[x, y, z]
        - [volume[:a, :b, :c].sum(dtype=float) for a, b, c in zip(x, y, z, strict=True)]
    )
    assert difference.max() > 1e-3


def test_a_sliding_box_gives_the_sums_of_clipped_boxes():
    rng = np.random.default_rng(2)
    volume = rng.integers(0, 5, (11, 6, 13))
    integral = integral_image.integrate(jnp.asarray(volume))
    extended = integral_image.extend(integral, 8)
    for _ in range(5):
        low = np.array([-3, rng.integers(-2, 4), -8]) + rng.integers(0, 3, 3)
        high = low + rng.integers(1, 8, 3)
        found = integral_image.slide_box(extended, jnp.asarray(low), jnp.asarray(high), margin=8)
        places = np.stack(np.mgrid[:11, :1, :13], -1).reshape(-1, 3)
        size = np.array(volume.shape)
        boxes = np.concatenate([np.clip(places + end, 0, size) for end in (low, high)], axis=1)
        np.testing.assert_array_equal(found.ravel(), sum_by_hand(volume, boxes))
