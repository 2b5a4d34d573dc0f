"""Files of KITTI's layout: what is written is read, and what is damaged is named."""

import io

import numpy as np
import pytest
from etils import epath
from PIL import Image

from pdl_jax.proposals import frames, generated, kitti
from pdl_jax.proposals.class_model import DEFAULT_MODELS
from pdl_jax.proposals.kitti_label import format_label, parse_label
from pdl_jax.proposals.model_file import read_models, write_models
from pdl_jax.proposals.options import GridOptions

_CALIBRATION = """\
P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.005
P3: 700 0 600 -334 0 700 180 2.3 0 0 1 0.003
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0.01 0 0 -1 -0.07 1 0 0 -0.27
Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0
"""
_LABEL = 'Car 0.10 1 -1.57 100.5 120.0 220.5 180.0 1.50 1.60 4.00 -3.00 1.70 12.00 -1.80'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kitti')
    generated.generate_frames(folder, num_frames=2, size=(60, 200))
    return folder


def test_generated_frames_are_read_as_they_were_made(root):
    files = kitti.list_frames(root)
    assert [f.name for f in files] == ['000000', '000001']
    labels = kitti.read_labels(files[0].labels)
    assert len(labels) >= 2 and {label.kind for label in labels} <= {'Car', 'Pedestrian', 'Cyclist'}
    by_source = {name: frames.read_frame(files[0], name) for name in ('lidar', 'depth')}
    for frame in by_source.values():
        assert frame.image.shape == (60, 200, 3) and frame.canvas_size == (128, 256)
        points = np.asarray(frame.points)[np.asarray(frame.valid)]
        # Most points lie on the road, 1.65 m below the camera, none below it.
        assert np.median(points[:, 1]) == pytest.approx(1.65, abs=0.03)
        assert points[:, 1].max() < 1.8
    again = kitti.list_frames(root)
    assert again == files


def test_a_list_selects_frames(root, tmp_path):
    names = tmp_path / 'val.txt'
    names.write_text('000001\n')
    assert [f.name for f in kitti.list_frames(root, names_path=names)] == ['000001']
    names.write_text('000007\n')
    with pytest.raises(FileNotFoundError, match='000007.txt does not exist'):
        kitti.list_frames(root, names_path=names)
    with pytest.raises(FileNotFoundError, match='--generate'):
        kitti.list_frames(tmp_path)


def test_what_a_source_needs_is_named(root):
    files = kitti.list_frames(root)[0]
    with pytest.raises(FileNotFoundError, match='velodyne/000000.bin, which --source=lidar needs'):
        frames.read_frame(files._replace(lidar=None), 'lidar')
    with pytest.raises(ValueError, match='give the depth of that image'):
        frames.read_frame(
            files._replace(image=_write_png(root / 'small.png', (40, 50, 3))), 'depth'
        )


def _write_png(path, shape):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(buffer, 'PNG')
    path.write_bytes(buffer.getvalue())
    return epath.Path(path)


