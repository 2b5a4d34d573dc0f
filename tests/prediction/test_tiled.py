"""Images predicted in tiles: equal to whole ones, bounded in memory, and their files."""

import json
import types

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.categories import Category
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.scenes.dataset import CATEGORIES, render_scene
from pdl_jax.prediction import label_store, previews
from pdl_jax.prediction.predict_files import predict_files
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.tiled import TileOptions, predict_tiles
from pdl_jax.runtime.sharding import make_mesh
from tests import tiny
from tests.convert.compiling import compiling_fast
from tests.prediction.label_maps import DISK, GROUND, SKY, SPEC, make_result
from tests.process_group import BARE_NETWORK


class Oracle:
    """A predictor that is right: red is the class and green the object."""

    spec = SPEC
    pixels = PixelFormat()
    is_semantic = False
    stride_px = 16
    origin = {'postprocess': {'min_area_px': 60}}

    def __init__(self):
        self.sizes = []

    def with_postprocess(self, **options):
        assert options == {'min_area_px': 0}
        return self

    def canvas_size(self, size):
        return tuple(-(-(n - 1) // 16) * 16 + 1 for n in size)

    def measure_context(self, tiles, tile_size):
        del tiles, tile_size

    def start(self, images, *, context):
        assert context is None
        (image,) = images
        self.sizes.append(image.shape[:2])
        result = make_result(image[..., 0].astype(np.int32) * 1000 + image[..., 1])
        return lambda: [
            types.SimpleNamespace(panoptic=result.panoptic, segments=result.segments, image=image)
        ]


def draw_image(size=(240, 330)) -> np.ndarray:
    """Disks on two kinds of stuff; one is small."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = np.where(x < 200, GROUND, SKY)
    centers = [(30 + 60 * (i // 5), 30 + 65 * (i % 5)) for i in range(20)]
    for i, (row, column) in enumerate(centers, 1):
        radius = 4 if i == 20 else rng.uniform(8, 22)
        inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
        image[inside, 0], image[inside, 1] = DISK, i
    return image


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / 'slide.tif'
    tifffile.imwrite(path, draw_image(), photometric='rgb', tile=(64, 64), compression='zlib')
    return path


def test_a_slide_becomes_a_map_a_list_and_a_picture(slide, tmp_path):
    image = draw_image()
    oracle = Oracle()
    result = predict_tiles(oracle, str(slide), tmp_path / 'out', TileOptions(100, 40))
    # Memory holds a tile, never the image.
    assert len(oracle.sizes) > 6 and max(oracle.sizes) <= (113, 113)
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == ['slide.json', 'slide_overlay.png', 'slide_panoptic.tif']
    ids = tifffile.imread(tmp_path / 'out' / 'slide_panoptic.tif')
    assert ids.shape == image.shape[:2] and ids.dtype == np.uint16
    with tifffile.TiffFile(tmp_path / 'out' / 'slide_panoptic.tif') as tiff:
        assert tiff.pages[0].is_tiled
    things = [s for s in result.segments if s.is_thing]
    # The disk below the smallest area is void.
    assert len(things) == 19 and (ids[image[..., 1] == 20] == 0).all()
    for i in range(1, 20):
        (number,) = np.unique(ids[image[..., 1] == i])
        assert number and (image[ids == number][:, 1] == i).all()
    description = json.loads((tmp_path / 'out' / 'slide.json').read_text())
    assert (description['height'], description['width']) == image.shape[:2]
    areas = {s['id']: s['area_px'] for s in description['segments']}
    found, counts = np.unique(ids[ids > 0], return_counts=True)
    assert areas == dict(zip(found.tolist(), counts.tolist(), strict=True))
    assert [s['label'] for s in description['segments']] == sorted(areas)
    assert result.summary == '19 disk; ground, sky'


def test_pictures_are_reduced_and_show_what_the_map_holds(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(previews, '_MAX_SIDE_PX', 120)
    kinds = ('overlay', 'color', 'panel', 'html', 'csv', 'ids')
    result = predict_tiles(Oracle(), str(slide), tmp_path, TileOptions(100, 40), kinds=kinds)
    image = draw_image()
    assert result.preview.panoptic.shape == (80, 110)
    ids = tifffile.imread(tmp_path / 'slide_panoptic.tif')[::3, ::3]
    divisor = result.preview.spec.label_divisor
    shown = result.preview.panoptic
    for segment, described in zip(result.segments, result.preview.segments, strict=True):
        np.testing.assert_array_equal(shown == described.label, ids == segment.label)
        assert described.label // divisor == segment.class_id
    expected = image[:240, :330].reshape(80, 3, 110, 3, 3).mean(axis=(1, 3))
    assert np.abs(result.preview.image - expected).max() <= 0.5
    overlay = np.asarray(Image.open(tmp_path / 'slide_overlay.png'))
    assert overlay.shape[0] % 80 == 0
    assert len((tmp_path / 'slide.csv').read_text().splitlines()) == 1 + len(result.segments)
    with pytest.raises(ValueError, match='tiles have no center to draw'):
        predict_tiles(Oracle(), str(slide), tmp_path, kinds=('center',))


def test_other_files_and_arrays_are_tiled_too(tmp_path):
    image = draw_image()
    Image.fromarray(image).save(tmp_path / 'a.png')
    expected = predict_tiles(Oracle(), image, tmp_path / 'array', TileOptions(100, 40))
    found = predict_tiles(Oracle(), tmp_path / 'a.png', tmp_path / 'png', TileOptions(100, 40))
    assert found.segments == expected.segments
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / 'png' / 'a_panoptic.tif'),
        tifffile.imread(tmp_path / 'array' / 'image_panoptic.tif'),
    )


def test_files_that_fail_leave_nothing_and_do_not_stop_others(slide, tmp_path):
    data = slide.read_bytes()
    (tmp_path / 'cut.tif').write_bytes(data[: len(data) // 2])
    failures = predict_files(
        Oracle(),
        [str(tmp_path / 'cut.tif'), str(slide)],
        tmp_path / 'out',
        tiles=TileOptions(100, 40),
    )
    assert len(failures) == 1 and 'cut.tif' in failures[0]
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == ['slide.json', 'slide_overlay.png', 'slide_panoptic.tif']


def test_a_disk_that_is_too_small_is_told_before_the_work(slide, tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(label_store.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(OSError, match='the labels of 240x330 pixels need .* free some space'):
        predict_tiles(Oracle(), str(slide), tmp_path / 'out', TileOptions(100, 40))


@pytest.fixture(scope='module')
def network():
    """A semantic network of random weights, which averages features over the whole image."""
    settings = {key.replace('.', '__'): value for key, value in BARE_NETWORK.items()}
    experiment = tiny.make_experiment(tiny.ROOT, **settings, model__has_instances=False)
    spec = DatasetSpec(
        'scenes',
        tuple(
            Category(c['id'], c['name'], bool(c['isthing']), tuple(c['color'])) for c in CATEGORIES
        ),
        0,
        255,
        1000,
    )
    system = experiment.make_system(spec.label_format)
    with compiling_fast():
        variables = system.init(jax.random.key(1))
        # Random logits have one class everywhere without a bias that evens them out.
        mesh = make_mesh(devices=tiny.one_device())
        yield Predictor(experiment, spec, variables, checkpoint='', mesh=mesh)


@pytest.mark.slow
def test_tiles_see_the_context_of_the_whole_image(network, tmp_path):
    image = render_scene(0, 'val', 1, height_px=150, width_px=220).image
    whole = network(image)
    assert len(whole.segments) > 1

    def predict(has_image_context):
        options = TileOptions(97, 40, has_image_context)
        result = predict_tiles(network, image, tmp_path, options, kinds=('ids',))
        classes = np.array([255, *(s.class_id for s in result.segments)])
        return classes[tifffile.imread(result.map_path)], result

    classes, result = predict(True)
    np.testing.assert_array_equal(classes, whole.panoptic // 1000)
    assert [s.class_id for s in result.segments] == [s.class_id for s in whole.segments]
    for one, other in zip(result.segments, whole.segments, strict=True):
        assert (one.area_px, one.box) == (other.area_px, other.box)
        assert one.centroid == pytest.approx(other.centroid)
    alone, _ = predict(False)
    assert (alone != classes).any()


@pytest.mark.slow
@pytest.mark.parametrize('size', [(1, 1), (20, 300)])
def test_small_images_are_one_tile(network, tmp_path, size):
    image = render_scene(0, 'val', 1, height_px=150, width_px=300).image[: size[0], : size[1]]
    result = network.predict_tiles(image, str(tmp_path), tile_px=320, overlap_px=32)
    assert result.size == size
    whole = network(image)
    assert [s.area_px for s in result.segments] == [s.area_px for s in whole.segments]
