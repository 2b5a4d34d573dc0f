"""Rectified cameras and LIDAR: projections between pixels, points and the left camera."""

from typing import NamedTuple

import jax.numpy as jnp

from pdl_jax.typing import Array

# Points nearer to the camera are left out of images: their pixels are unstable.
MIN_DEPTH_M = 0.1


class Calibration(NamedTuple):
    """Projections of a rectified stereo pair, KITTI's P2, P3, R0_rect and Tr_velo_to_cam.

    Camera coordinates are x right, y down, z ahead, in metres from the reference camera.

    Attributes:
      left, right: f32[3, 4], projections to the two colour images.
      lidar_to_camera: f32[3, 4], from LIDAR to camera coordinates, rectification included.
    """

    left: Array
    right: Array
    lidar_to_camera: Array


def transform_lidar(points: Array, lidar_to_camera: Array) -> Array:
    """Turns LIDAR points into camera coordinates: f32[N, 3] to f32[N, 3]."""
    return points @ lidar_to_camera[:, :3].T + lidar_to_camera[:, 3]


def project_points(points: Array, projection: Array) -> tuple[Array, Array]:
    """Projects points to an image.

    Args:
      points: f32[..., 3] in camera coordinates.
      projection: f32[3, 4].

    Returns:
      f32[..., 2], (y, x) in pixels; f32[...], depth in metres, below `MIN_DEPTH_M` for points whose
      pixels have no meaning.
    """
    x, y, depth = jnp.moveaxis(points @ projection[:, :3].T + projection[:, 3], -1, 0)
    near = jnp.maximum(depth, MIN_DEPTH_M)
    return jnp.stack([y / near, x / near], axis=-1), depth


def unproject_depth(depth: Array, projection: Array) -> Array:
    """Turns a depth map into points.

    Args:
      depth: f32[H, W] in metres; 0 where it is unknown.
      projection: f32[3, 4] of the depth map's image.

    Returns:
      f32[H * W, 3] in camera coordinates.
    """
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in depth.shape), indexing='ij')
    pixels = jnp.stack([x, y, jnp.ones_like(x)], axis=-1) * depth[..., None]
    inverse = jnp.linalg.inv(projection[:, :3])
    return (pixels.reshape(-1, 3) - projection[:, 3]) @ inverse.T


def depth_of_disparity(disparity: Array, calibration: Calibration) -> Array:
    """Turns disparity f32[H, W] in pixels, 0 where unknown, into depth f32[H, W] in metres."""
    shift = calibration.left[0, 3] - calibration.right[0, 3]
    return jnp.where(disparity > 0, shift / jnp.maximum(disparity, 1e-6), 0)
