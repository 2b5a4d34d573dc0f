"""Strips and tiles of a page of a TIFF file from untrusted bytes, decoded in bounded memory.

tifffile, which is memory-safe, parses the structure; its own decoders allocate what a file says
before they look at it. Here strips and tiles are inflated by zlib, and expanded by Pillow's
PackBits, LZW and JPEG decoders, up to the size that the header states.
"""

import collections
import io
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from pdl_jax.data.windows import Window

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
# Numbers of a TIFF's SampleFormat: unsigned, signed, floating point.
KINDS = {1: 'u', 2: 'i', 3: 'f'}

_NONE, _LZW, _JPEG, _DEFLATES, _PACKBITS = 1, 5, 7, (8, 32946, 50013), 32773
_OWN_COMPRESSIONS = (_NONE, _LZW, *_DEFLATES, _PACKBITS)
# Whole slides of 200,000 x 200,000 px in tiles of 256 px have fewer.
_MAX_SEGMENTS = 2**20
# Decoded bytes of one strip or tile.
_MAX_SEGMENT_BYTES = 2**29

# Reads (offset, count) bytes of the file, fewer at its end.
Fetch = Callable[[int, int], bytes | memoryview]


class SegmentCache:
    """The strips and tiles that were decoded last, up to a number of bytes."""

    def __init__(self, max_bytes: int = 2**26) -> None:
        self._max_bytes = max_bytes
        self._segments: collections.OrderedDict[Any, np.ndarray] = collections.OrderedDict()
        self._num_bytes = 0

    def get(self, key: Any, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns a segment, decoded if it is not here."""
        if key in self._segments:
            self._segments.move_to_end(key)
            return self._segments[key]
        segment = self._segments[key] = decode()
        self._num_bytes += segment.nbytes
        while self._num_bytes > self._max_bytes and len(self._segments) > 1:
            self._num_bytes -= self._segments.popitem(last=False)[1].nbytes
        return segment


def is_decodable(page: Any) -> bool:
    """Returns whether the strips and tiles of a tifffile page can be decoded here."""
    if page.compression == _JPEG:
        return page.bitspersample == 8 and page.samplesperpixel in (1, 3)
    return page.compression in _OWN_COMPRESSIONS


def is_known_color(page: Any) -> bool:
    """Returns whether the values of a page that is decoded here are grey, RGB or of a palette."""
    photometric = int(page.photometric)
    if photometric == YCBCR:
        return page.compression == _JPEG
    return photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE)


def decode_window(
    page: Any, fetch: Fetch, window: Window, cache: SegmentCache | None = None
) -> np.ndarray:
    """Decodes a part of a page from the strips and tiles that it touches.

    Args:
      page: a page of tifffile; one without `is_decodable` needs imagecodecs.
      fetch: reads the file.
      window: the part, not empty, within the page.
      cache: keeps strips and tiles for other windows of the same page.

    Returns:
      number[h, w, samples] in native byte order.

    Raises:
      Exception: of any kind, if the file is damaged.
    """
    if page.fillorder != 1 and page.bitspersample < 8:
        raise ValueError('its bits are stored in reverse order (FillOrder 2)')
    cache = cache or SegmentCache(0)
    layout = _Layout(page)
    values = np.zeros((*window.size, page.samplesperpixel), find_dtype(page))
    for index, plane, stored, skip in layout.find(window):
        count = page.databytecounts[index]
        if not count:
            # GDAL leaves empty strips and tiles out.
            continue
        start, end = skip * layout.row_bytes, stored.size[0] * layout.row_bytes
        if page.compression == _NONE:
            count = max(0, min(end, count - start))
        else:
            # Compression never doubles a size, so that what follows belongs to no valid strip.
            count = min(count, 2 * end + 1024)
        offset, shape = page.dataoffsets[index] + start, (*stored.size, layout.depth)

        segment = cache.get(
            (index, stored),
            lambda offset=offset, count=count, index=index, shape=shape: _decode_segment(
                fetch(offset, count), index, shape, page
            ),
        )
        part = stored.intersect(window)
        target = values[part.within(window).slices]
        target[..., plane : plane + layout.depth] = segment[part.within(stored).slices]
    if page.photometric == MIN_IS_WHITE and values.dtype.kind == 'u':
        values = (2**page.bitspersample - 1) - values
    return values


class _Layout:
    """The places of the strips and tiles of a page."""

    def __init__(self, page: Any) -> None:
        height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
        is_planar = samples > 1 and page.planarconfig == 2
        self.planes, self.depth = (samples, 1) if is_planar else (1, samples)
        self.rows, self.columns = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
        )
        self.rows = self.rows if page.is_tiled else min(self.rows, height)
        self.size = (height, width)
        # Rows of uncompressed strips can be read by themselves.
        self.has_rows = not page.is_tiled and page.compression == _NONE
        if (
            self.rows < 1
            or self.columns < 1
            or self.rows * self.columns > 4 * max(height * width, 2**20)
        ):
            raise ValueError(f'its strips or tiles have {self.rows}x{self.columns} pixels')
        self.row_bytes = math.ceil(self.columns * self.depth * page.bitspersample / 8)
        if not self.has_rows and self.rows * self.row_bytes > _MAX_SEGMENT_BYTES:
            raise ValueError(
                f'a strip or tile of it has {self.rows * self.row_bytes} bytes, the limit is '
                f'{_MAX_SEGMENT_BYTES}: save it in tiles, of 256x256 pixels for example'
            )
        self.down, self.across = math.ceil(height / self.rows), math.ceil(width / self.columns)
        count = self.planes * self.down * self.across
        if count > _MAX_SEGMENTS:
            raise ValueError(f'it has more than {_MAX_SEGMENTS} strips or tiles')
        found = min(len(page.dataoffsets), len(page.databytecounts))
        if found < count:
            raise ValueError(f'it has {found} of {count} strips or tiles')
        self.is_tiled = page.is_tiled

    def find(self, window: Window) -> Iterator[tuple[int, int, Window, int]]:
        """Yields the parts of the file that a window touches.

        Yields:
          Index of the strip or tile, its first sample, the pixels that are decoded, and how many
          rows of it come before them.
        """
        down = range(window.y0 // self.rows, -(-window.y1 // self.rows))
        across = range(window.x0 // self.columns, -(-window.x1 // self.columns))
        for plane, row, column in itertools.product(range(self.planes), down, across):
            y, x = row * self.rows, column * self.columns
            end = y + self.rows if self.is_tiled else min(y + self.rows, self.size[0])
            stored = Window(y, x, end, x + self.columns)
            if self.has_rows:
                stored = stored._replace(y0=max(y, window.y0), y1=min(end, window.y1))
            index = (plane * self.down + row) * self.across + column
            yield index, plane, stored, stored.y0 - y


def find_dtype(page: Any) -> np.dtype:
    """Returns the dtype of decoded samples."""
    bits, kind = page.bitspersample, KINDS[page.sampleformat]
    if kind == 'f' and bits in (16, 32, 64):
        return np.dtype(f'f{max(bits // 8, 4)}')
    if bits in (8, 16, 32):
        return np.dtype(f'{kind}{bits // 8}')
    if kind == 'u' and 0 < bits < 16:
        return np.dtype('u1' if bits < 8 else 'u2')
    raise ValueError(f'its samples have {bits} bits')


def _decode_segment(
    raw: bytes | memoryview, index: int, shape: tuple[int, int, int], page: Any
) -> np.ndarray:
    """Decodes a strip or tile to number[rows, columns, samples]."""
    if not is_decodable(page):
        # By imagecodecs.
        return page.decode(bytes(raw), index, jpegtables=page.jpegtables)[0].reshape(shape)
    if page.compression == _JPEG:
        return _decode_jpeg(bytes(raw), shape, page)
    rows, columns, depth = shape
    bits = page.bitspersample
    row_bytes = math.ceil(columns * depth * bits / 8)
    size = rows * row_bytes
    content = _decompress(raw, page.compression, rows, row_bytes)
    if len(content) < size:
        raise ValueError(f'a strip or tile has {len(content)} of {size} bytes')
    order = page.parent.byteorder
    if bits not in (8, 16, 32, 64):
        packed = np.frombuffer(content, np.uint8, size).reshape(rows, row_bytes)
        flags = np.unpackbits(packed, axis=1)[:, : columns * depth * bits]
        weights = 1 << np.arange(bits - 1, -1, -1)
        values = flags.reshape(rows, columns * depth, bits) @ weights
        return values.reshape(shape)
    if page.predictor == 3:
        # The bytes of the floats of a row lie apart, and are differences along the row.
        row = np.frombuffer(content, np.uint8, size).reshape(rows, columns * depth * bits // 8)
        row = row.reshape(rows, -1, depth).cumsum(axis=1, dtype=np.uint8)
        row = row.reshape(rows, bits // 8, columns * depth)
        parts = np.ascontiguousarray(np.moveaxis(row, 1, 2))
        return parts.view(f'>f{bits // 8}')[..., 0].reshape(shape)
    dtype = np.dtype(f'{order}{KINDS[page.sampleformat]}{bits // 8}')
    values = np.frombuffer(content, dtype, rows * columns * depth).reshape(shape)
    if page.predictor == 2:
        unsigned = values.view(f'{order}u{bits // 8}').astype(f'u{bits // 8}')
        summed = unsigned.cumsum(axis=1, dtype=unsigned.dtype)
        return summed.view(dtype.newbyteorder('='))
    if page.predictor != 1:
        raise ValueError(f'its predictor {page.predictor} is unknown')
    return values


def _decompress(
    raw: bytes | memoryview, compression: int, rows: int, row_bytes: int
) -> bytes | memoryview:
    """Expands a strip or tile to at most the size that the header states."""
    size = rows * row_bytes
    if compression == _NONE:
        return raw[:size]
    if compression in _DEFLATES:
        return zlib.decompressobj().decompress(raw, size)
    if compression == _PACKBITS:
        picture = Image.frombytes('L', (row_bytes, rows), bytes(raw), 'packbits', 'L')
    else:
        # Pillow decodes LZW in whole TIFF files only: this one has a header that we wrote.
        file = io.BytesIO(_wrap_lzw(bytes(raw), rows, row_bytes))
        picture = Image.open(file, formats=('TIFF',))
    return picture.tobytes()


def _decode_jpeg(raw: bytes, shape: tuple[int, int, int], page: Any) -> np.ndarray:
    """Decodes a strip or tile that is a JPEG image, of which the page may hold the tables."""
    rows, columns, depth = shape
    if depth not in (1, 3):
        raise ValueError(f'a JPEG strip or tile has {depth} samples')
    # Without this marker the decoder takes three samples for YCbCr, as slide scanners may not.
    is_ycbcr = int(page.photometric) == YCBCR
    marker = b'\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00' + bytes([is_ycbcr])
    tables = bytes(page.jpegtables or b'')[2:-2]
    file = io.BytesIO(raw[:2] + (marker if depth == 3 else b'') + tables + raw[2:])
    picture = Image.open(file, formats=('JPEG',))
    if picture.size != (columns, rows) or len(picture.getbands()) != depth:
        raise ValueError(
            f'a strip or tile of {rows}x{columns} pixels and {depth} samples holds a JPEG image of '
            f'{picture.height}x{picture.width} and {len(picture.getbands())}'
        )
    return np.asarray(picture).reshape(shape)


def _wrap_lzw(raw: bytes, rows: int, row_bytes: int) -> bytes:
    """Makes a TIFF file of one 8-bit grey strip, compressed with LZW."""
    start = 8 + 2 + 12 * 8 + 4
    fields = (
        (256, row_bytes),
        (257, rows),
        (258, 8),
        (259, _LZW),
        (262, MIN_IS_BLACK),
        (273, start),
        (278, rows),
        (279, len(raw)),
    )
    directory = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in fields)
    header = struct.pack('<2sHIH', b'II', 42, 8, len(fields))
    return header + directory + struct.pack('<I', 0) + raw
