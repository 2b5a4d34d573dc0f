"""Exhaustive candidates: every template, turned or not, at every voxel of the road."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.proposals.calibration import MIN_DEPTH_M, project_points
from pdl_jax.proposals.class_model import ClassModel
from pdl_jax.proposals.ground_plane import Road, to_camera, to_road
from pdl_jax.proposals.options import GridOptions
from pdl_jax.proposals.overlap import box_corners
from pdl_jax.proposals.potentials import Integrals, make_features, slide_potentials
from pdl_jax.typing import Array

# Share of the candidates of all variants that a single one may give.
_MAX_SHARE = 0.5


class View(NamedTuple):
    """The camera that candidates are seen from.

    Attributes:
      projection: f32[3, 4], to the image.
      image_size: i32[2], (height, width) in pixels.
    """

    projection: Array
    image_size: Array


class Candidates(NamedTuple):
    """Boxes with their potentials, the best first.

    Attributes:
      boxes: f32[N, 7], see `overlap`.
      image_boxes: f32[N, 4], (y0, x0, y1, x1) in pixels, within the image.
      features: f32[N, 4], see `potentials.make_features`.
      scores: f32[N].
      valid: bool[N].
    """

    boxes: Array
    image_boxes: Array
    features: Array
    scores: Array
    valid: Array


class _Variant(NamedTuple):
    """A template with its orientation and its height above the road; arrays [V, ...]."""

    low: Array
    high: Array
    size_m: Array
    is_turned: Array
    bottom_m: Array
    is_used: Array


def list_candidates(
    extended: Integrals,
    road: Road,
    model: ClassModel,
    view: View,
    *,
    num_candidates: int,
    height_deviations: float,
    options: GridOptions,
    rng: Array | None = None,
) -> Candidates:
    """Lists the best boxes of a class, or boxes drawn at random; empty boxes are left out.

    Args:
      extended: see `potentials.extend_integrals`.
      road: the frame of the grid.
      model: the class.
      view: boxes outside of the image are left out.
      num_candidates: number of boxes at most.
      height_deviations: see `ProposalOptions`.
      options: the grid.
      rng: draws boxes by this key, instead of the best ones.

    Returns:
      Candidates [num_candidates].
    """
    variants = _list_variants(model, height_deviations, options)
    num_places = options.shape[0] * options.shape[2]
    num_variants = variants.size_m.shape[0]
    share = max(_MAX_SHARE, 1 / num_variants)
    num_each = min(num_places, max(1, round(share * num_candidates)))
    keys = jax.random.split(jax.random.key(0) if rng is None else rng, num_variants)

    def pick(row: tuple[_Variant, Array]) -> tuple[Array, Array, Array, Array]:
        variant, key = row
        sums = slide_potentials(
            extended, variant.low, variant.high, enlargement=options.enlargement_voxels
        )
        features = make_features(sums)
        scores = features @ model.weights
        order = scores if rng is None else jax.random.uniform(key, scores.shape)
        is_whole = sums.volume == jnp.prod(variant.high - variant.low)
        allowed = variant.is_used & is_whole & (sums.occupied > 0)
        values, places = lax.top_k(jnp.where(allowed, order, -jnp.inf).ravel(), num_each)
        picked = features.reshape(-1, 4)[places]
        return values, places, picked, scores.ravel()[places]

    values, places, features, scores = lax.map(pick, (variants, keys))
    flat = values.ravel()
    boxes = _place_boxes(variants, places, road, options).reshape(-1, 7)
    image_boxes, is_seen = project_boxes(boxes, view)
    num_rows = min(num_candidates, flat.size)
    best, rows = lax.top_k(jnp.where(is_seen, flat, -jnp.inf), num_rows)
    features, scores = features.reshape(-1, 4)[rows], scores.ravel()[rows]
    picked = Candidates(boxes[rows], image_boxes[rows], features, scores, jnp.isfinite(best))
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, num_candidates - num_rows)] + [(0, 0)] * (x.ndim - 1)), picked
    )


def project_boxes(boxes: Array, view: View) -> tuple[Array, Array]:
    """Projects 3-D boxes to the image.

    Args:
      boxes: f32[..., 7], see `overlap`.
      view: the camera.

    Returns:
      f32[..., 4], (y0, x0, y1, x1) in pixels, clipped to the image; bool[...], whether the box lies
      ahead of the camera and in the image.
    """
    pixels, depth = project_points(box_corners(boxes), view.projection)
    limit = view.image_size.astype(jnp.float32) - 1
    low = jnp.clip(pixels.min(axis=-2), 0, limit)
    high = jnp.clip(pixels.max(axis=-2), 0, limit)
    is_ahead = (depth > MIN_DEPTH_M).all(axis=-1)
    return jnp.concatenate([low, high], axis=-1), is_ahead & (high > low).all(axis=-1)


def snap_boxes(boxes: Array, road: Road, options: GridOptions) -> tuple[Array, Array]:
    """Moves 3-D boxes to the nearest box of voxels, along or across the frame of the road.

    Args:
      boxes: f32[N, 7], see `overlap`.
      road: the frame of the grid.
      options: the grid.

    Returns:
      i32[N, 6], (x0, y0, z0, x1, y1, z1) in voxels, ends exclusive, clipped to the grid; bool[N],
      whether the box lies in the grid.
    """
    is_turned = jnp.abs(jnp.sin(boxes[:, 6])) > jnp.abs(jnp.cos(boxes[:, 6]))
    sides = _count_sides(boxes[:, 3:6], is_turned, options)
    center = (to_road(boxes[:, :3], road) - jnp.array(options.low_m)) / options.voxel_m
    low = jnp.round(center - sides * jnp.array([0.5, 0.0, 0.5])).astype(jnp.int32)
    corners = jnp.concatenate([low, low + sides], axis=1)
    clipped = jnp.clip(corners, 0, jnp.array(options.shape * 2))
    return clipped, (corners == clipped).all(axis=1)


def _count_sides(size_m: Array, is_turned: Array, options: GridOptions) -> Array:
    """Returns i32[N, 3], voxels along x, y and z of sizes f32[N, 3] (length, height, width)."""
    length, height, width = size_m.T
    along = jnp.where(is_turned, width, length), height, jnp.where(is_turned, length, width)
    sides = jnp.stack(along, axis=1) / options.voxel_m
    return jnp.maximum(jnp.round(sides), 1).astype(jnp.int32)


def _list_variants(model: ClassModel, height_deviations: float, options: GridOptions) -> _Variant:
    """Lists templates by orientation and height, [6 T]."""
    templates = jnp.asarray(model.templates_m)
    signs = jnp.array([0.0, 1.0, -1.0])
    is_turned, sign, template = (
        grid.ravel()
        for grid in jnp.meshgrid(
            jnp.array([False, True]), signs, jnp.arange(len(templates)), indexing='ij'
        )
    )
    size_m = templates[template]
    sides = _count_sides(size_m, is_turned, options)
    bottom_m = sign * height_deviations * model.bottom_deviation_m
    rows = jnp.round((bottom_m - options.y_m[0]) / options.voxel_m).astype(jnp.int32)
    # Boxes whose height rounds to that of the road are the same as those on it.
    is_used = (sign == 0) | (rows != rows[0])
    low = jnp.stack([-(sides[:, 0] // 2), rows, -(sides[:, 2] // 2)], axis=1)
    return _Variant(low, low + sides, size_m, is_turned, bottom_m, is_used)


def _place_boxes(variants: _Variant, places: Array, road: Road, options: GridOptions) -> Array:
    """Returns the boxes of variants at places i32[V, K] of the plane: f32[V, K, 7]."""
    x, z = jnp.divmod(places, options.shape[2])
    middle = (variants.low + variants.high) / 2
    center = jnp.stack(
        [
            options.x_m[0] + (x + middle[:, None, 0]) * options.voxel_m,
            jnp.broadcast_to(variants.bottom_m[:, None], x.shape),
            options.z_m[0] + (z + middle[:, None, 2]) * options.voxel_m,
        ],
        axis=-1,
    )
    angle = jnp.where(variants.is_turned, -jnp.pi / 2, 0.0)
    rest = jnp.concatenate([variants.size_m, angle[:, None]], axis=1)
    rest = jnp.broadcast_to(rest[:, None], (*places.shape, 4))
    return jnp.concatenate([to_camera(center, road), rest], axis=-1)
