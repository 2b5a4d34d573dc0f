"""Regions of TIFF files: layouts, compressions, orientation, ranges, and what is refused."""

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from pdl_jax.data import images
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.tiff_regions import TiffRegions
from pdl_jax.data.tiff_segments import SegmentCache
from pdl_jax.data.windows import Window

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (150, 200, 3), dtype=np.uint8)
WINDOWS = (Window(0, 0, 150, 200), Window(0, 0, 1, 1), Window(31, 40, 100, 129))


def write_tiff(values: np.ndarray, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{'photometric': 'rgb', **options})
    return buffer


def open_regions(file, num_channels=3, value_range=None) -> TiffRegions:
    return TiffRegions(file, name='x.tif', pixels=PixelFormat(num_channels, value_range))


@pytest.mark.parametrize('bigtiff', [False, True])
@pytest.mark.parametrize('planarconfig', ['contig', 'separate'])
def test_regions_are_parts_of_the_image(bigtiff, planarconfig):
    storages = ({}, {'rowsperstrip': 7}, {'tile': (32, 48)})
    compressions = ({}, {'compression': 'zlib'}, {'compression': 'zlib', 'predictor': 2})
    values = RGB if planarconfig == 'contig' else np.moveaxis(RGB, -1, 0)
    for storage, compression in itertools.product(storages, compressions):
        options = {'bigtiff': bigtiff, 'planarconfig': planarconfig, **storage, **compression}
        regions = open_regions(write_tiff(values, **options))
        assert regions.size == (150, 200)
        for window in WINDOWS:
            np.testing.assert_array_equal(regions.read(window), RGB[window.slices])


class CountingFile(io.BytesIO):
    """A file that counts the bytes that are read."""

    num_bytes = 0

    def read(self, size=-1):
        data = super().read(size)
        self.num_bytes += len(data)
        return data


@pytest.mark.parametrize('options', [{'tile': (32, 32)}, {'rowsperstrip': 4}, {}])
def test_only_what_a_region_touches_is_read(options):
    # The single strip of a plain file is read by rows.
    file = CountingFile(write_tiff(np.tile(RGB, (4, 1, 1)), **options).getvalue())
    regions = open_regions(file)
    file.num_bytes = 0
    regions.read(Window(300, 50, 320, 90))
    assert 20 * 40 * 3 <= file.num_bytes <= 28 * 200 * 3


@pytest.mark.parametrize('orientation', range(1, 9))
def test_regions_are_upright(orientation):
    file = write_tiff(RGB, extratags=[(274, 'H', 1, orientation, True)], tile=(32, 32))
    expected = images.decode_image(file.getvalue(), name='x', is_exif_applied=True)
    regions = open_regions(file)
    assert regions.size == expected.shape[:2]
    window = Window(3, 40, 90, 141)
    np.testing.assert_array_equal(regions.read(window), expected[window.slices])


def make_slide(photometric: str, values: np.ndarray) -> io.BytesIO:
    """A file of JPEG tiles without tables, as scanners of slides write them."""
    buffer = io.BytesIO()
    height, width = values.shape[:2]
    tiles = []
    for top, left in itertools.product(range(0, height, 64), range(0, width, 64)):
        tile = np.zeros((64, 64, 3), np.uint8)
        part = values[top : top + 64, left : left + 64]
        tile[: part.shape[0], : part.shape[1]] = part
        file = io.BytesIO()
        # Keeping RGB makes Pillow write the marker that we add ourselves.
        Image.fromarray(tile).save(
            file, 'JPEG', quality=95, subsampling=0, keep_rgb=photometric == 'rgb'
        )
        tiles.append(file.getvalue())
    # Writing JPEG tiles takes imagecodecs, unless they are called something else at first.
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(
            iter(tiles),
            shape=values.shape,
            dtype=np.uint8,
            tile=(64, 64),
            photometric='rgb',
            compression='zlib',
        )
    data = change_field(buffer.getvalue(), 259, 7)
    return io.BytesIO(change_field(data, 262, 6 if photometric == 'ycbcr' else 2))


def change_field(data: bytes, tag: int, value: int) -> bytes:
    """Sets a field of one number."""
    size = 3 if struct.pack('<HHI', tag, 3, 1) in data else 4
    position = data.index(struct.pack('<HHI', tag, size, 1))
    field = struct.pack('<HHI', tag, 4, 1) + struct.pack('<I', value)
    return data[:position] + field + data[position + len(field) :]


