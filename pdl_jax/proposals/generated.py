"""Writing generated frames in the layout of KITTI."""

import os
from collections.abc import Sequence

import numpy as np

from pdl_jax.data.images import encode_image
from pdl_jax.proposals.kitti import DEPTH_STEP_M, FOLDERS
from pdl_jax.proposals.kitti_label import format_label
from pdl_jax.proposals.scenes import Frame, draw_boxes, render_frame
from pdl_jax.storage.paths import make_path, write_whole

_MIN_OBJECTS, _MAX_OBJECTS = 2, 6


def generate_frames(
    root: str | os.PathLike, *, num_frames: int, size: tuple[int, int], seed: int = 0
) -> None:
    """Writes generated frames to ROOT/training; files of the same names are replaced.

    Args:
      root: the folder, local or gs://.
      num_frames: number of frames.
      size: (height, width) of the images in pixels.
      seed: another number for other frames.

    Raises:
      OSError: a file cannot be written.
    """
    folder = make_path(root) / 'training'
    for name, _ in FOLDERS.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(num_frames):
        rng = np.random.default_rng((seed, number))
        boxes = draw_boxes(rng, int(rng.integers(_MIN_OBJECTS, _MAX_OBJECTS + 1)))
        frame = render_frame(boxes, size, seed=int(rng.integers(2**31)))
        for key, content in encode_frame(frame).items():
            name, suffix = FOLDERS[key]
            write_whole(folder / name / f'{number:06d}{suffix}', content)


def encode_frame(frame: Frame) -> dict[str, bytes]:
    """Encodes a frame as files, by the keys of `kitti.FOLDERS`."""
    steps = np.round(frame.depth / DEPTH_STEP_M).clip(0, 2**16 - 1).astype(np.uint16)
    return {
        'image': encode_image(frame.left),
        'right_image': encode_image(frame.right),
        'lidar': frame.lidar.astype('<f4').tobytes(),
        'calibration': _format_calibration(frame).encode(),
        'labels': ''.join(f'{format_label(label)}\n' for label in frame.labels).encode(),
        'depth': encode_image(steps[..., None]),
    }


def _format_calibration(frame: Frame) -> str:
    left, right = frame.projections
    rows: dict[str, np.ndarray] = {
        'P0': left,
        'P1': right,
        'P2': left,
        'P3': right,
        'R0_rect': np.eye(3),
        'Tr_velo_to_cam': frame.lidar_to_camera,
    }
    return ''.join(f'{name}: {_format_numbers(values.ravel())}\n' for name, values in rows.items())


def _format_numbers(values: Sequence[float] | np.ndarray) -> str:
    return ' '.join(f'{value:.12e}' for value in values)
