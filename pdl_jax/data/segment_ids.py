"""Maps of segment ids in the COCO panoptic format, also where they are not saved as it asks.

The format wants an 8-bit RGB PNG, id = R + 256 G + 65536 B. Programs also write grey, palette and
16-bit PNGs, and optimisers turn colours into palettes. Which one it is follows from the ids that
the JSON lists; a file that could mean two things is refused.
"""

from collections.abc import Collection

import numpy as np

from pdl_jax.data import images

# Offset of the bits per sample in a PNG, whose header chunk always comes first.
_PNG_BIT_DEPTH = 24
_GREY = 1 + 256 + 65536
# One pixel in so many is looked at first.
_STRIDE = 97


def decode_segment_ids(
    data: bytes, *, known: Collection[int], name: str
) -> tuple[np.ndarray, str | None]:
    """Decodes a PNG of segment ids.

    Args:
      data: the bytes of the file.
      known: the ids that the JSON lists for the image; 0 is always known.
      name: name of the file, for error messages.

    Returns:
      The ids, i32[H, W], some of which may be unknown; and wording for a remark behind
      the word PNGs, None for a PNG as the format wants it.

    Raises:
      ValueError: the file is damaged, no such PNG, or could mean two things.
    """
    values, colors = _decode_pixels(data, name)
    if colors is not None and values is None:
        return colors, None
    readings = {'value': values, 'colour': colors}
    fitting = {
        kind: ids
        for kind, ids in readings.items()
        if ids is not None and _list_present(ids) <= {0, *known}
    }
    if len(fitting) == 2 and not np.array_equal(fitting['value'], fitting['colour']):
        raise ValueError(
            f'{name} has a palette or equal channels, and both its values and its colours are ids '
            f'that the JSON lists: save it as an 8-bit RGB PNG, id = R + 256 G + 65536 B'
        )
    if 'colour' in fitting or (colors is not None and not fitting):
        assert colors is not None
        return colors, None
    assert values is not None
    return values, 'of ids are grey or have a palette: the value of a pixel is its id'


def _decode_pixels(data: bytes, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns values and colours, i32[H, W]; None for what the file does not have."""
    image = images.load_png(data, name=name)
    bits = data[_PNG_BIT_DEPTH]
    mode = image.mode
    if mode in ('RGB', 'RGBA') and bits == 8:
        colors = images.decode_ids(data, name=name)
        is_grey = _is_grey(colors.ravel()[::_STRIDE]) and _is_grey(colors)
        return (colors & 255 if is_grey else None), colors
    if mode not in ('1', 'L', 'LA', 'P', 'I', 'I;16'):
        raise ValueError(
            f'{name}: ids must be an 8-bit RGB PNG (id = R + 256 G + 65536 B), got mode {mode!r} '
            f'with {bits} bits: convert the annotation to the COCO panoptic format'
        )
    # Transparency would turn into an alpha channel.
    image.info.pop('transparency', None)
    values = np.asarray(image.getchannel(0) if mode == 'LA' else image).astype(np.int32)
    if mode == 'L' and bits < 8:
        # Pillow stretches grey values of few bits to 0 .. 255.
        values //= 255 // (2**bits - 1)
    colors = None
    if mode == 'P':
        rgb = np.asarray(image.convert('RGB')).astype(np.int32)
        colors = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    elif bits == 8:
        # An optimiser may have joined three equal channels to one.
        colors = values * _GREY
    return values, colors


def _is_grey(colors: np.ndarray) -> bool:
    return bool((colors == (colors & 255) * _GREY).all())


def _list_present(ids: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.bincount(ids.ravel())).tolist())