@pytest.mark.parametrize('photometric', ['rgb', 'ycbcr'])
def test_slides_of_jpeg_tiles_need_no_other_package(photometric, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'imagecodecs', None)
    smooth = np.asarray(Image.fromarray(RGB).resize((20, 15)).resize((200, 150)))
    file = make_slide(photometric, smooth)
    regions = open_regions(file)
    window = Window(20, 30, 140, 190)
    part = regions.read(window)
    assert np.abs(part.astype(int) - smooth[window.slices]).max() < 25
    np.testing.assert_array_equal(
        images.decode_image(file.getvalue(), name='x')[window.slices], part
    )


def test_the_first_level_of_a_pyramid_is_read():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=True) as writer:
        writer.write(RGB, photometric='rgb', tile=(64, 64), subifds=1)
        writer.write(RGB[::2, ::2], photometric='rgb', tile=(64, 64), subfiletype=1)
    regions = open_regions(buffer)
    np.testing.assert_array_equal(regions.read(WINDOWS[2]), RGB[WINDOWS[2].slices])


def test_one_range_scales_all_regions():
    values = np.linspace(0, 60000, 150 * 200).reshape(150, 200).astype(np.uint16)
    regions = open_regions(write_tiff(values, photometric='minisblack', tile=(32, 32)), 1)
    whole = regions.read(WINDOWS[0])
    for window in WINDOWS[1:]:
        np.testing.assert_array_equal(regions.read(window), whole[window.slices])
    assert whole.min() == 0 and whole.max() == 255
    given = open_regions(
        write_tiff(values, photometric='minisblack'), 1, value_range=((0.0, 2.0**16),)
    )
    assert given.read(WINDOWS[0]).max() == round(60000 / 2**16 * 255)


def test_pages_of_one_channel_are_channels():
    values = np.moveaxis(RGB, -1, 0)
    regions = open_regions(write_tiff(values, photometric='minisblack'))
    np.testing.assert_array_equal(regions.read(WINDOWS[2]), RGB[WINDOWS[2].slices])
    with pytest.raises(ValueError, match=r'x\.tif has 2 channels, not the 3'):
        open_regions(write_tiff(values[:2], photometric='minisblack')).read(WINDOWS[0])


def test_bombs_are_refused_before_pixels_are_decoded():
    data = write_tiff(RGB, tile=(64, 64)).getvalue()
    for width, message in ((2**31, 'exceed the limit'), (2**21, 'a side of 2097152 pixels')):
        with pytest.raises(ValueError, match=message):
            open_regions(io.BytesIO(change_field(data, 256, width)))
    # More tiles than the file has.
    regions = open_regions(io.BytesIO(change_field(data, 256, 2000)))
    with pytest.raises(ValueError, match=r'x\.tif: damaged .* it has 12 of 96 strips or tiles'):
        regions.read(WINDOWS[1])
    # One strip that decodes to more than a memory should hold.
    wide = write_tiff(np.zeros((2, 2, 3), np.uint8), compression='zlib').getvalue()
    for tag, value in ((256, 2**15), (257, 2**15), (278, 2**15)):
        wide = change_field(wide, tag, value)
    with pytest.raises(ValueError, match='save it in tiles'):
        open_regions(io.BytesIO(wide)).read(WINDOWS[1])


def test_jpeg_tiles_of_another_size_are_refused():
    data = make_slide('rgb', RGB).getvalue()
    small, large = b'\x00\x40\x00\x40\x03', b'\xff\x40\xff\x40\x03'
    assert small in data
    with pytest.raises(ValueError, match=r'^x\.tif: damaged'):
        open_regions(io.BytesIO(data.replace(small, large))).read(WINDOWS[0])


@pytest.mark.parametrize('share', [0.3, 0.6, 0.9])
def test_truncated_files_are_named(share):
    for options in ({}, {'compression': 'zlib'}, {'tile': (16, 16)}):
        data = write_tiff(RGB, **options).getvalue()
        with pytest.raises(ValueError, match=r'^x\.tif'):
            open_regions(io.BytesIO(data[: int(len(data) * share)])).read(WINDOWS[0])


def test_the_cache_keeps_what_was_used_last():
    cache = SegmentCache(max_bytes=250)
    decoded = []

    def get(key):
        return cache.get(key, lambda: decoded.append(key) or np.zeros(100, np.uint8))

    for key in 'abacab':
        get(key)
    assert ''.join(decoded) == 'abcb'
