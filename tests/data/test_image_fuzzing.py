"""Damaged images of every format: an error that names the file, in bounded time and memory."""

import io
import random
import resource
import struct
import time
import zlib

import numpy as np
import tifffile
from PIL import Image

from pdl_jax.data import images
from pdl_jax.data.pixel_format import PixelFormat

NUM_MUTATIONS = 400
INTEGERS = (0, 1, 2**16 - 1, 2**24, 60_000_000, 2**31 - 1, 2**32 - 1)


def make_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    deep = rng.integers(0, 65536, (30, 40), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6

    def save(image: Image.Image, kind: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        return buffer.getvalue()

    def write(values: np.ndarray, **options) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **options)
        return buffer.getvalue()

    return [
        save(photo, 'PNG', exif=exif),
        save(photo.convert('P'), 'PNG'),
        save(Image.fromarray(deep), 'PNG'),
        save(photo, 'JPEG', exif=exif),
        save(photo, 'JPEG', progressive=True),
        save(photo.convert('CMYK'), 'JPEG', restart_marker_blocks=2),
        save(photo, 'WEBP', exif=exif),
        save(photo.convert('RGBA'), 'WEBP', lossless=True),
        save(photo, 'BMP'),
        save(photo.convert('P'), 'BMP'),
        write(np.asarray(photo)),
        write(deep, compression='zlib', predictor=2),
        write(deep, tile=(16, 16), bigtiff=True),
        write(np.stack([deep] * 5), photometric='minisblack'),
        save(photo, 'TIFF', compression='tiff_lzw'),
        save(photo.convert('P'), 'TIFF', compression='packbits'),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes, removes or inserts bytes, or writes an integer into the first part of a file."""
    changed = bytearray(data)
    kind = rng.randrange(5)
    position = rng.randrange(len(changed))
    if kind == 0:
        for _ in range(rng.choice((1, 2, 20))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif kind == 1:
        del changed[position:]
    elif kind == 2:
        del changed[position : position + rng.randrange(64)]
    elif kind == 3:
        changed[position:position] = rng.randbytes(rng.randrange(64))
    else:
        position = rng.randrange(min(len(changed), 400))
        order = rng.choice(('little', 'big'))
        changed[position : position + 4] = rng.choice(INTEGERS).to_bytes(4, order)
    return mend_checksums(bytes(changed)) if rng.random() < 0.7 else bytes(changed)


def mend_checksums(data: bytes) -> bytes:
    """Makes the checksums of a PNG right, so that its content is looked at."""
    if data[:4] != b'\x89PNG':
        return data
    mended, position = data[:8], 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], 'big')
        if end + 4 > len(data):
            break
        body = data[position + 4 : end]
        mended += data[position : position + 4] + body + struct.pack('>I', zlib.crc32(body))
        position = end + 4
    return mended + data[position:]


def test_damaged_images_are_refused_by_name():
    seeds = make_seeds()
    start = time.monotonic()
    num_refused = 0
    for seed in range(NUM_MUTATIONS):
        rng = random.Random(seed)
        data = mutate(rng.choice(seeds), rng)
        pixels = PixelFormat(rng.choice((1, 3, 3, 4, 5)))
        try:
            images.decode_image(data, name='photo', pixels=pixels, is_exif_applied=True)
        except ValueError as error:
            num_refused += 1
            assert str(error).startswith('photo') and '\n' not in str(error), (seed, error)
    assert NUM_MUTATIONS / 2 < num_refused < NUM_MUTATIONS
    assert time.monotonic() - start < 60
    # Kilobytes on Linux; whatever ran before in this process counts too.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20
