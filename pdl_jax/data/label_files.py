"""Label files of all kinds: class indices, object numbers, binary masks, colours.

They come as PNG, TIFF or .npy from untrusted hands: nothing in them is unpickled, and sizes are
checked before pixels are decoded.
"""

import io
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pdl_jax.data import images, tiff_images

SUFFIXES = ('.png', *tiff_images.SUFFIXES, '.npy')
# The highest class index that maps of 16 bits hold.
MAX_INDEX = 2**16 - 1
# Offsets in the header chunk of a PNG, which always comes first, and the types with three channels.
_PNG_BIT_DEPTH, _PNG_COLOR_TYPE, _PNG_HEADER_BYTES = 24, 25, 33
_PNG_COLORS = (2, 6)
# Photometric interpretations with three values per pixel: RGB, and palettes, which become RGB.
_TIFF_COLORS = (2, 3)
# Numbers above are sorted instead of counted.
_MAX_TABLE = 2**22


class Pixels(NamedTuple):
    """Values of a label file.

    Attributes:
      values: integer, bool or float [H, W]: numbers, grey values or indices of a palette; None
        where a file in colours has other colours than grey.
      colors: i32[H, W], R + 256 G + 65536 B, of a file in colours, with a palette or of 8-bit grey.
      is_colored: whether the file is in colours.
    """

    values: np.ndarray | None
    colors: np.ndarray | None
    is_colored: bool = False


def decode_pixels(data: bytes, *, name: str, max_pixels: int = images.MAX_PIXELS) -> Pixels:
    """Decodes a label file of any kind.

    Args:
      data: the bytes of the file.
      name: name of the file; its ending tells .npy and TIFF from PNG.
      max_pixels: larger files are refused before their pixels are decoded.

    Raises:
      ValueError: the file is damaged, of another kind, has several pages or channels that are no
        colours, or exceeds `max_pixels`.
    """
    if name.lower().endswith('.npy'):
        return _as_pixels(_decode_npy(data, name, max_pixels), name)
    if name.lower().endswith(tiff_images.SUFFIXES):
        values, header = tiff_images.decode_tiff(data, name=name, max_pixels=max_pixels)
        num_values = values.shape[2] - header.has_alpha
        if num_values > 1 and header.photometric not in _TIFF_COLORS:
            raise ValueError(
                f'{name} has {num_values} pages or channels: save each map as a file of its own'
            )
        return _as_pixels(values, name)
    image = images.load_png(data, name=name, max_pixels=max_pixels)
    bits, mode = data[_PNG_BIT_DEPTH], image.mode
    if mode == 'P':
        # Transparency would turn into an alpha channel.
        image.info.pop('transparency', None)
        return Pixels(np.asarray(image), _pack_colors(np.asarray(image.convert('RGB'))))
    if mode in ('RGB', 'RGBA') and bits > 8:
        raise ValueError(
            f'{name}: a colour PNG of {bits} bits per channel is no label: save numbers as one '
            f'grey channel of 8 or 16 bits'
        )
    array = np.asarray(image)
    if mode == 'L' and bits < 8:
        # Pillow stretches grey values of few bits to 0 .. 255.
        array = array // (255 // (2**bits - 1))
    return _as_pixels(array, name)


