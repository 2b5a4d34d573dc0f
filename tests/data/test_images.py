"""Decoding of images and ids from untrusted bytes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import images

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
IDS = np.array([[0, 255, 256], [65535, 65536, 2**24 - 1]], np.int32)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('image_format', ['PNG', 'BMP', 'WEBP'])
def test_lossless_formats_are_exact(image_format):
    options = {'lossless': True} if image_format == 'WEBP' else {}
    data = encode(Image.fromarray(RGB), image_format, **options)
    decoded = images.decode_image(data, name='x')
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


@pytest.mark.parametrize('mode', ['L', 'LA', '1', 'P', 'RGBA'])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(RGB).convert(mode)
    expected = np.asarray(image.convert('RGB'))
    np.testing.assert_array_equal(images.decode_image(encode(image, 'PNG'), name='x'), expected)


def test_alpha_is_dropped_not_blended():
    rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    decoded = images.decode_image(encode(Image.fromarray(rgba), 'PNG'), name='x')
    np.testing.assert_array_equal(decoded, RGB)


def test_cmyk_jpeg_becomes_rgb():
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    data = encode(Image.fromarray(flat).convert('CMYK'), 'JPEG', quality=98)
    decoded = images.decode_image(data, name='x')
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - flat).max() < 8


def test_sixteen_bit_grey_keeps_the_upper_byte():
    grey = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    decoded = images.decode_image(encode(Image.fromarray(grey), 'PNG'), name='x')
    np.testing.assert_array_equal(decoded[..., 1], [[0, 0, 1], [128, 255, 255]])
    assert decoded.shape == (2, 3, 3)


def test_exif_orientation_is_applied_only_on_request():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encode(Image.fromarray(RGB), 'PNG', exif=exif)
    np.testing.assert_array_equal(images.decode_image(data, name='x'), RGB)
    turned = images.decode_image(data, name='x', is_exif_applied=True)
    np.testing.assert_array_equal(turned, np.rot90(RGB, k=-1))


def test_damaged_exif_data_are_named():
    data = encode(Image.fromarray(RGB), 'PNG')
    chunk = b'eXIf' + b'no exif data at all'
    chunk = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    # The chunk follows the signature and the header.
    data = data[:33] + chunk + data[33:]
    np.testing.assert_array_equal(images.decode_image(data, name='x'), RGB)
    with pytest.raises(ValueError, match=r'photo\.png: damaged'):
        images.decode_image(data, name='photo.png', is_exif_applied=True)


@pytest.mark.parametrize('image_format', ['JPEG', 'PNG'])
def test_truncated_file_is_named(image_format):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), image_format)
    with pytest.raises(ValueError, match=r'photo\.x: damaged or truncated'):
        images.decode_image(data[: len(data) // 2], name='photo.x')


@pytest.mark.parametrize('data', [b'', b'not an image', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r'^a\.jpg: '):
        images.decode_image(data, name='a.jpg')


@pytest.mark.parametrize('image_format', ['GIF', 'TIFF'])
def test_formats_outside_the_list_are_refused(image_format):
    with pytest.raises(ValueError, match='not a readable JPEG/PNG/BMP/WEBP image'):
        images.decode_image(encode(Image.fromarray(RGB), image_format), name='x')


@pytest.mark.parametrize('side', [9000, 100_000])
def test_bombs_are_refused_by_their_header(side):
    def make_chunk(kind, body):
        checksum = struct.pack('>I', zlib.crc32(kind + body))
        return struct.pack('>I', len(body)) + kind + body + checksum

    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    # There are no pixel data: the error is not 'truncated', so only the header was read.
    data = b'\x89PNG\r\n\x1a\n' + make_chunk(b'IHDR', header) + make_chunk(b'IDAT', b'')
    for decode in (images.decode_image, images.decode_ids):
        with pytest.raises(ValueError, match=r'bomb\.png.*limit'):
            decode(data, name='bomb.png')
    with pytest.raises(ValueError, match='5x7 pixels exceed the limit of 34'):
        images.decode_image(encode(Image.fromarray(RGB), 'PNG'), name='x', max_pixels=34)
    assert images.decode_image(encode(Image.fromarray(RGB), 'PNG'), name='x', max_pixels=35).any()


def test_ids_round_trip_over_the_whole_range():
    data = images.encode_ids(IDS)
    rgb = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    np.testing.assert_array_equal(rgb @ [1, 256, 65536], IDS)
    decoded = images.decode_ids(data, name='x')
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, IDS)
    narrow = images.decode_ids(images.encode_ids(IDS.astype(np.uint8)), name='x')
    np.testing.assert_array_equal(narrow, IDS % 256)


def test_ids_with_alpha_are_read():
    data = encode(Image.open(io.BytesIO(images.encode_ids(IDS))).convert('RGBA'), 'PNG')
    np.testing.assert_array_equal(images.decode_ids(data, name='x'), IDS)


@pytest.mark.parametrize('mode', ['L', 'P', '1'])
def test_ids_of_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match=rf"a\.png: ids must be an 8-bit RGB PNG.*'{mode}'"):
        images.decode_ids(encode(Image.fromarray(RGB).convert(mode), 'PNG'), name='a.png')


def test_ids_in_a_lossy_format_are_refused():
    with pytest.raises(ValueError, match=r'a\.jpg: not a readable PNG'):
        images.decode_ids(encode(Image.fromarray(RGB), 'JPEG'), name='a.jpg')


@pytest.mark.parametrize(
    'ids, message',
    [
        (IDS + 1, r'1 \.\. 16777216'),
        (IDS - 1, r'-1 \.\. '),
        (IDS[0], 'must be a non-empty integer'),
        (IDS.astype(np.float32), 'float32'),
        (IDS[:0], 'non-empty'),
    ],
)
def test_encode_ids_refuses(ids, message):
    with pytest.raises(ValueError, match=message):
        images.encode_ids(ids)


def test_encode_image_is_lossless():
    np.testing.assert_array_equal(images.decode_image(images.encode_image(RGB), name='x'), RGB)
