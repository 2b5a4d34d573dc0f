"""TIFF files from untrusted bytes, as arrays of their own type.

tifffile, which is memory-safe, parses the structure; the pixels are put together here, because its
own decoders allocate what a file says before they look at it. Strips and tiles are inflated by
zlib and expanded by Pillow's PackBits and LZW decoders up to the size that the header states, so a
small file cannot fill the memory. The bytes are all that is read: no other file or address that a
TIFF may name. Compressions besides these are decoded by imagecodecs if it is installed.
"""

import dataclasses
import io
import itertools
import logging
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = ('.tif', '.tiff')

# Classic and BigTIFF, in both byte orders.
_MAGICS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_MAX_PAGES = 64
_MAX_SEGMENTS = 2**18
_MAX_BYTES = 2**30
_NONE, _LZW, _DEFLATES, _PACKBITS = 1, 5, (8, 32946, 50013), 32773
_OWN_COMPRESSIONS = (_NONE, _LZW, *_DEFLATES, _PACKBITS)
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE = 0, 1, 2, 3
_ORIENTATION_TAG = 274
# Numbers of a TIFF's SampleFormat: unsigned, signed, floating point.
_KINDS = {1: 'u', 2: 'i', 3: 'f'}
# A description with one of these tells that pages are depths or times, not channels.
_STACK_MARKS = ('slices=', 'frames=')


class _TiffError(ValueError):
    """An error whose message names the file already."""


@dataclasses.dataclass(frozen=True)
class TiffHeader:
    """Description of a TIFF image.

    Attributes:
      height, width: size in pixels, as stored.
      num_channels: samples per pixel, or pages of one sample each.
      bits: bits per sample.
      has_alpha: whether the last channel is opacity.
      orientation: EXIF orientation, 1 .. 8.
      photometric: meaning of the values: 0 and 1 grey, 2 RGB, 3 palette.
    """

    height: int
    width: int
    num_channels: int
    bits: int
    has_alpha: bool
    orientation: int
    photometric: int


def is_tiff(data: bytes) -> bool:
    """Returns whether bytes start like a TIFF file."""
    return data[:4] in _MAGICS


def read_tiff_header(data: bytes, *, name: str, max_pixels: int) -> TiffHeader:
    """Reads the header of a TIFF file.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused.

    Raises:
      ValueError: the bytes are no TIFF image that can be read here; the message says why.
      ImportError: tifffile is not installed.
    """
    return _describe(_open_pages(data, name), name, max_pixels)


def decode_tiff(data: bytes, *, name: str, max_pixels: int) -> tuple[np.ndarray, TiffHeader]:
    """Decodes a TIFF file.

    Samples of less than 8 bits keep their values, palettes become RGB, and pages of one channel
    each become channels.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused before their pixels are decoded.

    Returns:
      number[H, W, C] in native byte order: u8, u16, u32, i8, i16, i32, f32 or f64; and the header.

    Raises:
      ValueError: the bytes are no TIFF image that can be read here, or are damaged. If a
        compression needs imagecodecs, the message names the pip command.
      ImportError: tifffile is not installed.
    """
    pages = _open_pages(data, name)
    header = _describe(pages, name, max_pixels)
    try:
        planes = [_decode_page(page, data, name) for page in pages]
        values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if header.photometric == _PALETTE:
            values = _apply_palette(values, pages[0].tags[320].value, name)
    except (MemoryError, _TiffError):
        raise
    except Exception as error:
        raise ValueError(f'{name}: damaged or truncated TIFF image: {error}') from error
    return values, header