def decode_objects(
    data: bytes, *, name: str, max_pixels: int = images.MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a map of object numbers.

    A file in colours counts each colour but black as one object, with R + 256 G + 65536 B as its
    number.

    Args:
      data: the bytes of the file.
      name: name of the file.
      max_pixels: see `decode_pixels`.

    Returns:
      i32[H, W], objects 1 .. N in the order of their numbers, 0 where there is none; and
      integer[N], their numbers in the file.

    Raises:
      ValueError: see `decode_pixels`; or a number is negative or no integer.
    """
    pixels = decode_pixels(data, name=name, max_pixels=max_pixels)
    values = _as_integers(_get_values(pixels), name)
    if int(values.max()) < _MAX_TABLE:
        present = np.bincount(values.ravel().astype(np.int32), minlength=1) > 0
        present[0] = False
        table = np.where(present, np.cumsum(present), 0).astype(np.int32)
        return table[values], np.flatnonzero(present)
    found, numbers = np.unique(values, return_inverse=True)
    has_none = int(found[0] == 0)
    numbers = numbers.reshape(values.shape) + (1 - has_none)
    return numbers.astype(np.int32), found[has_none:]


def may_have_many_objects(data: bytes, *, name: str) -> bool:
    """Returns whether a map of object numbers may hold over 255, by the head of the file."""
    if not name.lower().endswith('.png') or len(data) < _PNG_HEADER_BYTES:
        return True
    return data[_PNG_BIT_DEPTH] > 8 or data[_PNG_COLOR_TYPE] in _PNG_COLORS


def decode_mask(data: bytes, *, name: str, max_pixels: int = images.MAX_PIXELS) -> np.ndarray:
    """Decodes a binary mask: zero outside and one other value inside, such as 1 or 255.

    Args:
      data: the bytes of the file.
      name: name of the file.
      max_pixels: see `decode_pixels`.

    Returns:
      bool[H, W].

    Raises:
      ValueError: see `decode_pixels`; or there are more values than two.
    """
    values = _get_values(decode_pixels(data, name=name, max_pixels=max_pixels))
    mask = values != 0
    inside = values[mask]
    if inside.size and (inside != inside[0]).any():
        found = np.unique(inside)
        raise ValueError(
            f'{name} is no binary mask: besides 0 it holds {len(found)} values, '
            f'{", ".join(map(str, found[:3].tolist()))}...: save it with two values, 0 outside and '
            f'255 inside, in a format without loss'
        )
    return mask


def decode_class_map(
    data: bytes,
    *,
    name: str,
    index_of_color: Mapping[tuple[int, int, int], int],
    prefers_colors: bool = False,
    max_pixels: int = images.MAX_PIXELS,
) -> np.ndarray:
    """Decodes a map of class indices, or of colours that stand for them.

    Args:
      data: the bytes of the file.
      name: name of the file.
      index_of_color: (r, g, b) -> index; counts for files in colours.
      prefers_colors: whether the colours of palettes and the grey values count as well, provided
        that all of them are known.
      max_pixels: see `decode_pixels`.

    Returns:
      i32[H, W].

    Raises:
      ValueError: see `decode_pixels`; or a colour is unknown.
    """
    values, colors, is_colored = decode_pixels(data, name=name, max_pixels=max_pixels)
    if colors is not None and index_of_color and (is_colored or prefers_colors):
        indices = _look_up_colors(colors, index_of_color)
        is_wrong = indices < 0
        if not is_wrong.any():
            return indices
        if is_colored:
            y, x = np.argwhere(is_wrong)[0]
            color = int(colors[y, x])
            raise ValueError(
                f'{name} holds the colour ({color & 255}, {color >> 8 & 255}, {color >> 16}) '
                f'(first at y={y}, x={x}, {int(is_wrong.sum())} pixels of unlisted colours in '
                f'all): add it to the list of classes, or save the label without smoothing and in '
                f'a format without loss'
            )
    if values is None:
        raise ValueError(
            f'{name} holds colours, and the list of classes gives none: list them as name,r,g,b in '
            f'a .csv, as name:r,g,b:: in labelmap.txt, or as "color" in a .json'
        )
    values = _as_integers(values, name)
    if values.dtype.itemsize > 2:
        values = np.minimum(values, MAX_INDEX + 1)
    return values.astype(np.int32)


def _look_up_colors(
    colors: np.ndarray, index_of_color: Mapping[tuple[int, int, int], int]
) -> np.ndarray:
    """Returns the index of each colour, i32[H, W], -1 where it is unknown."""
    known = {r + 256 * g + 65536 * b: index for (r, g, b), index in index_of_color.items()}
    codes = np.array(sorted(known), np.int32)
    row = np.minimum(np.searchsorted(codes, colors), len(codes) - 1)
    indices = np.array([known[code] for code in codes.tolist()], np.int32)
    return np.where(codes[row] == colors, indices[row], -1)


def _get_values(pixels: Pixels) -> np.ndarray:
    """Returns the values, or else the colours, as numbers."""
    values = pixels.colors if pixels.values is None else pixels.values
    if values is None:
        raise TypeError('a label file has values or colours')
    return values


def _as_pixels(array: np.ndarray, name: str) -> Pixels:
    """Sorts an array by its channels; alpha is dropped."""
    if array.ndim == 3 and array.shape[2] <= 2:
        array = array[..., 0]
    if array.ndim == 2:
        is_grey = array.dtype == np.uint8
        return Pixels(array, array.astype(np.int32) * 0x010101 if is_grey else None)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(
            f'{name} has {array.dtype} values in the shape {"x".join(map(str, array.shape))}: a '
            f'label has one value per pixel, or an 8-bit colour; save each map as a file of its own'
        )
    rgb = array[..., :3]
    is_grey = bool((rgb == rgb[..., :1]).all())
    return Pixels(rgb[..., 0] if is_grey else None, _pack_colors(rgb), is_colored=True)


def _pack_colors(rgb: np.ndarray) -> np.ndarray:
    channels = rgb.astype(np.int32)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def _as_integers(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == 'b':
        return values.astype(np.uint8)
    if values.dtype.kind == 'f':
        with np.errstate(invalid='ignore'):
            is_whole = (np.abs(values) < 2**31) & (values == np.floor(values))
        if not is_whole.all():
            y, x = np.argwhere(~is_whole)[0]
            raise ValueError(
                f'{name} holds {values[y, x]} (first at y={y}, x={x}), which is no number of an '
                f'object or a class: save it as integers'
            )
        values = values.astype(np.int64)
    if values.dtype.kind == 'i' and values.min() < 0:
        y, x = np.argwhere(values < 0)[0]
        raise ValueError(
            f'{name} holds {values[y, x]} (first at y={y}, x={x}): numbers must not be negative; 0 '
            f'is no object'
        )
    return values


def _decode_npy(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """Decodes a NumPy file without unpickling."""
    stream = io.BytesIO(data)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        shape, is_fortran, dtype = readers[version](stream)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f'{name}: not a readable .npy file: {error!r:.200}') from error
    if dtype.kind not in 'biuf' or dtype.itemsize > 8:
        raise ValueError(
            f'{name} holds {str(dtype):.60} values, no numbers; Python objects could run code when '
            f'they are read: save the map of numbers alone, with numpy.save or as TIFF or PNG'
        )
    num_values = math.prod(shape)
    if not 0 < num_values <= 4 * max_pixels:
        raise ValueError(
            f'{name}: the shape {"x".join(map(str, shape))} is empty or exceeds the limit of '
            f'{max_pixels} pixels: cut the image into tiles'
        )
    stored = len(data) - stream.tell()
    if stored < num_values * dtype.itemsize:
        raise ValueError(
            f'{name}: cut off, it has {stored} of {num_values * dtype.itemsize} bytes of values'
        )
    array = np.frombuffer(data, dtype, num_values, stream.tell())
    array = array.reshape(shape, order='F' if is_fortran else 'C')
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    return array
