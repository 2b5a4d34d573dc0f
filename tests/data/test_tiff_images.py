"""TIFF files: types, layouts, compressions, and what is refused."""

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from pdl_jax.data import images, tiff_images
from pdl_jax.data.pixel_format import PixelFormat

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (21, 34, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (21, 34), dtype=np.uint16)


def write_tiff(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def save_by_pillow(image: Image.Image, compression: str | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format='TIFF', compression=compression)
    return buffer.getvalue()


def decode(data: bytes, num_channels: int | None = None) -> np.ndarray:
    return images.decode_values(data, name='x.tif', num_channels=num_channels)


@pytest.mark.parametrize('dtype', ['u1', 'u2', 'u4', 'i1', 'i2', 'i4', 'f2', 'f4', 'f8'])
@pytest.mark.parametrize('byte_order', ['<', '>'])
def test_every_type_and_layout_is_read_exactly(dtype, byte_order):
    layouts = (
        ((21, 34), {}),
        ((21, 34, 5), {'photometric': 'minisblack', 'planarconfig': 'contig'}),
        ((5, 21, 34), {'photometric': 'minisblack', 'planarconfig': 'separate'}),
        # Pages, as ImageJ and most programs write channels.
        ((4, 21, 34), {'photometric': 'minisblack'}),
    )
    storages = ({}, {'rowsperstrip': 5}, {'tile': (16, 32)}, {'compression': 'zlib'})
    predictors = ({}, {'compression': 'zlib', 'predictor': 2}) if 'f' not in dtype else ({},)
    for (shape, options), storage, predictor in itertools.product(layouts, storages, predictors):
        values = (RNG.normal(0, 50, shape)).astype(dtype)
        data = write_tiff(values, byteorder=byte_order, **options, **{**storage, **predictor})
        expected = values[..., None] if values.ndim == 2 else values
        if len(shape) == 3 and shape[0] < 21:
            expected = np.moveaxis(values, 0, -1)
        decoded = decode(data)
        assert decoded.dtype.isnative
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize('compression', [None, 'tiff_lzw', 'packbits', 'tiff_adobe_deflate'])
@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16', 'F'])
def test_files_of_other_programs_are_read(compression, mode):
    image = Image.fromarray(GREY16) if mode == 'I;16' else Image.fromarray(RGB).convert(mode)
    expected = np.asarray(image.convert('RGB') if mode == 'P' else image)
    if mode == '1':
        expected = expected * np.uint8(255)
    data = save_by_pillow(image, compression)
    np.testing.assert_array_equal(decode(data), expected.reshape(21, 34, -1))
    header = images.read_header(data, name='x')
    assert header.is_tiff and header.is_deep == (mode in ('I;16', 'F'))


def test_plain_rgb_is_what_a_png_of_it_is():
    data = write_tiff(RGB, photometric='rgb')
    np.testing.assert_array_equal(images.decode_image(data, name='x'), RGB)
    grey = images.decode_image(write_tiff(RGB[..., 0]), name='x')
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))


def test_white_may_be_zero():
    data = write_tiff(RGB[..., 0], photometric='miniswhite')
    np.testing.assert_array_equal(decode(data)[..., 0], 255 - RGB[..., 0])


def test_opacity_is_dropped_for_rgb_and_other_fourth_channels_are_not():
    rgba = np.dstack([RGB, RGB[..., 0]])
    data = write_tiff(rgba, photometric='rgb', extrasamples=['unassalpha'])
    np.testing.assert_array_equal(images.decode_image(data, name='x'), RGB)
    four = images.decode_image(data, name='x', pixels=PixelFormat(4))
    np.testing.assert_array_equal(four, rgba)
    infrared = write_tiff(rgba, photometric='rgb', extrasamples=['unspecified'])
    with pytest.raises(ValueError, match=r'x\.tif has 4 channels, not the 3'):
        images.decode_image(infrared, name='x.tif')


def test_orientation_is_applied_on_request():
    turned = write_tiff(RGB, photometric='rgb', extratags=[(274, 'H', 1, 6, True)])
    np.testing.assert_array_equal(images.decode_image(turned, name='x'), RGB)
    upright = images.decode_image(turned, name='x', is_exif_applied=True)
    np.testing.assert_array_equal(upright, np.rot90(RGB, k=-1))


