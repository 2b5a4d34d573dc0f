"""Decoding images, id maps and index maps from untrusted bytes, and encoding, with Pillow."""

import dataclasses
import io
import re

import numpy as np
from PIL import Image

from pdl_jax.data import tiff_images, truncation
from pdl_jax.data.pixel_format import PixelFormat, match_channels

# 8192 x 8192: far above street scenes and photographs, far below the memory of a host.
MAX_PIXELS = 2**26
# A strip of one pixel by millions is no picture, and whatever pads or turns it fills the memory.
MAX_SIDE_PX = 2**20
MAX_IDS = 2**24

_IMAGE_FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', *tiff_images.SUFFIXES)
# Offset of the bits per sample in a PNG, whose header chunk always comes first.
_PNG_BIT_DEPTH = 24
_ORIENTATION = 0x0112
# Pillow expands run-length coded BMP files in Python, pixel by pixel.
_MAX_BMP_RLE_PIXELS = 2**22


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Description of an image file.

    Attributes:
      size: (height, width) in pixels, as stored.
      orientation: EXIF orientation, 1 .. 8; 1 is upright.
      num_channels: channels of the file: 1, 2 with opacity, 3, 4 with opacity; any number in TIFF.
      is_deep: whether a channel may have more than 8 bits.
      is_tiff: whether it is a TIFF file.
    """

    size: tuple[int, int]
    orientation: int
    num_channels: int
    is_deep: bool
    is_tiff: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the picture as viewers show it."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Reads the header of an image file; see `decode_image` for arguments and errors."""
    if tiff_images.is_tiff(data):
        tiff = tiff_images.read_tiff_header(data, name=name, max_pixels=max_pixels)
        size = (tiff.height, tiff.width)
        _check_size(size, name, max_pixels)
        return ImageHeader(size, tiff.orientation, tiff.num_channels, tiff.bits > 8, True)
    image = _open(data, name, max_pixels, _IMAGE_FORMATS)
    is_deep = _find_png_depth(data, image) == 16
    # Pillow has no grey of 16 bits with opacity.
    num_channels = 2 if is_deep and _has_grey_alpha(data) else len(_native_mode(image))
    orientation = _read_orientation(image)
    return ImageHeader((image.height, image.width), orientation, num_channels, is_deep)


def decode_image(
    data: bytes,
    *,
    name: str,
    max_pixels: int = MAX_PIXELS,
    is_exif_applied: bool = False,
    is_checked: bool = True,
    pixels: PixelFormat = PixelFormat(),  # noqa: B008 - it is immutable.
) -> np.ndarray:
    """Decodes a JPEG, PNG, BMP, WebP or TIFF file to 8 bits per channel.

    For three channels grey and palette images become RGB, and alpha is dropped.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused before their pixels are decoded.
      is_exif_applied: whether the image is rotated by its EXIF orientation.
      is_checked: whether data that end early are looked for; records were checked when they were
        written.
      pixels: number of channels, and the value range of files with more than 8 bits.

    Returns:
      u8[H, W, pixels.num_channels].

    Raises:
      ValueError: the bytes are not such an image, are damaged, exceed `max_pixels`, or have another
        number of channels.
    """
    values = decode_values(
        data,
        name=name,
        max_pixels=max_pixels,
        num_channels=pixels.num_channels,
        is_checked=is_checked,
    )
    if is_exif_applied:
        header = read_header(data, name=name, max_pixels=max_pixels)
        values = turn_upright(values, header.orientation)
    return np.ascontiguousarray(pixels.scale(values))


