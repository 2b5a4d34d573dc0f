"""Files of KITTI's object benchmark, in its official layout, read as data that nobody vouches for.

ROOT/training/image_2/000000.png     left colour image
ROOT/training/image_3/000000.png     right colour image
ROOT/training/velodyne/000000.bin    LIDAR points, float32 x, y, z, reflectance
ROOT/training/calib/000000.txt       P0 .. P3, R0_rect, Tr_velo_to_cam
ROOT/training/label_2/000000.txt     objects, a line each
ROOT/training/depth_2/000000.png     depth of the left image, 16 bits of 1/256 m; not of KITTI
"""

import os
from typing import NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data.images import decode_image, decode_values
from pdl_jax.data.text_files import check_plain_name, read_names, read_text
from pdl_jax.proposals.calibration import Calibration
from pdl_jax.proposals.kitti_label import ObjectLabel, parse_label, parse_number
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.paths import make_path

# Folder of each file of a frame, and its suffix.
FOLDERS = {
    'image': ('image_2', '.png'),
    'right_image': ('image_3', '.png'),
    'lidar': ('velodyne', '.bin'),
    'calibration': ('calib', '.txt'),
    'labels': ('label_2', '.txt'),
    'depth': ('depth_2', '.png'),
}
# Depth of KITTI's depth maps per unit of their 16 bits.
DEPTH_STEP_M = 1 / 256
# A turn of the scanner has 0.12 million points.
_MAX_LIDAR_POINTS = 2**21
_BYTES_PER_POINT = 16
# Coordinates beyond these are damage.
_MAX_LIDAR_M = 1e4
_MAX_LABELS = 10_000
# Name of a row of a calibration file -> number of its values.
_ROWS = {'P2': 12, 'P3': 12, 'R0_rect': 9, 'Tr_velo_to_cam': 12}


class FrameFiles(NamedTuple):
    """The files of a frame; None for those that it has not, or that nobody needs.

    Attributes:
      name: name of the frame.
      calibration: the projections.
      image, right_image: the pair.
      lidar, depth, labels: see the layout above.
    """

    name: str
    calibration: epath.Path
    image: epath.Path | None = None
    right_image: epath.Path | None = None
    lidar: epath.Path | None = None
    depth: epath.Path | None = None
    labels: epath.Path | None = None


def list_frames(
    root: str | os.PathLike, *, part: str = 'training', names_path: str | os.PathLike | None = None
) -> list[FrameFiles]:
    """Lists the frames of a folder in the layout of KITTI.

    Args:
      root: the folder that holds `training` and `testing`.
      part: 'training' or 'testing'.
      names_path: list of the frames to take, a name per line, such as KITTI's train.txt; None takes
        all.

    Raises:
      FileNotFoundError: the folder or the list is missing, or a listed frame has no calibration.
      ValueError: the list is damaged, or there are no frames.
    """
    folder = make_path(root) / part
    calibrations = folder / FOLDERS['calibration'][0]
    if not calibrations.is_dir():
        raise FileNotFoundError(
            f'{calibrations} does not exist: give the folder that holds {part}/calib, '
            f'{part}/image_2 and the others of KITTI, or write one with --generate'
        )
    # Folders of buckets are listed once, not asked file by file.
    found = {
        key: {path.stem: path for path in _list_folder(folder / name) if path.suffix == suffix}
        for key, (name, suffix) in FOLDERS.items()
    }
    names = sorted(found['calibration'])
    if names_path is not None:
        names = list(read_names(make_path(names_path), remedy='give a list of frames'))
    missing = [name for name in names if name not in found['calibration']]
    if missing:
        raise FileNotFoundError(
            f'{calibrations / missing[0]}.txt does not exist: {names_path} lists a frame that is '
            f'not there'
        )
    if not names:
        raise ValueError(f'{calibrations} has no .txt file: there are no frames')
    return [
        FrameFiles(name, **{key: found[key].get(name) for key in FOLDERS})  # pyright: ignore[reportArgumentType] - each has a calibration.
        for name in names
    ]