def test_the_levels_of_a_pyramid_are_left_out():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(GREY16)
        writer.write(GREY16[::2, ::2], subfiletype=1)
        writer.write(GREY16[::4, ::4])
    np.testing.assert_array_equal(decode(buffer.getvalue())[..., 0], GREY16)


def test_stacks_are_no_channels():
    for imagej_axes in ('ZYX', 'TYX'):
        stack = write_tiff(np.stack([GREY16] * 3), imagej=True, metadata={'axes': imagej_axes})
        with pytest.raises(ValueError, match=r'x\.tif has 3 pages of 21x34 pixels: save each'):
            decode(stack, 3)
    channels = write_tiff(np.stack([GREY16] * 3), imagej=True, metadata={'axes': 'CYX'})
    assert decode(channels, 3).shape == (21, 34, 3)
    many = write_tiff(np.zeros((80, 8, 8), np.uint8), photometric='minisblack')
    with pytest.raises(ValueError, match='more than 64 pages'):
        decode(many)


def test_compressions_of_imagecodecs_are_named(monkeypatch):
    data = bytearray(write_tiff(GREY16, compression='zlib'))
    tag = struct.pack('<HHI', 259, 3, 1)
    position = data.index(tag) + len(tag)
    data[position : position + 2] = struct.pack('<H', 34712)
    monkeypatch.setitem(__import__('sys').modules, 'imagecodecs', None)
    with pytest.raises(ValueError, match=r'x\.tif is .*JPEG2000.*pip install imagecodecs'):
        decode(bytes(data))


def test_a_small_file_cannot_fill_the_memory():
    # 64 MiB of zeros in one strip of 64 kB, which the header says to be of 21 x 34 pixels.
    data = write_tiff(np.zeros((8192, 8192), np.uint8), compression='zlib', rowsperstrip=8192)
    for tag, value in ((256, 34), (257, 21), (278, 21)):
        for kind in ('H', 'I'):
            size = 3 if kind == 'H' else 4
            field = struct.pack('<HHI', tag, size, 1) + struct.pack(f'<{kind}', 8192)
            data = data.replace(field, field[:8] + struct.pack(f'<{kind}', value))
    assert decode(data).shape == (21, 34, 1)
    huge = write_tiff(np.zeros((1, 1), np.uint8))
    field = struct.pack('<HHI', 256, 4, 1)
    position = huge.index(field) if field in huge else huge.index(struct.pack('<HHI', 256, 3, 1))
    huge = huge[: position + 2] + struct.pack('<HII', 4, 1, 2**31) + huge[position + 12 :]
    with pytest.raises(ValueError, match=r'x\.tif: 1x2147483648 pixels exceed the limit'):
        decode(huge)


@pytest.mark.parametrize('share', [0.3, 0.6, 0.9])
def test_truncated_files_are_named(share):
    for options in ({}, {'compression': 'zlib'}, {'tile': (16, 16)}):
        data = write_tiff(GREY16, **options)
        with pytest.raises(ValueError, match=r'^x\.tif'):
            decode(data[: int(len(data) * share)])


def test_pages_that_are_linked_in_a_circle_end():
    data = bytearray(write_tiff(np.zeros((3, 8, 8), np.uint8), photometric='minisblack'))
    first = struct.unpack_from('<I', data, 4)[0]
    count = struct.unpack_from('<H', data, first)[0]
    following = first + 2 + 12 * count
    second = struct.unpack_from('<I', data, following)[0]
    count = struct.unpack_from('<H', data, second)[0]
    struct.pack_into('<I', data, second + 2 + 12 * count, first)
    with pytest.raises(ValueError, match=r'^x\.tif'):
        decode(bytes(data), 3)


def test_tiff_is_told_by_its_content():
    assert tiff_images.is_tiff(write_tiff(GREY16)) and tiff_images.is_tiff(
        write_tiff(GREY16, bigtiff=True, byteorder='>')
    )
    assert not tiff_images.is_tiff(b'\x89PNG') and not tiff_images.is_tiff(b'')