def decode_values(
    data: bytes,
    *,
    name: str,
    max_pixels: int = MAX_PIXELS,
    num_channels: int | None = 3,
    is_checked: bool = True,
) -> np.ndarray:
    """Decodes an image file to the values that it holds, not turned.

    Args:
      data, name, max_pixels, is_checked: see `decode_image`.
      num_channels: number of channels; None takes those of the file.

    Returns:
      number[H, W, C]: u8 for files of up to 8 bits per channel, u16 for PNG files of 16 bits, and
      the type of the file for TIFF.

    Raises:
      ValueError: see `decode_image`.
    """
    if tiff_images.is_tiff(data):
        values, header = tiff_images.decode_tiff(data, name=name, max_pixels=max_pixels)
        _check_size(values.shape[:2], name, max_pixels)
        if header.bits < 8:
            values = values * np.uint8(255 // (2**header.bits - 1))
        return match_channels(values, num_channels, header.has_alpha, name)
    image = _open(data, name, max_pixels, _IMAGE_FORMATS)
    if _find_png_depth(data, image) == 16:
        values = _load_png_of_16_bits(data, image, name, max_pixels)
        return match_channels(values, num_channels, values.shape[2] in (2, 4), name)
    image = _load(data, image, name, is_checked)
    mode = 'RGB' if num_channels == 3 else _native_mode(image)
    values = np.asarray(image if image.mode == mode else image.convert(mode))
    if values.ndim == 2:
        values = values[..., None]
    return match_channels(values, num_channels, mode in ('LA', 'RGBA'), name)


def turn_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns [H, W, ...] as an EXIF orientation, 1 .. 8, says."""
    if orientation in (3, 4, 6, 7):
        values = values[::-1]
    if orientation in (2, 3, 7, 8):
        values = values[:, ::-1]
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    return np.ascontiguousarray(values)


def decode_ids(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a 24-bit PNG of ids, R + 256 G + 65536 B.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused before their pixels are decoded.

    Returns:
      i32[H, W].

    Raises:
      ValueError: the bytes are not an 8-bit RGB PNG, are damaged, or exceed `max_pixels`.
    """
    image = _open(data, name, max_pixels, ('PNG',))
    if image.mode not in ('RGB', 'RGBA'):
        raise ValueError(
            f'{name}: ids must be an 8-bit RGB PNG (id = R + 256 G + 65536 B), got mode '
            f'{image.mode!r}: convert the annotation to the COCO panoptic format'
        )
    # Pillow packs four bytes per pixel in one pass; each reads as one little-endian integer.
    packing = 'RGBA' if image.mode == 'RGBA' else 'RGBX'
    ids = np.frombuffer(_load(data, image, name).tobytes('raw', packing), '<i4') & (MAX_IDS - 1)
    return ids.reshape(image.height, image.width)


def decode_index_map(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG of indices: palette or grey with 8 bits, or grey with 16.

    The colours of a palette are ignored; they are for display.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused before their pixels are decoded.

    Returns:
      i32[H, W].

    Raises:
      ValueError: the bytes are not such a PNG, are damaged, or exceed `max_pixels`.
    """
    image = _open(data, name, max_pixels, ('PNG',))
    # Grey of less than 8 bits is refused: Pillow scales it to 0 .. 255, which changes the indices.
    bits, is_palette = data[_PNG_BIT_DEPTH], image.mode == 'P'
    if not is_palette and (image.mode not in ('L', 'I;16', 'I') or bits < 8):
        raise ValueError(
            f'{name}: indices must be a PNG with a palette or with one grey channel of 8 or 16 '
            f'bits, got mode {image.mode!r} with {bits} bits: save the class index of each pixel'
        )
    return np.asarray(_load(data, image, name)).astype(np.int32)


def load_png(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens and decodes a PNG of any mode, for readers that need more than its values.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused before their pixels are decoded.

    Raises:
      ValueError: the bytes are no PNG, are damaged, or exceed `max_pixels`.
    """
    return _load(data, _open(data, name, max_pixels, ('PNG',)), name)


def encode_ids(ids: np.ndarray) -> bytes:
    """Encodes ids as a 24-bit PNG, R + 256 G + 65536 B.

    Args:
      ids: integer[H, W], each in 0 .. 2**24 - 1.

    Raises:
      ValueError: `ids` has another shape, type or range, or is empty.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f'ids must be a non-empty integer [H, W], got {ids.dtype}{ids.shape}')
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= MAX_IDS:
        raise ValueError(f'ids span {low} .. {high}, a 24-bit PNG holds 0 .. {MAX_IDS - 1}')
    rgb = np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], axis=-1).astype(np.uint8)
    return encode_image(rgb)


def encode_image(image: np.ndarray) -> bytes:
    """Encodes u8[H, W, C], of 1, 2, 3 or 4 channels, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, format='PNG')
    return buffer.getvalue()


def show_channels(image: np.ndarray) -> np.ndarray:
    """Shows an image of any number of channels: u8[H, W, C] to u8[H, W, 3].

    The first three channels are shown as red, green and blue; of one or two channels the first as
    grey.
    """
    return np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3]


