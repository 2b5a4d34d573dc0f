"""Overlap of boxes in the image and in space.

A 3-D box is f32[7]: x, y, z of the middle of its bottom in camera coordinates, length, height and
width in metres, and the angle of its length about the camera's y axis in radians, 0 along x and
positive towards -z, as in KITTI.
"""

import jax.numpy as jnp

from pdl_jax.typing import Array


def box_corners(boxes: Array) -> Array:
    """Lists the corners of 3-D boxes: f32[..., 7] to f32[..., 8, 3], the lower four first."""
    floor = _footprints(boxes)
    bottom = jnp.broadcast_to(boxes[..., None, 1], floor.shape[:-1])
    levels = (bottom, bottom - boxes[..., None, 4])
    corners = [jnp.stack([floor[..., 0], y, floor[..., 1]], axis=-1) for y in levels]
    return jnp.concatenate(corners, axis=-2)


def image_iou(boxes: Array, others: Array) -> Array:
    """Computes the IoU of boxes (y0, x0, y1, x1): f32[..., 4] and f32[..., 4], broadcast."""
    low = jnp.maximum(boxes[..., :2], others[..., :2])
    high = jnp.minimum(boxes[..., 2:], others[..., 2:])
    shared = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    areas = [jnp.prod(jnp.maximum(b[..., 2:] - b[..., :2], 0), axis=-1) for b in (boxes, others)]
    return shared / jnp.maximum(areas[0] + areas[1] - shared, 1e-9)


def space_iou(boxes: Array, others: Array) -> Array:
    """Computes the IoU of 3-D boxes: f32[..., 7] and f32[..., 7], broadcast."""
    shape = jnp.broadcast_shapes(boxes.shape, others.shape)
    boxes, others = jnp.broadcast_to(boxes, shape), jnp.broadcast_to(others, shape)
    # y points down, so the top of a box has the lower value.
    top = jnp.maximum(boxes[..., 1] - boxes[..., 4], others[..., 1] - others[..., 4])
    height = jnp.maximum(jnp.minimum(boxes[..., 1], others[..., 1]) - top, 0)
    shared = _footprint_overlap(boxes, others) * height
    volumes = [jnp.prod(b[..., 3:6], axis=-1) for b in (boxes, others)]
    return shared / jnp.maximum(volumes[0] + volumes[1] - shared, 1e-9)


def _footprints(boxes: Array) -> Array:
    """Lists the corners (x, z) of boxes seen from above, in order: f32[..., 4, 2]."""
    along = jnp.array([1, 1, -1, -1], boxes.dtype) * boxes[..., None, 3] / 2
    across = jnp.array([1, -1, -1, 1], boxes.dtype) * boxes[..., None, 5] / 2
    cosine, sine = jnp.cos(boxes[..., None, 6]), jnp.sin(boxes[..., None, 6])
    x = boxes[..., None, 0] + cosine * along + sine * across
    z = boxes[..., None, 2] - sine * along + cosine * across
    return jnp.stack([x, z], axis=-1)


def _footprint_overlap(boxes: Array, others: Array) -> Array:
    """Computes the areas that rectangles seen from above share.

    A polygon is clipped to a strip by adding the two points where each edge meets the strip's ends
    and by moving what lies outside to the nearest end. The moved edges lie on the ends and enclose
    no area, so the number of corners need not depend on the values.
    """
    points = _footprints(boxes) - others[..., None, jnp.array([0, 2])]
    cosine, sine = jnp.cos(others[..., None, 6]), jnp.sin(others[..., None, 6])
    along = cosine * points[..., 0] - sine * points[..., 1]
    across = sine * points[..., 0] + cosine * points[..., 1]
    corners = _clip(jnp.stack([along, across], -1), 0, others[..., None, 3] / 2)
    corners = _clip(corners, 1, others[..., None, 5] / 2)
    following = jnp.roll(corners, -1, axis=-2)
    cross = corners[..., 0] * following[..., 1] - corners[..., 1] * following[..., 0]
    return jnp.abs(cross.sum(axis=-1)) / 2


def _clip(corners: Array, axis: int, limit: Array) -> Array:
    """Clips polygons f32[..., N, 2] to [-limit, limit] along an axis: f32[..., 3 N, 2]."""
    steps = jnp.roll(corners, -1, axis=-2) - corners
    start, step = corners[..., axis], steps[..., axis]
    safe = jnp.where(step == 0, 1, step)
    # In the order in which the edge meets the two ends.
    ends = jnp.where(step > 0, -limit, limit), jnp.where(step > 0, limit, -limit)
    shares = [jnp.where(step == 0, 0, jnp.clip((end - start) / safe, 0, 1)) for end in ends]
    points = [corners, *(corners + share[..., None] * steps for share in shares)]
    merged = jnp.stack(points, axis=-2).reshape(*corners.shape[:-2], -1, 2)
    clipped = jnp.clip(merged[..., axis], -limit, limit)
    return merged.at[..., axis].set(clipped)
