"""Stacks of generated balls, linked from slice to slice."""

import csv
import io

import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image

from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.tiff_stacks import TiffStack
from pdl_jax.prediction.slices import open_slices, predict_stack, to_csv, write_objects
from tests.prediction.label_maps import GROUND, make_result

# (z, y, x, radius): apart from each other, at many depths.
BALLS = [(6, 20, 20, 9), (9, 24, 60, 8), (20, 20, 24, 10), (14, 60, 30, 12), (22, 62, 70, 9)]


def draw_volume(num_slices=32, size=(80, 100)) -> np.ndarray:
    z, y, x = np.mgrid[:num_slices, : size[0], : size[1]]
    volume = np.full((num_slices, *size), GROUND * 1000, np.int32)
    for i, (*center, radius) in enumerate(BALLS, 1):
        distance = sum((a - c) ** 2 for a, c in zip((z, y, x), center, strict=True))
        volume[distance < radius**2] = i
    return volume


def test_each_ball_has_one_number(tmp_path):
    volume = draw_volume()
    path = epath.Path(tmp_path / 'balls_objects.tif')
    objects = write_objects((make_result(page) for page in volume), path)
    numbers = tifffile.imread(path)
    assert numbers.shape == volume.shape and numbers.dtype == np.uint32
    assert len(objects) == len(BALLS)
    is_ball = volume < GROUND * 1000
    np.testing.assert_array_equal(numbers > 0, is_ball)
    pairs = np.unique(np.stack([volume[is_ball], numbers[is_ball]]), axis=1)
    assert pairs.shape[1] == len(BALLS)
    for ball, number in pairs.T.tolist():
        voxels = np.argwhere(volume == ball)
        one = objects[number - 1]
        assert one.number == number and one.class_name == 'disk'
        assert one.volume == len(voxels) and one.score == pytest.approx(0.5)
        assert one.centroid == pytest.approx(voxels.mean(axis=0))
        assert one.box == (*voxels.min(axis=0), *(voxels.max(axis=0) + 1))
        assert (one.first_slice, one.last_slice) == (one.box[0], one.box[3] - 1)
        assert one.num_slices == one.last_slice - one.first_slice + 1
    rows = list(csv.DictReader(io.StringIO(to_csv(objects))))
    assert [int(row['volume']) for row in rows] == [one.volume for one in objects]
    assert list(tmp_path.iterdir()) == [tmp_path / 'balls_objects.tif']


class Oracle:
    """A predictor that knows each ball by its grey level."""

    pixels = PixelFormat(1)

    def start(self, images):
        (image,) = images
        grey = image[..., 0].astype(np.int32)
        return lambda: [make_result(np.where(grey > 0, grey, GROUND * 1000))]


@pytest.mark.parametrize('is_one_file', [True, False])
def test_a_stack_becomes_a_stack_and_a_table(tmp_path, is_one_file):
    volume = draw_volume(26)
    grey = np.where(volume < GROUND * 1000, volume, 0).astype(np.uint8)
    paths = [str(tmp_path / f'balls{i:02d}.png') for i in range(26)]
    if is_one_file:
        paths = [str(tmp_path / 'balls00.tif')]
        tifffile.imwrite(paths[0], grey, photometric='minisblack')
    else:
        for path, page in zip(paths, grey, strict=True):
            Image.fromarray(page).save(path)
    objects = predict_stack(Oracle(), paths, tmp_path / 'out')
    numbers = tifffile.imread(tmp_path / 'out' / 'balls00_objects.tif')
    np.testing.assert_array_equal(numbers > 0, grey > 0)
    assert len(objects) == numbers.max() == len(BALLS)
    lines = (tmp_path / 'out' / 'balls00_objects.csv').read_text('utf-8-sig').splitlines()
    assert len(lines) == 1 + len(BALLS) and lines[0].startswith('object,class,')


def test_a_slice_that_shows_nothing_is_bridged(tmp_path):
    volume = draw_volume()
    volume[14] = GROUND * 1000
    path = epath.Path(tmp_path / 'x.tif')
    objects = write_objects((make_result(page) for page in volume), path)
    assert len(objects) == len(BALLS)


def test_slices_of_other_sizes_are_refused(tmp_path):
    pages = [draw_volume(1)[0], draw_volume(1, (80, 90))[0]]
    path = epath.Path(tmp_path / 'x.tif')
    with pytest.raises(ValueError, match='slice 2 has 80x90 pixels, the ones before 80x100'):
        write_objects((make_result(page) for page in pages), path)
    assert not list(tmp_path.iterdir())


def test_pages_are_read_one_by_one_with_one_range(tmp_path):
    volume = np.random.default_rng(0).integers(100, 4000, (20, 30, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / 'em.tif', volume, photometric='minisblack', compression='zlib')
    with open_slices([str(tmp_path / 'em.tif')], PixelFormat(1)) as slices:
        pages = np.stack(list(slices))[..., 0]
    assert pages.shape == volume.shape and pages.min() == 0 and pages.max() == 255
    # Equal values stay equal.
    order = np.argsort(volume, axis=None, kind='stable')
    assert (np.diff(pages.ravel()[order].astype(int)) >= 0).all()


def test_what_is_no_stack_is_refused(tmp_path):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(np.zeros((9, 9), np.uint8))
        writer.write(np.zeros((9, 9), np.uint16))
    with pytest.raises(ValueError, match=r'x\.tif: page 2 has 9x9 .* 16 bits'):
        TiffStack(buffer, name='x.tif', pixels=PixelFormat())
    path = tmp_path / 'a.png'
    path.write_bytes(b'\x89PNG')
    with pytest.raises(ValueError, match='is one image, no stack'):
        open_slices([str(path)], PixelFormat()).__enter__()
