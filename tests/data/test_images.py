"""Decoding of images and ids from untrusted bytes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pdl_jax.data import images
from pdl_jax.data.pixel_format import PixelFormat

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
IDS = np.array([[0, 255, 256], [65535, 65536, 2**24 - 1]], np.int32)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def make_chunk(kind, body):
    checksum = struct.pack('>I', zlib.crc32(kind + body))
    return struct.pack('>I', len(body)) + kind + body + checksum


def encode_png16(values: np.ndarray, color_type: int, is_filtered: bool) -> bytes:
    """Encodes u16[H, W, C] as PNG, which Pillow cannot for colours."""
    height, width, channels = values.shape
    rows = values.astype('>u2').view(np.uint8).reshape(height, width, 2 * channels)
    if is_filtered:
        # The filter 'Sub': differences to the pixel before, byte by byte.
        rows = np.diff(rows, axis=1, prepend=np.zeros((height, 1, 2 * channels), np.uint8))
    lines = b''.join(bytes([is_filtered]) + row.tobytes() for row in rows)
    header = struct.pack('>IIBBBBB', width, height, 16, color_type, 0, 0, 0)
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(lines)), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(make_chunk(*chunk) for chunk in chunks)


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


def test_exif_orientation_is_applied_only_on_request():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encode(Image.fromarray(RGB), 'PNG', exif=exif)
    np.testing.assert_array_equal(images.decode_image(data, name='x'), RGB)
    turned = images.decode_image(data, name='x', is_exif_applied=True)
    np.testing.assert_array_equal(turned, np.rot90(RGB, k=-1))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_orientation_turns_as_viewers_do(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(RGB), 'PNG', exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    turned = images.decode_image(data, name='x', is_exif_applied=True)
    np.testing.assert_array_equal(turned, expected)
    header = images.read_header(data, name='x')
    assert (header.size, header.upright_size) == ((5, 7), expected.shape[:2])


def test_damaged_exif_data_leave_the_picture_as_it_is_stored():
    data = encode(Image.fromarray(RGB), 'PNG')
    chunk = make_chunk(b'eXIf', b'no exif data at all')
    # The chunk follows the signature and the header.
    data = data[:33] + chunk + data[33:]
    for is_exif_applied in (False, True):
        decoded = images.decode_image(data, name='x', is_exif_applied=is_exif_applied)
        np.testing.assert_array_equal(decoded, RGB)


@pytest.mark.parametrize('color_type, num_channels', [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize('is_filtered', [False, True])
def test_png_of_16_bits_keeps_all_of_them(color_type, num_channels, is_filtered):
    # Smooth, so that no byte of the samples can be lost without a trace.
    values = np.arange(5 * 7 * num_channels, dtype=np.uint16).reshape(5, 7, num_channels) * 397
    data = encode_png16(values, color_type, is_filtered)
    header = images.read_header(data, name='x')
    assert (header.num_channels, header.is_deep) == (num_channels, True)
    decoded = images.decode_values(data, name='x', num_channels=None)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, values)


def test_twelve_bits_in_a_file_of_16_keep_their_contrast():
    # Shifting the values by 8 bits would leave 16 grey levels.
    values = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    decoded = images.decode_image(encode(Image.fromarray(values), 'PNG'), name='x')
    assert decoded.shape == (64, 64, 3) and len(np.unique(decoded)) > 200
    assert (decoded.min(), decoded.max()) == (0, 255)
    given = PixelFormat(1, ((0.0, 4095.0),))
    decoded = images.decode_image(encode(Image.fromarray(values), 'PNG'), name='x', pixels=given)
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / 4095 * 255))


@pytest.mark.parametrize(
    'mode, num_channels, expected',
    [
        ('L', 1, 'L'),
        ('1', 1, 'L'),
        ('LA', 1, 'L'),
        ('LA', 2, 'LA'),
        ('RGBA', 4, 'RGBA'),
        ('RGBA', 3, 'RGB'),
    ],
)
def test_channels_that_a_file_has_are_kept(mode, num_channels, expected):
    image = Image.fromarray(RGB).convert(mode)
    if mode == 'RGBA':
        image.putalpha(Image.fromarray(RGB[..., 0]))
    decoded = images.decode_image(encode(image, 'PNG'), name='x', pixels=PixelFormat(num_channels))
    wanted = np.asarray(image.convert(expected)).reshape(5, 7, num_channels)
    np.testing.assert_array_equal(decoded, wanted)


def test_grey_that_was_saved_as_rgb_is_one_channel():
    grey = Image.fromarray(RGB).convert('L')
    decoded = images.decode_image(
        encode(grey.convert('RGB'), 'PNG'), name='x', pixels=PixelFormat(1)
    )
    np.testing.assert_array_equal(decoded[..., 0], np.asarray(grey))


@pytest.mark.parametrize('mode, num_channels', [('RGB', 1), ('RGB', 4), ('L', 2), ('RGBA', 5)])
def test_other_numbers_of_channels_are_refused(mode, num_channels):
    data = encode(Image.fromarray(RGB).convert(mode), 'PNG')
    message = rf'a\.png has {len(mode)} channels.*not the {num_channels}.*--num_channels'
    with pytest.raises(ValueError, match=message):
        images.decode_image(data, name='a.png', pixels=PixelFormat(num_channels))


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


@pytest.mark.parametrize('image_format', ['GIF', 'PPM'])
def test_formats_outside_the_list_are_refused(image_format):
    with pytest.raises(ValueError, match='not a readable JPEG/PNG/BMP/WEBP/TIFF image'):
        images.decode_image(encode(Image.fromarray(RGB), image_format), name='x')


def test_a_strip_of_millions_of_pixels_is_refused_by_its_header():
    header = struct.pack('>IIBBBBB', 60_000_000, 1, 8, 0, 0, 0, 0)
    data = b'\x89PNG\r\n\x1a\n' + make_chunk(b'IHDR', header) + make_chunk(b'IDAT', b'')
    with pytest.raises(ValueError, match=r'strip\.png: a side of 60000000 pixels'):
        images.decode_image(data, name='strip.png')


@pytest.mark.parametrize('side', [9000, 100_000])
def test_bombs_are_refused_by_their_header(side):
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
