"""From the files of a frame to the arrays that proposals are made of."""

import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from pdl_jax.proposals import kitti
from pdl_jax.proposals.calibration import (
    MIN_DEPTH_M,
    Calibration,
    depth_of_disparity,
    project_points,
    transform_lidar,
    unproject_depth,
)
from pdl_jax.proposals.candidates import View
from pdl_jax.proposals.disparity import match_pair
from pdl_jax.proposals.kitti import FrameFiles
from pdl_jax.proposals.options import ProposalOptions
from pdl_jax.proposals.proposer import Scene, make_scene
from pdl_jax.typing import Array

SOURCES = ('lidar', 'stereo', 'depth')
# Images and point clouds are padded to multiples of these, so that all frames of a data set, whose
# sizes differ a little, run the same program.
_CANVAS_PX = 128
_POINTS = 2**17


class Frame(NamedTuple):
    """A frame.

    Attributes:
      name: its name.
      image: u8[H, W, 3], the left image.
      points: f32[N, 3] in camera coordinates.
      valid: bool[N].
      projection: f32[3, 4], to the image.
    """

    name: str
    image: np.ndarray
    points: Array
    valid: Array
    projection: Array

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the canvas that the image is padded to."""
        height, width = (-(-side // _CANVAS_PX) * _CANVAS_PX for side in self.image.shape[:2])
        return height, width

    @property
    def view(self) -> View:
        """The camera."""
        return View(self.projection, jnp.array(self.image.shape[:2]))

    def make_scene(self, options: ProposalOptions) -> Scene:
        """Finds the road and fills the grid; see `proposer.make_scene`."""
        return make_scene(
            self.points, self.valid, self.view, canvas_size=self.canvas_size, options=options
        )


def read_frame(files: FrameFiles, source: str) -> Frame:
    """Reads a frame.

    Args:
      files: its files.
      source: 'lidar', 'stereo' or 'depth': where the points come from.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or the sizes of images differ.
      ImportError: the source is 'stereo', and OpenCV is not installed.
    """
    calibration = kitti.read_calibration(files.calibration)
    image = kitti.read_image(_require(files, 'image', source))
    if source == 'lidar':
        points, valid = _pad_points(kitti.read_lidar(_require(files, 'lidar', source)))
        points = transform_lidar(points, calibration.lidar_to_camera)
        valid &= _is_seen(points, calibration.left, image)
    else:
        depth = _read_depth(files, source, image, calibration)
        points = unproject_depth(depth, calibration.left)
        valid = depth.ravel() > 0
    return Frame(files.name, image, points, valid, calibration.left)


def _read_depth(
    files: FrameFiles, source: str, image: np.ndarray, calibration: Calibration
) -> Array:
    """Reads or matches the depth of the image, and pads it: f32[height, width] of the canvas."""
    if source == 'stereo':
        right = kitti.read_image(_require(files, 'right_image', source))
        depth = np.asarray(depth_of_disparity(jnp.asarray(match_pair(image, right)), calibration))
    else:
        path = _require(files, 'depth', source)
        depth = kitti.read_depth(path)
        if depth.shape != image.shape[:2]:
            raise ValueError(
                f'{path} has {depth.shape} pixels and {files.image} {image.shape[:2]}: give the '
                f'depth of that image'
            )
    widths = [(0, -side % _CANVAS_PX) for side in depth.shape]
    return jnp.asarray(np.pad(depth, widths))


def _is_seen(points: Array, projection: Array, image: np.ndarray) -> Array:
    """Tells which points f32[N, 3] lie in the image, outside of which nothing is proposed."""
    pixels, depth = project_points(points, projection)
    is_inside = (pixels >= 0) & (pixels <= jnp.array(image.shape[:2]) - 1)
    return is_inside.all(axis=1) & (depth > MIN_DEPTH_M)


def _pad_points(points: np.ndarray) -> tuple[Array, Array]:
    """Pads f32[N, 3] by invalid points."""
    count = len(points)
    padded = np.pad(points, [(0, -count % _POINTS), (0, 0)])
    return jnp.asarray(padded), jnp.asarray(np.arange(len(padded)) < count)


def _require(files: FrameFiles, key: str, source: str) -> epath.Path:
    path = getattr(files, key)
    if path is None:
        folder, suffix = kitti.FOLDERS[key]
        raise FileNotFoundError(
            f'frame {files.name} has no file {folder}/{files.name}{suffix}, which '
            f'--source={source} needs: add it, or choose another of {", ".join(SOURCES)}'
        )
    if not path.exists():
        raise FileNotFoundError(f'file {os.fspath(path)} does not exist: check the path')
    return path
