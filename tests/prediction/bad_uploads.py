"""Files that strangers upload: what is no image, what is too large, what is an unusual image."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (48, 64)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    """Encodes an image with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_photo(size=SIZE, seed=0) -> np.ndarray:
    """Draws u8[H, W, 3] with a few colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1]))


def make_black_png(width: int, height: int) -> bytes:
    """Makes a PNG of one bit per pixel that is small for its size."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

    row, packer = bytes(1 + (width + 7) // 8), zlib.compressobj(1)
    packed = b''.join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    parts = ((b'IHDR', header), (b'IDAT', packed), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def make_refused() -> dict[str, tuple[bytes, str]]:
    """Makes files that are refused, with a part of the answer."""
    frames = [Image.fromarray(make_photo(seed=i)) for i in range(3)]
    jpeg = encode(Image.fromarray(make_photo((240, 320))), 'JPEG')
    return {
        'notes.txt': (b'not an image at all', 'notes.txt: not a readable JPEG/PNG/BMP/WEBP/TIFF'),
        'page.png': (b'<script>alert(1)</script>', 'page.png: not a readable'),
        'empty.jpg': (b'', 'empty.jpg: not a readable'),
        'bomb.png': (
            make_black_png(30_000, 30_000),
            '900000000 pixels exceed the limit of 1000000',
        ),
        'strip.png': (make_black_png(60_000_000, 1), '1x60000000 pixels exceed the limit of'),
        'truncated.jpg': (jpeg[: len(jpeg) * 3 // 4], 'truncated.jpg: damaged or truncated image'),
        'animated.gif': (
            encode(frames[0], 'GIF', save_all=True, append_images=frames[1:]),
            'animated.gif: not a readable JPEG/PNG/BMP/WEBP/TIFF image',
        ),
    }


def make_unusual() -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Makes images that are read, with the (height, width) of their prediction."""
    photo = make_photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = photo[..., 0].astype(np.uint16) * 257
    opacity = np.full((*SIZE, 1), 90, np.uint8)
    return {
        'cmyk.jpg': (encode(Image.fromarray(photo).convert('CMYK'), 'JPEG'), SIZE),
        'deep.png': (encode(Image.fromarray(deep), 'PNG'), SIZE),
        'turned.jpg': (encode(Image.fromarray(photo), 'JPEG', exif=exif), SIZE[::-1]),
        'clear.png': (encode(Image.fromarray(np.dstack([photo, opacity])), 'PNG'), SIZE),
    }
