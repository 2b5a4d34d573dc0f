"""The plane of the road, found among other points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.proposals import ground_plane
from pdl_jax.proposals.options import RoadOptions

OPTIONS = RoadOptions(num_points=1024, num_planes=128)
find_road = jax.jit(functools.partial(ground_plane.find_road, options=OPTIONS))


@pytest.mark.parametrize(('roll_deg', 'pitch_deg', 'height_m'), [(0, 0, 1.65), (2, -3, 1.5)])
def test_the_road_is_found_among_cars_and_noise(roll_deg, pitch_deg, height_m):
    rng = np.random.default_rng(0)
    roll, pitch = np.radians([roll_deg, pitch_deg])
    normal = np.array([np.sin(roll), -np.cos(roll) * np.cos(pitch), np.sin(pitch)])
    normal /= np.linalg.norm(normal)
    x, z = rng.uniform(-10, 10, 6000), rng.uniform(3, 35, 6000)
    y = -(height_m + normal[0] * x + normal[2] * z) / normal[1]
    points = np.stack([x, y + rng.normal(0, 0.02, 6000), z], axis=1)
    # A third of the points stand on the road; some are garbage that only padding has.
    points[:2000, 1] -= rng.uniform(0.2, 2, 2000)
    valid = np.ones(7000, bool)
    valid[6000:] = False
    points = np.concatenate([points, np.full((1000, 3), [0, 1.0, 5])]).astype(np.float32)
    road = find_road(jnp.asarray(points), jnp.asarray(valid))
    assert bool(road.is_found)
    np.testing.assert_allclose(road.rotation[1], normal, atol=4e-3)
    np.testing.assert_allclose(road.height_m, height_m, atol=0.03)
    np.testing.assert_allclose(road.deviation_m, 0.02, atol=0.01)
    np.testing.assert_allclose(road.rotation @ road.rotation.T, np.eye(3), atol=1e-5)
    on_road = np.asarray(ground_plane.to_road(jnp.asarray(points[2000:6000]), road))
    assert np.abs(on_road[:, 1]).mean() < 0.05
    back = ground_plane.to_camera(jnp.asarray(on_road), road)
    np.testing.assert_allclose(back, points[2000:6000], atol=1e-4)


@pytest.mark.parametrize('is_valid', [False, True])
def test_without_a_road_it_is_level(is_valid):
    rng = np.random.default_rng(0)
    points = rng.uniform([-5, -2, 5], [5, 0, 20], (7000, 3)).astype(np.float32)
    road = find_road(jnp.asarray(points), jnp.full(7000, is_valid))
    assert not bool(road.is_found)
    np.testing.assert_allclose(road.rotation, np.diag([1, -1, 1]), atol=1e-6)
    assert float(road.height_m) == pytest.approx(OPTIONS.camera_height_m)