def _open(data: bytes, name: str, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    # Only the header is parsed here. The list of formats keeps untrusted bytes away from Pillow's
    # rarer parsers.
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        # Pillow's message gives its own limit.
        found = re.search(r'\d+', str(error))
        raise ValueError(
            f'{name}: {found[0] if found else "too many"} pixels exceed the limit of '
            f'{max_pixels}: shrink or tile the image'
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's own message shows the address of a buffer, not the file.
        names = (*formats, 'TIFF') if formats is _IMAGE_FORMATS else formats
        raise ValueError(
            f'{name}: not a readable {"/".join(names)} image ({len(data)} bytes)'
        ) from error
    width, height = image.size
    _check_size((height, width), name, max_pixels)
    is_run_length_coded = image.format == 'BMP' and image.info.get('compression') in (1, 2)
    if is_run_length_coded and width * height > _MAX_BMP_RLE_PIXELS:
        raise ValueError(f'{name} is a large run-length coded BMP file: save it as PNG')
    return image


def _check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    height, width = size
    if width * height > max_pixels:
        raise ValueError(
            f'{name}: {height}x{width} pixels exceed the limit of {max_pixels}: '
            f'shrink or tile the image'
        )
    if max(size) > MAX_SIDE_PX:
        raise ValueError(
            f'{name}: a side of {max(size)} pixels exceeds the limit of {MAX_SIDE_PX}: cut the '
            f'image into parts'
        )


def _load(data: bytes, image: Image.Image, name: str, is_checked: bool = True) -> Image.Image:
    # Pillow raises OSError, SyntaxError, ValueError, EOFError or struct.error for damaged files.
    try:
        scans = None
        # Phones write several JPEG images into one file, of which the first counts.
        if is_checked and image.format in ('JPEG', 'MPO'):
            scans = truncation.check_jpeg_cost(data, image.width * image.height)
        image.load()
        if not is_checked:
            return image
        if scans is not None:
            truncation.check_jpeg(data, image, scans)
        elif image.format == 'PNG':
            truncation.check_png(data, image)
        return image
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f'{name}: damaged or truncated image: {error}') from error


def _read_orientation(image: Image.Image) -> int:
    # Damaged EXIF data do not make the picture unreadable: viewers show it as it is stored.
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _native_mode(image: Image.Image) -> str:
    """Returns the mode with the channels of a file: L, LA, RGB or RGBA."""
    if image.mode in ('1', 'L') or image.mode.startswith('I'):
        return 'L'
    if image.mode in ('LA', 'RGBA'):
        return image.mode
    return 'RGBA' if image.mode == 'PA' or 'transparency' in image.info else 'RGB'


def _find_png_depth(data: bytes, image: Image.Image) -> int:
    """Returns the bits per channel of a PNG, 0 for other formats."""
    return data[_PNG_BIT_DEPTH] if image.format == 'PNG' else 0


def _has_grey_alpha(data: bytes) -> bool:
    return data[_PNG_BIT_DEPTH + 1] == 4


def _load_png_of_16_bits(data: bytes, image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    """Decodes all 16 bits, of which Pillow keeps the upper 8 in all modes but grey.

    Returns:
      u16[H, W, C].
    """
    if image.mode.startswith('I'):
        return np.asarray(_load(data, image, name)).astype(np.uint16)[..., None]
    # Pillow unpacks the first or the second byte of each sample; of grey with opacity all four
    # bytes of a pixel as one of RGBA.
    has_grey_alpha = _has_grey_alpha(data)
    rawmodes = ('RGBA',) if has_grey_alpha else (f'{image.mode};16B', f'{image.mode};16L')
    parts = []
    for rawmode in rawmodes:
        image = _open(data, name, max_pixels, ('PNG',))
        # `Image.open` returns an ImageFile, which its stub does not say.
        tiles = image.tile  # pyright: ignore[reportAttributeAccessIssue]
        image.tile = [tile._replace(args=rawmode) for tile in tiles]  # pyright: ignore[reportAttributeAccessIssue]
        parts.append(np.asarray(_load(data, image, name, is_checked=not parts)))
    if has_grey_alpha:
        samples = parts[0].reshape(*parts[0].shape[:2], 2, 2)
        parts = [samples[..., 0], samples[..., 1]]
    values = np.empty((*parts[0].shape, 2), np.uint8)
    values[..., 0], values[..., 1] = parts[1], parts[0]
    return values.view('<u2')[..., 0].astype(np.uint16, copy=False)
