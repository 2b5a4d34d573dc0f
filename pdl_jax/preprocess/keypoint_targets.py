"""Training targets of DeeperLab: keypoints of instances, and offsets to them."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from pdl_jax.ops.keypoints import EDGES, NUM_KEYPOINTS, pixel_positions
from pdl_jax.ops.segments import lookup, segment_boxes, segment_centroids
from pdl_jax.preprocess.targets import index_instances
from pdl_jax.typing import Array, LabelFormat, check_positive


@dataclasses.dataclass(frozen=True)
class KeypointTargetOptions:
    """Options of the training targets.

    Attributes:
      radius_px: radius of the disc around every keypoint, in pixels of the crop.
      small_instance_area_px: area inside the crop below which an instance is small.
      small_instance_weight: semantic weight of the pixels of small instances.
      max_instances: number of instances of a crop that get targets; pixels of further ones get no
        instance loss.
      is_crowd_ignored: crowd pixels are void for the semantic loss; otherwise they keep their
        class. The instance losses always leave them out.
    """

    radius_px: float = 10.0
    small_instance_area_px: int = 4096
    small_instance_weight: float = 3.0
    max_instances: int = 256
    is_crowd_ignored: bool = True

    def __post_init__(self) -> None:
        check_positive('targets', self, 'max_instances', 'radius_px')


def make_keypoint_targets(
    panoptic: Array, *, label_format: LabelFormat, options: KeypointTargetOptions
) -> dict[str, Array]:
    """Makes the targets of one crop, at its full size.

    Args:
      panoptic: i32[H, W], the label map after augmentation.
      label_format: encoding of classes and instances.
      options: see `KeypointTargetOptions`.

    Returns:
      'semantic': i32[H, W], ignore_label on void.
      'semantic_weight': f32[H, W], 1 or `small_instance_weight`; the loss masks void.
      'keypoint': f32[H, W, K], 1 in the discs around the keypoints of each kind.
      'keypoint_weight': f32[H, W], 0 on void and crowd.
      'short': f32[H, W, K, 2], (dy, dx) in pixels from a pixel of a disc to its keypoint.
      'middle': f32[H, W, E, 2], from a pixel of the disc of an edge's start to the keypoint at the
        edge's end, of the same instance; edges as in `ops.keypoints`.
      'long': f32[H, W, K, 2], from a pixel of an instance to its keypoints.
      'long_weight': f32[H, W], 1 on instances. The weights of 'short' and 'middle' are the discs.
      Offsets are 0 outside of their regions.

    Source: Yang et al., DeeperLab, arXiv 1902.05093, section 3.2.
    """
    semantic = panoptic // label_format.label_divisor
    is_thing = lookup(jnp.asarray(label_format.thing_table(), jnp.int32), semantic) > 0
    is_void = semantic == label_format.ignore_label
    is_crowd = is_thing & (panoptic % label_format.label_divisor == 0)
    is_instance = is_thing & ~is_crowd & ~is_void
    num = options.max_instances
    index = index_instances(panoptic, is_instance, label_format=label_format, max_instances=num)
    keypoints, area = locate_keypoints(index, num)
    is_small = ((area < options.small_instance_area_px) & (area > 0)).astype(jnp.int32)
    is_known = index < num
    if options.is_crowd_ignored:
        semantic = jnp.where(is_crowd, label_format.ignore_label, semantic)
    # Things without a target would count as background.
    has_target = ~is_instance | is_known
    maps = draw_keypoints(keypoints, index, area > 0, radius_px=options.radius_px)
    return {
        'semantic': semantic,
        'semantic_weight': jnp.where(
            lookup(is_small, index) > 0, options.small_instance_weight, 1.0
        ),
        **maps,
        'keypoint_weight': (~is_void & ~is_crowd & has_target).astype(jnp.float32),
        'long_weight': is_known.astype(jnp.float32),
    }


def locate_keypoints(index: Array, num: int) -> tuple[Array, Array]:
    """Finds the keypoints of instances.

    Args:
      index: i32[H, W], the instance of a pixel; pixels outside [0, num) are dropped.
      num: number of instances N.

    Returns:
      keypoints: f32[N, K, 2], (y, x) in pixels: the outermost pixels of the bounding box, and the
        mean position, not rounded; 0 for instances without pixels.
      area: i32[N] in pixels.
    """
    area, mean = segment_centroids(index, num)
    box = segment_boxes(index, num)
    top, left, bottom, right = (box - jnp.array([0, 0, 1, 1])).astype(jnp.float32).T
    corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
    points = jnp.stack([*(jnp.stack(corner, -1) for corner in corners), mean], axis=1)
    return jnp.where((area > 0)[:, None, None], points, 0.0), area


def draw_keypoints(
    keypoints: Array,
    index: Array,
    valid: Array,
    *,
    radius_px: float,
    edges: tuple[tuple[int, int], ...] = EDGES,
) -> dict[str, Array]:
    """Draws the discs and the offsets of instances.

    Args:
      keypoints: f32[N, K, 2], (y, x) in pixels, inside the map.
      index: i32[H, W], the instance of a pixel, N where there is none.
      valid: bool[N], rows to draw; valid rows come first.
      radius_px: radius of the discs.
      edges: the pairs of keypoints whose middle-range offsets are drawn.

    Returns:
      'keypoint', 'short', 'middle' and 'long' of `make_keypoint_targets`.
    """
    size = index.shape[0], index.shape[1]
    owner = draw_discs(keypoints, valid, size, radius_px=radius_px)
    position = pixel_positions(size)

    def offsets(instance: Array, end: int) -> Array:
        is_known = (instance < keypoints.shape[0])[..., None]
        return jnp.where(is_known, lookup(keypoints[:, end], instance) - position, 0.0)

    kinds = range(NUM_KEYPOINTS)
    return {
        'keypoint': (owner < keypoints.shape[0]).astype(jnp.float32),
        'short': jnp.stack([offsets(owner[..., kind], kind) for kind in kinds], axis=2),
        'middle': jnp.stack([offsets(owner[..., start], end) for start, end in edges], axis=2),
        'long': jnp.stack([offsets(index, kind) for kind in kinds], axis=2),
    }


def draw_discs(keypoints: Array, valid: Array, size: tuple[int, int], *, radius_px: float) -> Array:
    """Draws a disc around every keypoint.

    Where discs of one kind overlap, a pixel belongs to the nearest keypoint, of the first instance
    on ties.

    Args:
      keypoints: f32[N, K, 2], (y, x) in pixels, inside the map.
      valid: bool[N], rows to draw; valid rows come first.
      size: (height, width) of the map in pixels.
      radius_px: radius of the discs; pixels at this distance belong to them.

    Returns:
      i32[H, W, K], the instance whose disc a pixel belongs to; N where there is none.
    """
    num, count = keypoints.shape[:2]
    reach = math.ceil(radius_px)
    side = 2 * reach + 2
    # A patch begins `reach` pixels before the pixel that its keypoint lies in.
    axis = jnp.arange(side, dtype=jnp.float32) - reach
    canvas = (count, size[0] + side - 1, size[1] + side - 1)

    def draw_one(point: Array, nearest: Array, owner: Array, row: Array) -> tuple[Array, Array]:
        corner = jnp.floor(point)
        dy, dx = (axis + c - p for c, p in zip(corner, point, strict=True))
        distance = dy[:, None] ** 2 + dx[None, :] ** 2
        start = corner.astype(jnp.int32)
        before = jax.lax.dynamic_slice(nearest, start, (side, side))
        is_mine = (distance <= radius_px**2) & (distance < before)
        below = jax.lax.dynamic_slice(owner, start, (side, side))
        return (
            jax.lax.dynamic_update_slice(nearest, jnp.where(is_mine, distance, before), start),
            jax.lax.dynamic_update_slice(owner, jnp.where(is_mine, row, below), start),
        )

    def draw(row: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.vmap(draw_one, in_axes=(0, 0, 0, None))(keypoints[row], *state, row)

    state = jnp.full(canvas, jnp.inf), jnp.full(canvas, num, jnp.int32)
    _, owner = jax.lax.fori_loop(0, jnp.sum(valid), draw, state)
    inside = owner[:, reach : reach + size[0], reach : reach + size[1]]
    return jnp.moveaxis(inside, 0, -1)
