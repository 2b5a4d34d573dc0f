"""Images whose data end early: refused, while complete files of every kind are not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import images
from pdl_jax.data.truncation import find_jpeg_scans

# Smooth with noise, like a photograph.
PHOTO = np.clip(
    np.add.outer(np.arange(96), np.arange(120))[..., None]
    + np.random.default_rng(0).normal(0, 20, (96, 120, 3)),
    0,
    255,
).astype(np.uint8)
JPEG_KINDS = {
    'baseline': {},
    'full chroma': {'subsampling': 0},
    'progressive': {'progressive': True},
    'restart markers': {'restart_marker_blocks': 3},
    'progressive with restart markers': {'progressive': True, 'restart_marker_rows': 1},
    'grey': {'mode': 'L'},
    'CMYK': {'mode': 'CMYK'},
}


def encode_jpeg(array: np.ndarray, *, mode: str = 'RGB', **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format='JPEG', quality=85, **options)
    return buffer.getvalue()


def encode_png(rows: bytes, width: int, height: int, color_type: int, interlace: int = 0) -> bytes:
    """Makes a PNG whose stream holds `rows`, complete or not."""
    header = struct.pack('>IIBBBBB', width, height, 8, color_type, 0, 0, interlace)
    chunks = b''
    for kind, body in ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')):
        checksum = struct.pack('>I', zlib.crc32(kind + body))
        chunks += struct.pack('>I', len(body)) + kind + body + checksum
    return b'\x89PNG\r\n\x1a\n' + chunks


@pytest.mark.parametrize('kind', JPEG_KINDS)
@pytest.mark.parametrize('share', [0.35, 0.6, 0.9])
def test_jpeg_that_was_cut_and_closed_is_refused(kind, share):
    data = encode_jpeg(PHOTO, **JPEG_KINDS[kind])
    images.decode_image(data, name='whole.jpg')
    start = data.index(b'\xff\xda')
    cut = data[: start + int((len(data) - start) * share)].rstrip(b'\xff') + b'\xff\xd9'
    Image.open(io.BytesIO(cut)).load()  # Pillow fills it up without a word.
    with pytest.raises(ValueError, match=r'cut\.jpg: damaged or truncated.*(missing|channel)'):
        images.decode_image(cut, name='cut.jpg')


@pytest.mark.parametrize('kind', JPEG_KINDS)
@pytest.mark.parametrize('level', [0, 127, 128, 255])
def test_a_flat_jpeg_is_complete(kind, level):
    # Mid-grey is what missing data look like.
    data = encode_jpeg(np.full((50, 70, 3), level, np.uint8), **JPEG_KINDS[kind])
    assert images.decode_image(data, name='x').shape == (50, 70, 3)


def test_a_jpeg_with_a_thumbnail_and_a_trailer_is_complete():
    photo = encode_jpeg(PHOTO)
    comment = b'\xff\xfe' + struct.pack('>H', 2 + len(photo)) + photo
    data = photo[:2] + comment + photo[2:] + b'trailer of a phone' + encode_jpeg(PHOTO)[:500]
    np.testing.assert_array_equal(
        images.decode_image(data, name='x'), images.decode_image(photo, name='x')
    )
    assert find_jpeg_scans(data).num_scans == 1


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    data = encode_jpeg(PHOTO, progressive=True)
    scans = find_jpeg_scans(data)
    # The last scan again and again, each of which visits all blocks.
    last = data[data.rindex(b'\xff\xda') : scans.end]
    many = data[: scans.end] + last * 400 + data[scans.end :]
    monkeypatch.setattr('pdl_jax.data.truncation._MAX_SCANNED_PIXELS', 400 * PHOTO[..., 0].size)
    with pytest.raises(ValueError, match='scans: save it again'):
        images.decode_image(many, name='x')
    images.decode_image(data, name='x')


@pytest.mark.parametrize('num_rows', [10, 47])
def test_png_whose_stream_ends_early_is_refused(num_rows):
    data = encode_png((b'\0' + bytes(range(60))) * num_rows, 20, 48, 2)
    Image.open(io.BytesIO(data)).load()  # Pillow fills it up with zeros.
    for decode in (images.decode_image, images.decode_ids):
        message = rf'x\.png: damaged or truncated.*data hold {61 * num_rows} of 2928 bytes'
        with pytest.raises(ValueError, match=message):
            decode(data, name='x.png')
    index_map = encode_png((b'\0' + bytes(20)) * num_rows, 20, 48, 0)
    with pytest.raises(ValueError, match=r'm\.png: damaged or truncated.*data hold'):
        images.decode_index_map(index_map, name='m.png')


def test_interlaced_png_that_ends_between_its_passes_is_refused():
    # The passes of 20 x 48 pixels have 6 x 3, 6 x 3, 6 x 5, 12 x 5, 12 x 10, 24 x 10, 24 x 20.
    whole = 48 * 60 + 6 + 6 + 6 + 12 + 12 + 24 + 24
    images.decode_image(encode_png(bytes(whole), 20, 48, 2, 1), name='x')
    num_filled = 0
    for size in range(50, whole, 60):
        data = encode_png(bytes(size), 20, 48, 2, 1)
        try:
            Image.open(io.BytesIO(data)).load()
            num_filled += 1
        except OSError:
            pass
        with pytest.raises(ValueError, match=r'x\.png: damaged or truncated'):
            images.decode_image(data, name='x.png')
    assert num_filled > 0


def test_pngs_that_end_in_zeros_are_complete():
    for color_type, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        data = encode_png((b'\0' + bytes(20 * channels)) * 48, 20, 48, color_type)
        assert not images.decode_image(data, name='x').any()
    for mode in ('1', 'L', 'P', 'I;16', 'RGB'):
        buffer = io.BytesIO()
        Image.new(mode, (13, 9)).save(buffer, format='PNG')
        images.decode_image(buffer.getvalue(), name='x')


def test_all_published_images_at_hand_are_complete(shared_dir):
    found = 0
    for path in sorted((shared_dir / 'data').rglob('*'))[::7]:
        if path.suffix.lower() in ('.jpg', '.png'):
            images.decode_values(path.read_bytes(), name=path.name, num_channels=None)
            found += 1
    assert found > 50