def _open_pages(data: bytes, name: str) -> list[Any]:
    """Returns the pages that belong to the first image."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f'{name} is a TIFF file, read by: pip install tifffile') from error
    # Damage is reported by the exceptions below.
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)
    pages = []
    try:
        tiff = tifffile.TiffFile(io.BytesIO(data), name=name)
        tiff.pages.useframes = False
        # A damaged file may link its pages in a circle.
        for index in range(2 * _MAX_PAGES):
            try:
                page: Any = tiff.pages[index]
            except IndexError:
                break
            # Previews and the levels of a pyramid are smaller copies of the first page.
            if pages and (page.is_reduced or page.is_mask or _count(page) < _count(pages[0])):
                continue
            pages.append(page)
            if len(pages) > _MAX_PAGES:
                break
        if not pages or not _count(pages[0]):
            raise ValueError('it has no image')
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f'{name}: not a readable TIFF image: {error!r:.200}') from error
    return pages


def _count(page: Any) -> int:
    return page.imagewidth * page.imagelength


def _describe(pages: Sequence[Any], name: str, max_pixels: int) -> TiffHeader:
    """Checks the pages and describes their image."""
    try:
        return _check_pages(pages, name, max_pixels)
    except (MemoryError, _TiffError):
        raise
    except Exception as error:  # A damaged file may lack any attribute of a page.
        raise ValueError(f'{name}: not a readable TIFF image: {error!r:.200}') from error


def _check_pages(pages: Sequence[Any], name: str, max_pixels: int) -> TiffHeader:
    first = pages[0]
    height, width = first.imagelength, first.imagewidth
    samples = first.samplesperpixel
    if height * width > max_pixels:
        raise _TiffError(
            f'{name}: {height}x{width} pixels exceed the limit of {max_pixels}: '
            f'shrink or tile the image'
        )
    if first.imagedepth != 1:
        raise _TiffError(f'{name} is a volume of depth {first.imagedepth}: save its planes apart')
    if len(pages) > 1:
        _check_stack(pages, name)
    size = height * width * samples * len(pages) * max(1, math.ceil(first.bitspersample / 8))
    if size > _MAX_BYTES:
        raise _TiffError(f'{name}: {size} bytes of pixels exceed the limit of {_MAX_BYTES}')
    photometric = int(first.photometric)
    # imagecodecs returns the colours of JPEG as RGB.
    is_known = photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE)
    if not is_known and first.compression in _OWN_COMPRESSIONS:
        kind = getattr(first.photometric, 'name', photometric)
        raise _TiffError(f'{name} has pixels of the kind {kind}: save it as RGB or grey')
    if first.sampleformat not in _KINDS or not isinstance(first.bitspersample, int):
        raise _TiffError(
            f'{name} has samples of {first.bitspersample} bits, format {first.sampleformat}: save '
            f'it with 8 or 16 bits per channel'
        )
    orientation = first.tags.valueof(_ORIENTATION_TAG, 1)
    extra = tuple(map(int, first.extrasamples))
    is_palette = photometric == _PALETTE
    return TiffHeader(
        height=height,
        width=width,
        num_channels=3 if is_palette else samples * len(pages),
        bits=8 if is_palette else first.bitspersample,
        has_alpha=len(pages) == 1 and samples > 1 and extra[-1:] in ((1,), (2,)),
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        photometric=photometric,
    )


def _check_stack(pages: Sequence[Any], name: str) -> None:
    """Checks that several pages are the channels of one image."""
    first = pages[0]
    height, width = first.imagelength, first.imagewidth
    text = (first.description or '')[:10_000]
    is_stack = any(mark in text for mark in _STACK_MARKS) and 'channels=' not in text
    if len(pages) > _MAX_PAGES or is_stack or first.samplesperpixel > 1:
        more = 'more than ' if len(pages) > _MAX_PAGES else ''
        raise _TiffError(
            f'{name} has {more}{min(len(pages), _MAX_PAGES)} pages of {height}x{width} pixels: '
            f'save each depth or time as a file of its own, and channels as samples of one page '
            f"(tifffile.imwrite(..., photometric='minisblack', planarconfig='contig'))"
        )
    for page in pages[1:]:
        same = ('imagelength', 'imagewidth', 'bitspersample', 'sampleformat', 'samplesperpixel')
        if any(getattr(page, field) != getattr(first, field) for field in same):
            raise _TiffError(f'{name} has pages of different sizes or types: save them apart')


def _decode_page(page: Any, data: bytes, name: str) -> np.ndarray:
    """Decodes one page to number[H, W, S]."""
    if page.compression not in _OWN_COMPRESSIONS:
        return _decode_by_imagecodecs(page, name)
    if page.fillorder != 1 and page.bitspersample < 8:
        raise ValueError('its bits are stored in reverse order (FillOrder 2)')
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    is_planar = samples > 1 and page.planarconfig == 2
    planes, depth = (samples, 1) if is_planar else (1, samples)
    rows, columns = (
        (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    )
    rows = min(rows, height) if not page.is_tiled else rows
    if rows < 1 or columns < 1 or rows * columns > 4 * max(height * width, 2**20):
        raise ValueError(f'its strips or tiles have {rows}x{columns} pixels')
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    offsets, counts = page.dataoffsets, page.databytecounts
    if planes * down * across > _MAX_SEGMENTS:
        raise ValueError(f'it has more than {_MAX_SEGMENTS} strips or tiles')
    if min(len(offsets), len(counts)) < planes * down * across:
        raise ValueError(
            f'it has {min(len(offsets), len(counts))} of {planes * down * across} strips or tiles'
        )
    dtype = _find_dtype(page)
    values = np.zeros((height, width, samples), dtype)
    view = memoryview(data)
    for index, (plane, y, x) in enumerate(
        itertools.product(range(planes), range(0, height, rows), range(0, width, columns))
    ):
        if not counts[index]:
            # GDAL leaves empty strips and tiles out.
            continue
        stored = min(rows, height - y) if not page.is_tiled else rows
        segment = _decode_segment(
            view[offsets[index] : offsets[index] + counts[index]],
            (stored, columns, depth),
            page,
        )
        target = values[y : y + rows, x : x + columns, plane : plane + depth]
        target[...] = segment[: target.shape[0], : target.shape[1]]
    if page.photometric == _MIN_IS_WHITE and dtype.kind == 'u':
        values = (2**page.bitspersample - 1) - values
    return values


def _find_dtype(page: Any) -> np.dtype:
    """Returns the dtype of decoded samples."""
    bits, kind = page.bitspersample, _KINDS[page.sampleformat]
    if kind == 'f' and bits in (16, 32, 64):
        return np.dtype(f'f{max(bits // 8, 4)}')
    if bits in (8, 16, 32):
        return np.dtype(f'{kind}{bits // 8}')
    if kind == 'u' and 0 < bits < 16:
        return np.dtype('u1' if bits < 8 else 'u2')
    raise ValueError(f'its samples have {bits} bits')


def _decode_segment(raw: memoryview, shape: tuple[int, int, int], page: Any) -> np.ndarray:
    """Decodes a strip or tile to number[rows, columns, samples]."""
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
    dtype = np.dtype(f'{order}{_KINDS[page.sampleformat]}{bits // 8}')
    values = np.frombuffer(content, dtype, rows * columns * depth).reshape(shape)
    if page.predictor == 2:
        unsigned = values.view(f'{order}u{bits // 8}').astype(f'u{bits // 8}')
        summed = unsigned.cumsum(axis=1, dtype=unsigned.dtype)
        return summed.view(dtype.newbyteorder('='))
    if page.predictor != 1:
        raise ValueError(f'its predictor {page.predictor} is unknown')
    return values


def _decompress(raw: memoryview, compression: int, rows: int, row_bytes: int) -> bytes | memoryview:
    """Expands a strip or tile to at most the size that the header states."""
    size = rows * row_bytes
    if compression == _NONE:
        return raw[:size]
    # Compression never doubles a size, so that what follows belongs to no valid strip.
    raw = raw[: 2 * size + 1024]
    if compression in _DEFLATES:
        return zlib.decompressobj().decompress(raw, size)
    if compression == _PACKBITS:
        picture = Image.frombytes('L', (row_bytes, rows), bytes(raw), 'packbits', 'L')
    else:
        # Pillow decodes LZW in whole TIFF files only: this one has a header that we wrote.
        file = io.BytesIO(_wrap_lzw(bytes(raw), rows, row_bytes))
        picture = Image.open(file, formats=('TIFF',))
    return picture.tobytes()


def _wrap_lzw(raw: bytes, rows: int, row_bytes: int) -> bytes:
    """Makes a TIFF file of one 8-bit grey strip, compressed with LZW."""
    start = 8 + 2 + 12 * 8 + 4
    fields = (
        (256, row_bytes),
        (257, rows),
        (258, 8),
        (259, _LZW),
        (262, _MIN_IS_BLACK),
        (273, start),
        (278, rows),
        (279, len(raw)),
    )
    directory = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in fields)
    header = struct.pack('<2sHIH', b'II', 42, 8, len(fields))
    return header + directory + struct.pack('<I', 0) + raw


def _decode_by_imagecodecs(page: Any, name: str) -> np.ndarray:
    try:
        import imagecodecs  # noqa: F401 - tifffile calls it.  # pyright: ignore
    except ImportError as error:
        kind = getattr(page.compression, 'name', page.compression)
        # One such file must not end a run over many.
        raise _TiffError(
            f'{name} is compressed with {kind}, which needs another package: pip install '
            f'imagecodecs, or save it uncompressed, with LZW or with Deflate'
        ) from error
    values = page.asarray(maxworkers=1)
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        values = np.moveaxis(values, 0, -1)
    return values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _apply_palette(values: np.ndarray, colormap: Any, name: str) -> np.ndarray:
    # A TIFF's colours have 16 bits, red first, then green, then blue.
    table = (np.asarray(colormap).reshape(3, -1).T >> 8).astype(np.uint8)
    if values.shape[2] != 1 or values.max() >= len(table):
        raise ValueError(f'{name}: an index is outside of its palette of {len(table)} colours')
    return table[values[..., 0]]
