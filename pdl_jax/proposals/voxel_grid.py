"""Occupancy and free space of a grid of voxels in the frame of the road."""

from typing import NamedTuple

import jax.numpy as jnp

from pdl_jax.proposals.calibration import MIN_DEPTH_M, project_points
from pdl_jax.proposals.ground_plane import Road, to_camera, to_road
from pdl_jax.proposals.options import GridOptions
from pdl_jax.typing import Array


class VoxelGrid(NamedTuple):
    """The two facts that points give of each voxel.

    Attributes:
      occupied: bool[X, Y, Z], P: the voxel has a point that is not of the road.
      free: bool[X, Y, Z], F: no point blocks the ray from the camera to the voxel.
    """

    occupied: Array
    free: Array


def make_grid(
    points: Array,
    valid: Array,
    road: Road,
    projection: Array,
    *,
    canvas_size: tuple[int, int],
    options: GridOptions,
) -> VoxelGrid:
    """Sorts points into voxels.

    Args:
      points: f32[N, 3] in camera coordinates.
      valid: bool[N].
      road: the frame of the grid.
      projection: f32[3, 4], to the image.
      canvas_size: (height, width) in pixels, no smaller than the image.
      options: see there.
    """
    return VoxelGrid(
        find_occupied(to_road(points, road), valid, options),
        find_free(points, valid, road, projection, canvas_size=canvas_size, options=options),
    )


def find_occupied(points: Array, valid: Array, options: GridOptions) -> Array:
    """Finds the voxels with points f32[N, 3], in the frame of the road, of which bool[N] count."""
    places = jnp.floor((points - jnp.array(options.low_m)) / options.voxel_m).astype(jnp.int32)
    is_inside = ((places >= 0) & (places < jnp.array(options.shape))).all(axis=1)
    counts = valid & is_inside & (points[:, 1] >= options.min_height_m)
    # Rows beyond the grid are dropped; negative ones would count from its end.
    x, y, z = jnp.where(counts[:, None], places, options.shape[0]).T
    return jnp.zeros(options.shape, bool).at[x, y, z].set(True, mode='drop')


def find_free(
    points: Array,
    valid: Array,
    road: Road,
    projection: Array,
    *,
    canvas_size: tuple[int, int],
    options: GridOptions,
) -> Array:
    """Finds the voxels in front of the nearest point on their ray; see `make_grid`.

    Rays are cells of the image. A cell without a point, and a voxel outside of the image, is free:
    nothing is known to be in the way.
    """
    cell = options.free_space_cell_px
    num_cells = tuple(-(-side // cell) for side in canvas_size)
    pixels, depth = project_points(points, projection)
    y, x = _find_cells(pixels, num_cells, cell)
    counts = valid & (depth > MIN_DEPTH_M)
    nearest = jnp.full(num_cells, jnp.inf)
    nearest = nearest.at[jnp.where(counts, y, num_cells[0]), x].min(depth, mode='drop')
    pixels, depth = _project_voxels(road, projection, options)
    y, x = _find_cells(pixels, num_cells, cell)
    limit = nearest.at[y, x].get(mode='fill', fill_value=jnp.inf)
    # Voxels beside and behind the camera lie on no ray of the image.
    return (depth < MIN_DEPTH_M) | (depth < limit - options.free_space_margin_m)


def voxel_heights(options: GridOptions) -> Array:
    """Returns f32[Y], heights of the voxels' centres above the road in metres."""
    return options.y_m[0] + (jnp.arange(options.shape[1]) + 0.5) * options.voxel_m


def _find_cells(pixels: Array, num_cells: tuple[int, ...], cell: int) -> tuple[Array, Array]:
    """Finds the cells of pixels f32[..., 2]; those outside of the image get a row beyond it."""
    cells = jnp.floor(pixels / cell)
    is_inside = ((cells >= 0) & (cells < jnp.array(num_cells))).all(axis=-1, keepdims=True)
    cells = jnp.where(is_inside, cells, num_cells[0] + num_cells[1]).astype(jnp.int32)
    return cells[..., 0], cells[..., 1]


def _project_voxels(road: Road, projection: Array, options: GridOptions) -> tuple[Array, Array]:
    """Projects the centres of voxels: pixels f32[X, Y, Z, 2] and depth f32[X, Y, Z].

    A projection is linear, so it is a sum of one term per axis, and the millions of centres need
    not be stored.
    """
    steps = projection[:, :3] @ road.rotation.T
    origin = projection[:, :3] @ to_camera(jnp.zeros(3), road) + projection[:, 3]
    x, y, z = (
        low + (jnp.arange(size) + 0.5) * options.voxel_m
        for low, size in zip(options.low_m, options.shape, strict=True)
    )
    column, row, depth = (
        step[0] * x[:, None, None] + step[1] * y[:, None] + step[2] * z + start
        for step, start in zip(steps, origin, strict=True)
    )
    near = jnp.maximum(depth, MIN_DEPTH_M)
    return jnp.stack([row / near, column / near], axis=-1), depth
