"""Occupancy and free space of a wall."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.proposals import voxel_grid
from pdl_jax.proposals.ground_plane import Road
from pdl_jax.proposals.options import GridOptions

OPTIONS = GridOptions(x_m=(-2.0, 2.0), y_m=(-0.4, 2.0), z_m=(0.0, 8.0))
ROAD = Road(
    jnp.diag(jnp.array([1.0, -1.0, 1.0])), jnp.float32(1.65), jnp.float32(0), jnp.array(True)
)
PROJECTION = jnp.array([[100.0, 0, 100, 0], [0, 100.0, 100, 0], [0, 0, 1, 0]])


@functools.partial(jax.jit, static_argnames='options')
def make_grid(points, valid, options=OPTIONS):
    return voxel_grid.make_grid(
        points, valid, ROAD, PROJECTION, canvas_size=(200, 200), options=options
    )


def make_wall():
    """Points of a wall 4 m ahead, 1 m wide and 1.5 m high, on the road."""
    x, height = np.meshgrid(np.arange(-0.5, 0.5, 0.02), np.arange(0.01, 1.5, 0.02))
    points = np.stack([x, 1.65 - height, np.full_like(x, 4.05)], axis=-1).reshape(-1, 3)
    return jnp.asarray(points, jnp.float32), jnp.ones(points.shape[0], bool)


def test_points_occupy_their_voxels_and_the_road_does_not():
    points, valid = make_wall()
    grid = make_grid(points, valid)
    x, y, z = np.nonzero(np.asarray(grid.occupied))
    # Voxels of 0.2 m; rows start 0.4 m below the road, and the lowest 0.2 m above it are left out.
    assert set(z) == {20} and set(x) == {7, 8, 9, 10, 11, 12} and set(y) == set(range(3, 10))
    np.testing.assert_allclose(voxel_grid.voxel_heights(OPTIONS)[:3], [-0.3, -0.1, 0.1], atol=1e-6)


def test_voxels_before_and_beside_the_wall_are_free():
    points, valid = make_wall()
    free = np.asarray(make_grid(points, valid).free)
    assert free.shape == OPTIONS.shape == (20, 12, 40)
    middle = free[10, 5]
    assert middle[:18].all() and not middle[21:].any()
    # The wall hides more of the far voxels: rays spread.
    assert free[1].all() and free[18].all()
    assert (~free[:, 5, 36]).sum() > (~free[:, 5, 22]).sum()


def test_free_space_is_what_rays_cross():
    points, valid = make_wall()
    options = GridOptions(x_m=OPTIONS.x_m, y_m=OPTIONS.y_m, z_m=OPTIONS.z_m, free_space_cell_px=2)
    grid = make_grid(points, valid, options)
    occupied, free = np.asarray(grid.occupied), np.asarray(grid.free)
    agree = []
    for place in np.ndindex(*options.shape):
        center = np.array(options.low_m) + (np.array(place) + 0.5) * options.voxel_m
        camera = np.array([0, 1.65, 0])
        steps = camera + np.linspace(0, 1, 200)[:, None] * (center - camera)
        cells = np.floor((steps - options.low_m) / options.voxel_m).astype(int)
        cells = cells[((cells >= 0) & (cells < options.shape)).all(axis=1)]
        # Voxels at the surface itself are of either kind.
        if abs(center[2] - 4.05) > 0.4:
            blocked = occupied[tuple(cells.T)].any()
            agree.append(free[place] != blocked)
    # They differ at the silhouette of the wall, where cells and voxels round in different ways.
    assert np.mean(agree) > 0.95


def test_padding_and_points_behind_the_camera_change_nothing():
    points, valid = make_wall()
    noise = jnp.array([[0.0, 0.5, -3.0], [0.1, 0.5, 2.0]])
    more = jnp.concatenate([points, noise])
    ok = jnp.concatenate([valid, jnp.array([True, False])])
    one, two = make_grid(points, valid), make_grid(more, ok)
    np.testing.assert_array_equal(one.occupied, two.occupied)
    np.testing.assert_array_equal(one.free, two.free)