def read_calibration(path: epath.Path) -> Calibration:
    """Reads a calibration file.

    Returns:
      Projections, float32.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: a row is missing, or has another number of values or values without meaning.
    """
    rows: dict[str, np.ndarray] = {}
    text = read_text(path, remedy='each frame needs its calibration')
    for number, line in enumerate(text.splitlines(), start=1):
        name, colon, rest = line.partition(':')
        # Other rows are of cameras that are not used.
        if not colon or name not in _ROWS:
            continue
        where = f'line {number} of {path}: {name}'
        words = rest.split()
        if name in rows:
            raise ValueError(f'{where} is given twice: remove one of them')
        if len(words) != _ROWS[name]:
            raise ValueError(f'{where} has {len(words)} values, not {_ROWS[name]}: repair the file')
        values = [parse_number(word, f'{where}, value {i + 1}') for i, word in enumerate(words)]
        rows[name] = np.array(values).reshape(3, -1)
    missing = [name for name in _ROWS if name not in rows]
    if missing:
        raise ValueError(
            f'{path} lacks {", ".join(missing)}: give the calibration of the object benchmark'
        )
    for name in ('P2', 'P3', 'R0_rect'):
        if abs(np.linalg.det(rows[name][:, :3])) < 1e-6:
            raise ValueError(f'{path}: {name} is no camera: its first three columns are singular')
    if rows['P2'][0, 3] <= rows['P3'][0, 3]:
        raise ValueError(
            f'{path}: P3 must lie to the right of P2: the fourth value of P2 '
            f'({rows["P2"][0, 3]:g}) must exceed that of P3 ({rows["P3"][0, 3]:g})'
        )
    lidar_to_camera = rows['R0_rect'] @ rows['Tr_velo_to_cam']
    matrices = (rows['P2'], rows['P3'], lidar_to_camera)
    return Calibration(*(matrix.astype(np.float32) for matrix in matrices))  # pyright: ignore[reportArgumentType] - NumPy arrays are taken for JAX's.


def read_labels(path: epath.Path) -> list[ObjectLabel]:
    """Reads the objects of a frame.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: a line is malformed; the message names it.
    """
    text = read_text(path, remedy='fitting and evaluation need labels')
    lines = [(i, line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) > _MAX_LABELS:
        raise ValueError(f'{path} has {len(lines)} objects, the limit is {_MAX_LABELS}')
    return [parse_label(line, f'line {number} of {path}') for number, line in lines]


def read_lidar(path: epath.Path) -> np.ndarray:
    """Reads LIDAR points.

    Returns:
      f32[N, 3], x ahead, y left, z up in metres.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file has no points, too many, or damaged ones.
    """
    data = read_outside_file(path, max_bytes=_MAX_LIDAR_POINTS * _BYTES_PER_POINT)
    if not data or len(data) % _BYTES_PER_POINT:
        raise ValueError(
            f'{path} has {len(data)} bytes, no positive multiple of {_BYTES_PER_POINT}: a point is '
            f'four float32; copy the file again'
        )
    points = np.frombuffer(data, '<f4').reshape(-1, 4)[:, :3]
    damaged = ~(np.abs(points) < _MAX_LIDAR_M).all(axis=1)
    if damaged.any():
        row = int(damaged.argmax())
        raise ValueError(
            f'{path}: point {row} is {points[row].tolist()}, not within {_MAX_LIDAR_M:g} m: copy '
            f'the file again'
        )
    return points.astype(np.float32)


def read_image(path: epath.Path) -> np.ndarray:
    """Reads an image, u8[H, W, 3]; see `data.images.decode_image`."""
    return decode_image(read_outside_file(path), name=os.fspath(path))


def read_depth(path: epath.Path) -> np.ndarray:
    """Reads a depth map, PNG of 16 bits.

    Returns:
      f32[H, W] in metres; 0 where it is unknown.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is no such PNG.
    """
    values = decode_values(read_outside_file(path), name=os.fspath(path), num_channels=None)
    if values.dtype != np.uint16 or values.shape[2] != 1:
        raise ValueError(
            f'{path} must be a grey PNG of 16 bits, depth in 1/256 m, not '
            f'{values.dtype} with {values.shape[2]} channels'
        )
    return values[..., 0].astype(np.float32) * np.float32(DEPTH_STEP_M)


def _list_folder(folder: epath.Path) -> list[epath.Path]:
    paths = list(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        check_plain_name(path.name, os.fspath(folder))
    return paths
