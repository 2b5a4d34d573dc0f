"""The plane of the road, found by RANSAC, and the frame of coordinates that it defines."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdl_jax.proposals.options import RoadOptions
from pdl_jax.typing import Array

_NUM_REFINEMENTS = 3
# A plane needs this share of the drawn points, else the road is taken to be level.
_MIN_SUPPORT = 0.25
# Points of a road may rise or fall by this share of their distance.
_MAX_SLOPE = 0.05


class Road(NamedTuple):
    """A plane of the road and the frame x right, y up, z ahead whose origin lies below the camera.

    Attributes:
      rotation: f32[3, 3], rows are the axes of the frame in camera coordinates.
      height_m: f32[], height of the camera above the road.
      deviation_m: f32[], standard deviation of the distances of the road's points from the plane.
      is_found: bool[], false if no plane had enough points and the road is taken to be level.
    """

    rotation: Array
    height_m: Array
    deviation_m: Array
    is_found: Array


def to_road(points: Array, road: Road) -> Array:
    """Turns camera coordinates f32[..., 3] into those of the road."""
    return points @ road.rotation.T + jnp.array([0.0, 1.0, 0.0]) * road.height_m


def to_camera(points: Array, road: Road) -> Array:
    """Turns coordinates of the road f32[..., 3] into those of the camera."""
    return (points - jnp.array([0.0, 1.0, 0.0]) * road.height_m) @ road.rotation


def find_road(points: Array, valid: Array, options: RoadOptions) -> Road:
    """Finds the plane of the road.

    3DOP classifies superpixels as road first, which needs a labelled training set; here the points
    of a box ahead of the camera, at the height where a road must be, take their place.

    Args:
      points: f32[N, 3] in camera coordinates.
      valid: bool[N].
      options: see there; draws are the same in every call.

    Returns:
      The road.
    """
    first, second = jax.random.split(jax.random.key(0))
    sample, is_sample = _draw_points(points, valid, options, first)
    triples = sample[jax.random.randint(second, (options.num_planes, 3), 0, options.num_points)]
    normals, heights = _make_planes(triples)
    distances = jnp.abs(sample @ normals.T + heights)
    # Truncated squares rank planes with the same support by how well it fits.
    support = jnp.maximum(1 - (distances / options.max_distance_m) ** 2, 0)
    support = jnp.where(is_sample[:, None], support, 0).sum(axis=0)
    support = jnp.where(_is_possible(normals, heights, options), support, 0)
    best = jnp.argmax(support)
    is_found = support[best] >= _MIN_SUPPORT * options.num_points
    normal = jnp.where(is_found, normals[best], jnp.array([0.0, -1.0, 0.0]))
    height = jnp.where(is_found, heights[best], options.camera_height_m)
    for _ in range(_NUM_REFINEMENTS):
        distance = sample @ normal + height
        weight = (is_sample & (jnp.abs(distance) < options.max_distance_m)).astype(jnp.float32)
        refined = _fit_plane(sample, weight)
        is_better = is_found & _is_possible(*refined, options)
        normal = jnp.where(is_better, refined[0], normal)
        height = jnp.where(is_better, refined[1], height)
    distance = jnp.where(weight > 0, sample @ normal + height, 0)
    deviation = jnp.sqrt((distance**2).sum() / jnp.maximum(weight.sum(), 1))
    return Road(_make_axes(normal), height, jnp.where(is_found, deviation, 0.0), is_found)


def _draw_points(
    points: Array, valid: Array, options: RoadOptions, rng: Array
) -> tuple[Array, Array]:
    """Draws points where the road must be: f32[M, 3] and bool[M], all false if there are none."""
    x, y, z = points.T
    height_range = options.height_range_m + _MAX_SLOPE * z
    is_candidate = (
        valid
        & (jnp.abs(x) < options.x_m)
        & (z > options.z_m[0])
        & (z < options.z_m[1])
        & (jnp.abs(y - options.camera_height_m) < height_range)
    )
    # Points thin out with distance; without the weights those at the bumper would outvote the rest.
    sums = jnp.cumsum(jnp.where(is_candidate, z, 0))
    places = jax.random.uniform(rng, (options.num_points,)) * sums[-1]
    rows = jnp.minimum(jnp.searchsorted(sums, places, side='right'), len(points) - 1)
    return points[rows], is_candidate[rows]


def _make_planes(triples: Array) -> tuple[Array, Array]:
    """Returns normals f32[K, 3] that point up and the camera's heights f32[K], of f32[K, 3, 3]."""
    normals = jnp.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = jnp.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / jnp.maximum(lengths, 1e-9) * jnp.where(normals[:, 1:2] > 0, -1, 1)
    return normals, -(normals * triples[:, 0]).sum(axis=1)


def _is_possible(normals: Array, heights: Array, options: RoadOptions) -> Array:
    """Tells which planes can be a road, by their tilt and by the camera's height."""
    is_level = -normals[..., 1] > jnp.cos(jnp.radians(options.max_tilt_deg))
    return is_level & (jnp.abs(heights - options.camera_height_m) < options.height_range_m)


def _fit_plane(points: Array, weight: Array) -> tuple[Array, Array]:
    """Fits y = a x + b z + c by least squares: the normal f32[3] and the camera's height f32[]."""
    total = jnp.maximum(weight.sum(), 1)
    mean = (weight[:, None] * points).sum(axis=0) / total
    x, y, z = (points - mean).T
    xx, xz, zz, xy, zy = (
        (weight * a * b).sum() / total for a, b in ((x, x), (x, z), (z, z), (x, y), (z, y))
    )
    determinant = jnp.maximum(xx * zz - xz * xz, 1e-6)
    a, b = (zz * xy - xz * zy) / determinant, (xx * zy - xz * xy) / determinant
    normal = jnp.stack([a, -jnp.ones_like(a), b])
    normal = normal / jnp.linalg.norm(normal)
    return normal, -(normal * mean).sum()


def _make_axes(normal: Array) -> Array:
    """Returns rows right, up, ahead for an upward normal; ahead is the camera's z on the plane."""
    ahead = jnp.array([0.0, 0.0, 1.0]) - normal[2] * normal
    ahead = ahead / jnp.linalg.norm(ahead)
    return jnp.stack([jnp.cross(-normal, ahead), normal, ahead])