def test_a_calibration_is_rectified(tmp_path):
    path = epath.Path(tmp_path / 'calib.txt')
    path.write_text(_CALIBRATION)
    calibration = kitti.read_calibration(path)
    np.testing.assert_allclose(calibration.left[0], [700, 0, 600, 45])
    np.testing.assert_allclose(calibration.lidar_to_camera[2], [1, 0, 0, -0.27])


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('P2: 700', 'P2: seven', 'line 2 of .*P2, value 1 must be a number'),
        ('P2: 700', 'P2: nan', 'value 1 must be a number'),
        ('P2: 700', 'P2: 1e9', 'value 1 must be a number'),
        ('P2: 700 0', 'P2: 700', 'P2 has 11 values, not 12'),
        ('P0:', 'P2:', 'line 2 of .* P2 is given twice'),
        ('R0_rect', 'R1_rect', 'lacks R0_rect'),
        ('P3: 700 0 600 -334', 'P3: 700 0 600 50', 'P3 must lie to the right'),
        ('R0_rect: 1 0 0', 'R0_rect: 0 0 0', 'R0_rect is no camera'),
    ],
)
def test_damaged_calibrations_are_named(tmp_path, old, new, message):
    path = epath.Path(tmp_path / 'calib.txt')
    path.write_text(_CALIBRATION.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        kitti.read_calibration(path)


def test_a_label_is_read_and_written():
    label = parse_label(_LABEL + ' 0.97', 'here')
    assert label.kind == 'Car' and label.occlusion == 1 and label.truncation == 0.1
    assert label.image_box == (120.0, 100.5, 180.0, 220.5)
    assert label.box == (-3.0, 1.7, 12.0, 4.0, 1.5, 1.6, -1.8)
    assert parse_label(format_label(label), 'here') == label
    dont_care = parse_label('DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10', 'here')
    assert dont_care.kind == 'DontCare'


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        (0, 'Automobile', "type 'Automobile' is unknown"),
        (1, '1.5', r'truncated 1.5 must lie in \[0, 1\]'),
        (2, '7', 'occluded 7 must be 0, 1, 2, 3 or -1'),
        (4, '400', '2-D box 400'),
        (8, '-1.5', 'must be positive metres'),
        (13, 'inf', 'field 14 must be a number'),
        (14, '1.0 2 3', '17 fields, not 15'),
    ],
)
def test_damaged_labels_are_named(tmp_path, field, value, message):
    words = _LABEL.split()
    words[field] = value
    path = epath.Path(tmp_path / 'label.txt')
    path.write_text(f'{_LABEL}\n\n{" ".join(words)}\n')
    with pytest.raises(ValueError, match=f'line 3 of .*label.txt.*{message}'):
        kitti.read_labels(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'no positive multiple of 16'),
        (b'\0' * 17, '17 bytes, no positive multiple'),
        (np.array([0, 0, 0, 0, 1, np.nan, 0, 0], '<f4').tobytes(), 'point 1 is'),
        (np.array([1e6, 0, 0, 0], '<f4').tobytes(), 'point 0 is'),
    ],
)
def test_damaged_points_are_named(tmp_path, content, message):
    path = epath.Path(tmp_path / 'points.bin')
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        kitti.read_lidar(path)


def test_only_maps_of_16_bits_are_depth(tmp_path):
    with pytest.raises(ValueError, match='grey PNG of 16 bits'):
        kitti.read_depth(_write_png(tmp_path / 'depth.png', (4, 5)))


def test_models_are_read_as_they_were_written(tmp_path):
    write_models(tmp_path / 'models.json', DEFAULT_MODELS, {'num_frames': 3})
    models = read_models(tmp_path / 'models.json', GridOptions())
    assert list(models) == list(DEFAULT_MODELS)
    for name, model in models.items():
        for found, wanted in zip(model, DEFAULT_MODELS[name], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('"version": 1', '"version": 2', 'version 2 is not 1'),
        ('"density"', '"mass"', "lacks the field 'density'"),
        ('"height_deviation_m": 0.4', '"height_deviation_m": 0', 'height_deviation_m 0 must lie'),
        ('"height_mean_m": 0.8', '"height_mean_m": "tall"', 'height_mean_m must be int or float'),
        ('3.6,', '36.0,', r'templates_m\[0\]: side 36.0 must lie in 0.1 .. 11.6'),
        ('"classes"', '"sorts"', "lacks the field 'classes'"),
    ],
)
def test_damaged_models_are_named(tmp_path, old, new, message):
    write_models(tmp_path / 'models.json', DEFAULT_MODELS, {})
    text = (tmp_path / 'models.json').read_text()
    for value in ('0.800000011920929', '0.4000000059604645'):
        text = text.replace(value, value[:3])
    assert old in text
    (tmp_path / 'models.json').write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_models(tmp_path / 'models.json', GridOptions())
