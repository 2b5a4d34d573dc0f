"""TIFF files from untrusted bytes, as arrays of their own type.

tifffile parses the structure and `tiff_segments` decodes the pixels, so that a small file cannot
fill the memory. The bytes are all that is read: no other file or address that a TIFF may name.
Compressions that `tiff_segments` lacks are decoded by imagecodecs if it is installed.
"""

import dataclasses
import io
import logging
import math
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from pdl_jax.data import tiff_segments
from pdl_jax.data.tiff_segments import KINDS, PALETTE
from pdl_jax.data.windows import Window

SUFFIXES = ('.tif', '.tiff')

# Classic and BigTIFF, in both byte orders.
_MAGICS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_MAX_PAGES = 64
_MAX_BYTES = 2**30
_ORIENTATION_TAG = 274
# A description with one of these tells that pages are depths or times, not channels.
_STACK_MARKS = ('slices=', 'frames=')


class TiffError(ValueError):
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
    return describe_pages(open_pages(io.BytesIO(data), name), name, max_pixels)


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
    pages = open_pages(io.BytesIO(data), name)
    header = describe_pages(pages, name, max_pixels)
    try:
        planes = [_decode_page(page, data, name) for page in pages]
        values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if header.photometric == PALETTE:
            values = apply_palette(values, pages[0].tags[320].value, name)
    except (MemoryError, TiffError):
        raise
    except Exception as error:
        raise ValueError(f'{name}: damaged or truncated TIFF image: {error}') from error
    return values, header


def open_pages(file: IO[bytes], name: str, *, max_pages: int = _MAX_PAGES) -> list[Any]:
    """Opens the pages that belong to the first image of a TIFF file.

    Args:
      file: the file, which is read now and with each page.
      name: name of the file, for error messages.
      max_pages: one page more than this ends the list.

    Returns:
      Pages of tifffile, without previews and the smaller levels of a pyramid.

    Raises:
      ValueError: it is no TIFF image; the message names it.
      ImportError: tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(f'{name} is a TIFF file, read by: pip install tifffile') from error
    # Damage is reported by the exceptions below.
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)
    pages = []
    try:
        file.seek(0)
        tiff = tifffile.TiffFile(file, name=name)
        tiff.pages.useframes = False
        # A damaged file may link its pages in a circle.
        for index in range(2 * max_pages):
            try:
                page: Any = tiff.pages[index]
            except IndexError:
                break
            # Previews and the levels of a pyramid are smaller copies of the first page.
            if pages and (page.is_reduced or page.is_mask or _count(page) < _count(pages[0])):
                continue
            pages.append(page)
            if len(pages) > max_pages:
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


def describe_pages(
    pages: Sequence[Any], name: str, max_pixels: int, *, max_bytes: int = _MAX_BYTES
) -> TiffHeader:
    """Checks the pages of an image and describes it.

    Args:
      pages: see `open_pages`.
      name: name of the file, for error messages.
      max_pixels: larger images are refused.
      max_bytes: images of more bytes, not compressed, are refused.

    Raises:
      ValueError: the image cannot be read here; the message says why.
    """
    try:
        return _check_pages(pages, name, max_pixels, max_bytes)
    except (MemoryError, TiffError):
        raise
    except Exception as error:  # A damaged file may lack any attribute of a page.
        raise ValueError(f'{name}: not a readable TIFF image: {error!r:.200}') from error


def _check_pages(pages: Sequence[Any], name: str, max_pixels: int, max_bytes: int) -> TiffHeader:
    first = pages[0]
    height, width = first.imagelength, first.imagewidth
    samples = first.samplesperpixel
    if height * width > max_pixels:
        raise TiffError(
            f'{name}: {height}x{width} pixels exceed the limit of {max_pixels}: '
            f'shrink or tile the image'
        )
    if first.imagedepth != 1:
        raise TiffError(f'{name} is a volume of depth {first.imagedepth}: save its planes apart')
    if len(pages) > 1:
        _check_stack(pages, name)
    size = height * width * samples * len(pages) * max(1, math.ceil(first.bitspersample / 8))
    if size > max_bytes:
        raise TiffError(f'{name}: {size} bytes of pixels exceed the limit of {max_bytes}')
    photometric = int(first.photometric)
    # imagecodecs returns other colours as RGB.
    if tiff_segments.is_decodable(first) and not tiff_segments.is_known_color(first):
        kind = getattr(first.photometric, 'name', photometric)
        raise TiffError(f'{name} has pixels of the kind {kind}: save it as RGB or grey')
    if first.sampleformat not in KINDS or not isinstance(first.bitspersample, int):
        raise TiffError(
            f'{name} has samples of {first.bitspersample} bits, format {first.sampleformat}: save '
            f'it with 8 or 16 bits per channel'
        )
    orientation = first.tags.valueof(_ORIENTATION_TAG, 1)
    extra = tuple(map(int, first.extrasamples))
    is_palette = photometric == PALETTE
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
        raise TiffError(
            f'{name} has {more}{min(len(pages), _MAX_PAGES)} pages of {height}x{width} pixels: '
            f'save each depth or time as a file of its own, and channels as samples of one page '
            f"(tifffile.imwrite(..., photometric='minisblack', planarconfig='contig'))"
        )
    for page in pages[1:]:
        same = ('imagelength', 'imagewidth', 'bitspersample', 'sampleformat', 'samplesperpixel')
        if any(getattr(page, field) != getattr(first, field) for field in same):
            raise TiffError(f'{name} has pages of different sizes or types: save them apart')


def _decode_page(page: Any, data: bytes, name: str) -> np.ndarray:
    """Decodes one page to number[H, W, S]."""
    if not tiff_segments.is_decodable(page):
        return _decode_by_imagecodecs(page, name)
    view = memoryview(data)

    def fetch(offset: int, count: int) -> memoryview:
        return view[offset : offset + count]

    return tiff_segments.decode_window(page, fetch, Window(0, 0, page.imagelength, page.imagewidth))


def _decode_by_imagecodecs(page: Any, name: str) -> np.ndarray:
    require_imagecodecs(page, name)
    values = page.asarray(maxworkers=1)
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        values = np.moveaxis(values, 0, -1)
    return values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def require_imagecodecs(page: Any, name: str) -> None:
    """Checks that the compression of a page can be decoded.

    Raises:
      ValueError: imagecodecs is not installed; the message names the remedy.
    """
    try:
        import imagecodecs  # noqa: F401 - tifffile calls it.  # pyright: ignore
    except ImportError as error:
        kind = getattr(page.compression, 'name', page.compression)
        # One such file must not end a run over many.
        raise TiffError(
            f'{name} is compressed with {kind}, which needs another package: pip install '
            f'imagecodecs, or save it uncompressed, with LZW or with Deflate'
        ) from error


def apply_palette(values: np.ndarray, colormap: Any, name: str) -> np.ndarray:
    """Looks up the colours of indices, number[H, W, 1]; returns u8[H, W, 3].

    Raises:
      ValueError: an index has no colour.
    """
    # A TIFF's colours have 16 bits, red first, then green, then blue.
    table = (np.asarray(colormap).reshape(3, -1).T >> 8).astype(np.uint8)
    if values.shape[2] != 1 or values.max() >= len(table):
        raise ValueError(f'{name}: an index is outside of its palette of {len(table)} colours')
    return table[values[..., 0]]
