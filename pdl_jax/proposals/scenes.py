"""Generated frames: cuboids on a road, seen by a stereo camera and a LIDAR.

They have the layout of KITTI and exact labels, so that everything runs without a download.
"""

import math
from typing import NamedTuple

import numpy as np

from pdl_jax.proposals.kitti_label import ObjectLabel

CAMERA_HEIGHT_M = 1.65
_BASELINE_M = 0.54
# Focal length of KITTI's cameras as a share of the image's width.
_FOCAL_SHARE = 721.5377 / 1242
_MAX_DEPTH_M = 80.0
# Mean (length, height, width) by kind, and how much single objects differ.
_SIZES_M = {'Car': (4.0, 1.5, 1.65), 'Pedestrian': (0.8, 1.75, 0.6), 'Cyclist': (1.8, 1.7, 0.6)}
_SIZE_DEVIATION = 0.05
# Rows of a 64-beam scanner and steps of its rotation.
_BEAMS_DEG = np.linspace(2.0, -24.8, 64)
_AZIMUTHS_DEG = np.arange(-42.0, 42.0, 0.17)
_LIDAR_NOISE_M = 0.01
# Position of the LIDAR in camera coordinates.
_LIDAR_M = np.array([0.0, -0.08, -0.27])
# Camera axes (right, down, ahead) of the LIDAR's (ahead, left, up).
_LIDAR_AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


class Frame(NamedTuple):
    """A generated frame.

    Attributes:
      left, right: u8[H, W, 3].
      depth: f32[H, W] of the left image in metres; 0 for the sky.
      lidar: f32[N, 4], x ahead, y left, z up in metres and reflectance.
      projections: (P2, P3), f64[3, 4] each.
      lidar_to_camera: f64[3, 4].
      labels: the objects.
    """

    left: np.ndarray
    right: np.ndarray
    depth: np.ndarray
    lidar: np.ndarray
    projections: tuple[np.ndarray, np.ndarray]
    lidar_to_camera: np.ndarray
    labels: list[ObjectLabel]


def draw_boxes(rng: np.random.Generator, num_objects: int) -> list[tuple[str, np.ndarray]]:
    """Draws kinds and boxes f64[7], see `overlap`, that stand on the road without touching."""
    drawn: list[tuple[str, np.ndarray]] = []
    kinds = list(_SIZES_M)
    for _ in range(100 * num_objects):
        if len(drawn) == num_objects:
            break
        kind = kinds[rng.choice(len(kinds), p=(0.6, 0.2, 0.2))]
        z = rng.uniform(7, 28)
        x = rng.uniform(-0.5, 0.5) * z
        size = np.array(_SIZES_M[kind]) * rng.normal(1, _SIZE_DEVIATION, 3)
        angle = rng.choice([0.0, -math.pi / 2]) + rng.normal(0, 0.05)
        box = np.array([x, CAMERA_HEIGHT_M, z, *size, angle])
        gaps = [np.hypot(*(box[[0, 2]] - b[[0, 2]])) - box[3] / 2 - b[3] / 2 for _, b in drawn]
        if all(gap > 0.7 for gap in gaps):
            drawn.append((kind, box))
    return drawn


def render_frame(
    boxes: list[tuple[str, np.ndarray]], size: tuple[int, int], *, seed: int = 0
) -> Frame:
    """Renders cuboids on a road.

    Args:
      boxes: kinds and boxes f64[7], see `overlap`.
      size: (height, width) of the images in pixels.
      seed: of colours and noise.
    """
    rng = np.random.default_rng(seed)
    colors = rng.uniform(0.25, 0.95, (len(boxes), 3))
    shapes = np.array([box for _, box in boxes]).reshape(-1, 7)
    height, width = size
    focal = _FOCAL_SHARE * width
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    shift = np.array([[focal * _BASELINE_M], [0], [0]])
    left = np.concatenate([camera, np.zeros((3, 1))], axis=1)
    right = np.concatenate([camera, -shift], axis=1)
    y, x = np.mgrid[:height, :width]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(camera).T
    images = []
    for offset in (0.0, _BASELINE_M):
        depth, owner = _cast_rays(np.array([offset, 0, 0]), rays, shapes)
        images.append((_shade(np.array([offset, 0, 0]), rays, depth, owner, shapes, colors), depth))
    depth = np.where(images[0][1] < _MAX_DEPTH_M, images[0][1], 0).astype(np.float32)
    to_camera = np.concatenate([_LIDAR_AXES, _LIDAR_M[:, None]], axis=1)
    labels = [_make_label(kind, box, left, size) for kind, box in boxes]
    return Frame(
        images[0][0], images[1][0], depth, _scan(shapes, rng), (left, right), to_camera, labels
    )


