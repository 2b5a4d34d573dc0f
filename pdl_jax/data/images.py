"""Decoding images, id maps and index maps from untrusted bytes, and encoding, with Pillow."""

import io

import numpy as np
from PIL import Image, ImageOps

# 8192 x 8192: far above street scenes and photographs, far below the memory of a host.
MAX_PIXELS = 2**26
MAX_IDS = 2**24

_IMAGE_FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
# Offset of the bits per sample in a PNG, whose header chunk always comes first.
_PNG_BIT_DEPTH = 24


def decode_image(
    data: bytes, *, name: str, max_pixels: int = MAX_PIXELS, is_exif_applied: bool = False
) -> np.ndarray:
    """Decodes a JPEG, PNG, BMP or WebP file of any mode to RGB.

    Grey and palette images become RGB, alpha is dropped, 16-bit grey keeps its upper 8 bits.

    Args:
      data: the bytes of the file.
      name: name of the file, for error messages.
      max_pixels: larger images are refused before their pixels are decoded.
      is_exif_applied: whether the image is rotated by its EXIF orientation. Annotations are drawn
        on the pixels as stored, so images with labels must not be rotated.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: the bytes are not such an image, are damaged, or exceed `max_pixels`.
    """
    image = _open(data, name, max_pixels, _IMAGE_FORMATS)
    image = _load(image, name, is_exif_applied)
    if image.mode.startswith('I'):
        # 16-bit grey, which Pillow would clip to 255 instead of scaling.
        grey = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode != 'RGB':
        image = image.convert('RGB')
    return np.asarray(image)


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
    ids = np.frombuffer(_load(image, name).tobytes('raw', packing), '<i4') & (MAX_IDS - 1)
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
    return np.asarray(_load(image, name)).astype(np.int32)


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
    """Encodes u8[H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    return buffer.getvalue()


def _open(data: bytes, name: str, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    # Only the header is parsed here. The list of formats keeps untrusted bytes away from Pillow's
    # rarer parsers.
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise ValueError(f'{name}: {error}; the limit is {max_pixels} pixels') from error
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's own message shows the address of a buffer, not the file.
        raise ValueError(
            f'{name}: not a readable {"/".join(formats)} image ({len(data)} bytes)'
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f'{name}: {height}x{width} pixels exceed the limit of {max_pixels}: '
            f'shrink or tile the image'
        )
    return image


def _load(image: Image.Image, name: str, is_exif_applied: bool = False) -> Image.Image:
    # Pillow raises OSError, SyntaxError, ValueError, EOFError or struct.error for damaged files.
    try:
        image.load()
        return ImageOps.exif_transpose(image) if is_exif_applied else image
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f'{name}: damaged or truncated image: {error}') from error
