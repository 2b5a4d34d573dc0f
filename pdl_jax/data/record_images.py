"""Images inside records: u8, upright as their labels are, with the channels of the data set.

A file that is all that already keeps its bytes. Others are stored as PNG: pictures that their EXIF
orientation turns, values of more than 8 bits, TIFF, and channels that are dropped or repeated.
Numbers of channels that PNG does not have (2, 5 or more) are stored as grey planes one below the
other.
"""

from typing import NamedTuple

import numpy as np

from pdl_jax.data import images
from pdl_jax.data.pixel_format import PixelFormat

# Changes of images, as `prepare` counts them.
TURNED = 'turned'
TURNED_ON_TRUST = 'turned on trust'
NOT_TURNED = 'not turned'
SCALED = 'scaled'

# Numbers of channels that are stored in one picture.
_PICTURE_CHANNELS = (1, 3, 4)


class UnknownRangeError(ValueError):
    """An image has more than 8 bits per channel, and the value range of its data set is unknown."""


class RecordImage(NamedTuple):
    """An image as it is stored.

    Attributes:
      data: bytes of an image file.
      changes: what was done to it: any of the constants of this module.
    """

    data: bytes
    changes: tuple[str, ...] = ()


def encode_record_image(
    data: bytes, *, size: tuple[int, int], name: str, pixels: PixelFormat, has_range: bool = True
) -> RecordImage:
    """Makes the image of a record from an image file.

    A picture with an EXIF orientation is turned if the label then fits. If it fits either way, as
    for a square picture, it is turned too, since annotation tools show pictures upright.

    Args:
      data: the bytes of the file, which has been checked.
      size: (height, width) of the label in pixels.
      name: name of the file, for error messages.
      pixels: the format of the data set.
      has_range: whether the value range of `pixels` is decided.

    Raises:
      ValueError: the file has another number of channels, or fits the label neither way.
      UnknownRangeError: the file has more than 8 bits per channel, and `has_range` is false.
    """
    header = images.read_header(data, name=name)
    changes = []
    is_turned = False
    if header.orientation != 1:
        is_turned = header.upright_size == size
        is_ambiguous = is_turned and header.size == size
        changes = [TURNED_ON_TRUST if is_ambiguous else TURNED if is_turned else NOT_TURNED]
    is_kept = (
        not changes
        and not header.is_deep
        and not header.is_tiff
        and pixels.num_channels in _PICTURE_CHANNELS
        # Three channels are made from any, at every reading.
        and pixels.num_channels in (3, header.num_channels)
    )
    if is_kept:
        return RecordImage(data)
    values = images.decode_values(
        data, name=name, num_channels=pixels.num_channels, is_checked=False
    )
    if is_turned:
        values = images.turn_upright(values, header.orientation)
    if values.dtype != np.uint8:
        if not has_range:
            raise UnknownRangeError(f'{name} has values of more than 8 bits')
        changes.append(SCALED)
    return RecordImage(_encode(pixels.scale(values)), tuple(changes))


def decode_record_image(data: bytes, *, name: str, num_channels: int) -> np.ndarray:
    """Decodes the image of a record.

    Args:
      data: the bytes, from `encode_record_image`.
      name: name of the file, for error messages.
      num_channels: the number of channels of the data set.

    Returns:
      u8[H, W, num_channels].

    Raises:
      ValueError: the bytes are damaged.
    """
    if num_channels in _PICTURE_CHANNELS:
        pixels = PixelFormat(num_channels)
        return images.decode_image(data, name=name, pixels=pixels, is_checked=False)
    planes = images.decode_image(
        data,
        name=name,
        max_pixels=images.MAX_PIXELS * num_channels,
        pixels=PixelFormat(1),
        is_checked=False,
    )
    height, rest = divmod(planes.shape[0], num_channels)
    if rest:
        raise ValueError(f'{name}: {planes.shape[0]} rows do not hold {num_channels} planes')
    return np.moveaxis(planes.reshape(num_channels, height, -1), 0, -1)


def _encode(image: np.ndarray) -> bytes:
    """Encodes u8[H, W, C] losslessly."""
    if image.shape[2] in _PICTURE_CHANNELS:
        return images.encode_image(image)
    planes = np.moveaxis(image, -1, 0).reshape(-1, image.shape[1], 1)
    return images.encode_image(np.ascontiguousarray(planes))