def _cast_rays(
    origin: np.ndarray, rays: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the multiple of each ray f64[..., 3] at its first hit, and the row of the hit box.

    The row is -1 for the road and -2 for the sky, whose multiple is infinite.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        reach = (CAMERA_HEIGHT_M - origin[1]) / rays[..., 1]
        reach = np.where(reach > 0, reach, np.inf)
        owner = np.where(np.isfinite(reach), -1, -2)
        for row, box in enumerate(boxes):
            start, step = _to_box(origin - box[:3], box), _to_box(rays, box)
            low = np.array([-box[3] / 2, -box[4], -box[5] / 2])
            high = np.array([box[3] / 2, 0, box[5] / 2])
            ends = np.stack([(low - start) / step, (high - start) / step])
            enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
            is_hit = (enter < leave) & (enter > 0) & (enter < reach)
            reach, owner = np.where(is_hit, enter, reach), np.where(is_hit, row, owner)
    return reach, owner


def _to_box(vectors: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Turns vectors into the axes of a box: along, down, across."""
    cosine, sine = math.cos(box[6]), math.sin(box[6])
    return vectors @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]).T


def _shade(
    origin: np.ndarray,
    rays: np.ndarray,
    reach: np.ndarray,
    owner: np.ndarray,
    boxes: np.ndarray,
    colors: np.ndarray,
) -> np.ndarray:
    """Colours hits by a texture that sticks to surfaces, so that stereo matching finds them."""
    points = origin + rays * np.where(np.isfinite(reach), reach, 0)[..., None]
    noise = 0.6 * _make_noise(points / 0.25) + 0.4 * _make_noise(points / 0.06)
    palette = np.concatenate([colors, [[0.6, 0.75, 0.95], [0.42, 0.42, 0.44]]])
    color = palette[owner]
    for row, box in enumerate(boxes):
        local = _to_box(points - box[:3], box) / (box[3:6] / 2)
        # Faces that look along the box are darker than those that look across.
        is_end = np.abs(local[..., 0]) > 0.999
        color = np.where(((owner == row) & is_end)[..., None], 0.75 * color, color)
    bright = np.where(owner == -2, 1, 0.55 + 0.6 * noise)
    return np.clip(255 * color * bright[..., None], 0, 255).astype(np.uint8)


def _make_noise(points: np.ndarray) -> np.ndarray:
    """Returns noise in [0, 1] that is constant in cells of unit size."""
    cells = np.floor(points).astype(np.int64).astype(np.uint32)
    mixed = cells[..., 0] * np.uint32(73856093) ^ cells[..., 1] * np.uint32(19349663)
    mixed ^= cells[..., 2] * np.uint32(83492791)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(1274126177)
    return (mixed >> np.uint32(8)) / 2.0**24


def _scan(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scans the boxes and the road: f32[N, 4]."""
    up, turn = np.meshgrid(np.radians(_BEAMS_DEG), np.radians(_AZIMUTHS_DEG), indexing='ij')
    rays = np.stack([np.cos(up) * np.cos(turn), -np.cos(up) * np.sin(turn), np.sin(up)], axis=-1)
    reach, _ = _cast_rays(_LIDAR_M, rays @ _LIDAR_AXES.T, boxes)
    reach = reach + rng.normal(0, _LIDAR_NOISE_M, reach.shape)
    is_hit = reach < _MAX_DEPTH_M
    points = (rays * np.where(is_hit, reach, 0)[..., None])[is_hit]
    return np.concatenate([points, np.full((len(points), 1), 0.3)], axis=1).astype(np.float32)


def _make_label(
    kind: str, box: np.ndarray, projection: np.ndarray, size: tuple[int, int]
) -> ObjectLabel:
    signs = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-1.0, 0.0) for c in (-0.5, 0.5)])
    corners = signs * box[3:6]
    cosine, sine = math.cos(box[6]), math.sin(box[6])
    corners = corners @ np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).T + box[:3]
    x, y, depth = projection[:, :3] @ corners.T + projection[:, 3:]
    low, high = (
        np.array([y / depth, x / depth]).min(axis=1),
        np.array([y / depth, x / depth]).max(1),
    )
    limit = np.array(size) - 1.0
    y0, x0, y1, x1 = (float(v) for v in (*np.clip(low, 0, limit), *np.clip(high, 0, limit)))
    whole, seen = np.prod(high - low), (y1 - y0) * (x1 - x0)
    truncation = float(np.clip(1 - seen / whole, 0, 1))
    values = tuple(float(value) for value in box)
    return ObjectLabel(kind, truncation, 0, (y0, x0, y1, x1), values)  # pyright: ignore[reportArgumentType] - there are seven.
