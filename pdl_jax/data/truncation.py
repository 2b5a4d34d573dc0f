"""Finding images whose data end too early, which Pillow completes with zeros or grey silently.

A PNG is told by inflating its stream and counting the bytes. A JPEG is decoded once more with
random data before its end: a complete scan ignores them, and one that ended early reads them, which
changes pixels. Both cost as much as decoding, so that they run only if the image's last pixels have
the value that Pillow fills with.
"""

import dataclasses
import io
import math
import re
import zlib

import numpy as np
from PIL import Image

_PNG_SIGNATURE_BYTES = 8
_PIECE_BYTES = 2**16
# Start and step, in x and y, of the passes of an interlaced PNG.
_ADAM7 = (
    (0, 8, 0, 8),
    (4, 8, 0, 8),
    (0, 4, 4, 8),
    (2, 4, 0, 4),
    (0, 2, 2, 4),
    (1, 2, 0, 2),
    (0, 1, 1, 2),
)
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

# In entropy-coded data every FF is followed by 00 or belongs to a restart marker.
_MARKER = re.compile(rb'\xff[\x01-\xcf\xd8-\xfe]')
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Huffman-coded frames: baseline, extended and progressive. Data of arithmetic coding may leave out
# zeros at their end.
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
_FRAMES = range(0xC0, 0xD0)
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
# Each scan of a progressive JPEG visits all pixels: a small file with many scans would take hours.
_MAX_SCANNED_PIXELS = 2**31


def check_png(data: bytes, image: Image.Image) -> None:
    """Checks that a PNG has the data of all its pixels.

    Args:
      data: the bytes of the file.
      image: the file, loaded by Pillow.

    Raises:
      ValueError: it ends early.
    """
    width, height = image.size
    bits, color, _, _, is_interlaced = data[24:29]
    # Pillow fills with zeros, from the top down.
    if not is_interlaced and image.crop((0, height - 1, width, height)).tobytes().strip(b'\0'):
        return
    pixel_bits = bits * _PNG_CHANNELS.get(color, 1)
    passes = _ADAM7 if is_interlaced else ((0, 1, 0, 1),)
    expected = 0
    for x, x_step, y, y_step in passes:
        columns, rows = math.ceil((width - x) / x_step), math.ceil((height - y) / y_step)
        if columns > 0:
            expected += max(rows, 0) * (1 + math.ceil(columns * pixel_bits / 8))
    found = _count_inflated(data, expected)
    if found < expected:
        raise ValueError(f'its data hold {found} of {expected} bytes')


def _count_inflated(data: bytes, limit: int) -> int:
    """Returns the number of bytes that the IDAT chunks inflate to, at most `limit`."""
    inflate = zlib.decompressobj()
    position, count = _PNG_SIGNATURE_BYTES, 0
    while position + 8 <= len(data) and count < limit and not inflate.eof:
        size = int.from_bytes(data[position : position + 4], 'big')
        if data[position + 4 : position + 8] == b'IDAT':
            # In pieces: zlib copies what it has not consumed yet.
            for start in range(position + 8, min(position + 8 + size, len(data)), _PIECE_BYTES):
                piece = data[start : min(start + _PIECE_BYTES, position + 8 + size)]
                while piece and count < limit and not inflate.eof:
                    count += len(inflate.decompress(piece, 2**20))
                    piece = inflate.unconsumed_tail
        position += 12 + size
    return count


@dataclasses.dataclass
class JpegScans:
    """The scans of a JPEG file.

    Attributes:
      frame: code of the frame marker, 0 if there is none.
      unit_pixels: number of pixels of a coded unit (MCU).
      components: ids of the channels.
      scanned: those of them that have data.
      num_scans: number of scans.
      end: position behind the data of the last scan, 0 if there is none.
    """

    frame: int = 0
    unit_pixels: int = 64
    components: frozenset[int] = frozenset()
    scanned: frozenset[int] = frozenset()
    num_scans: int = 0
    end: int = 0


def find_jpeg_scans(data: bytes) -> JpegScans:
    """Walks through the markers of a JPEG file up to its end or to the first thing that is none."""
    scans = JpegScans()
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        code = data[position + 1]
        if code == 0xFF or code == 0x01 or 0xD0 <= code <= 0xD7:
            position += 1 if code == 0xFF else 2
            continue
        if code == _END_OF_IMAGE:
            break
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
        if code in _FRAMES and code not in _NO_FRAMES:
            samplings = data[position + 11 : stop : 3]
            widest = max((sampling >> 4 for sampling in samplings), default=1)
            highest = max((sampling & 15 for sampling in samplings), default=1)
            scans.frame = code
            scans.unit_pixels = 64 * max(widest, 1) * max(highest, 1)
            scans.components = frozenset(data[position + 10 : stop : 3])
        if code == _START_OF_SCAN:
            scans.num_scans += 1
            channels = data[position + 5 : max(stop - 3, position + 5) : 2]
            # In a progressive file the scans that start at frequency 0 hold the picture.
            if scans.frame not in _PROGRESSIVE or not any(data[stop - 3 : stop - 2]):
                scans.scanned |= frozenset(channels)
            marker = _MARKER.search(data, stop)
            stop = scans.end = marker.start() if marker else len(data)
        position = stop
    return scans


def check_jpeg_cost(data: bytes, num_pixels: int) -> JpegScans:
    """Checks, before its pixels are decoded, that a JPEG does not take much longer than others.

    Returns:
      The markers of the file.

    Raises:
      ValueError: it has too many scans.
    """
    scans = find_jpeg_scans(data)
    if scans.num_scans > 10 and scans.num_scans * num_pixels > _MAX_SCANNED_PIXELS:
        raise ValueError(f'it has {scans.num_scans} scans: save it again')
    return scans


def check_jpeg(data: bytes, image: Image.Image, scans: JpegScans) -> None:
    """Checks that a JPEG has the data of all its pixels.

    Args:
      data: the bytes of the file.
      image: the file, loaded by Pillow.
      scans: its markers.

    Raises:
      ValueError: it ends early.
    """
    if not scans.end or scans.frame not in (*_SEQUENTIAL, *_PROGRESSIVE):
        return
    if scans.components - scans.scanned:
        raise ValueError('it lacks the data of a channel')
    last = image.getpixel((image.width - 1, image.height - 1))
    # Blocks without data are mid-grey, if no other scan has filled them.
    is_grey = all(value in (127, 128) for value in (last if isinstance(last, tuple) else (last,)))
    if scans.num_scans == 1 and not is_grey:
        return
    again = Image.open(io.BytesIO(_pad(data, scans.end)), formats=('JPEG',))
    changed = np.asarray(again) != np.asarray(image)
    count = int((changed.any(axis=2) if changed.ndim == 3 else changed).sum())
    # The last unit of a file that lacks only its closing bits may differ.
    if count > scans.unit_pixels:
        raise ValueError(f'its data end before its pixels: at least {count} of them are missing')


def _pad(data: bytes, end: int) -> bytes:
    """Inserts random entropy-coded data, with restart markers in turn, at a position."""
    random = np.random.default_rng(0).integers(0, 255, (16, 256), dtype=np.uint8)
    # After restart markers of any number the next one follows within eight.
    padding = b''.join(
        block.tobytes() + bytes([0xFF, 0xD0 + i % 8]) for i, block in enumerate(random)
    )
    return data[:end] + random.tobytes() + padding + data[end:]
