"""A page on which the pointer reads the segments of an image: one file that needs no network."""

import base64
import html
import importlib.resources
import io
import json
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pdl_jax.systems.drawing.colors import color_labels, index_labels
from pdl_jax.systems.drawing.overlay import check_image, is_background
from pdl_jax.typing import LabelFormat

# Larger pictures are shrunk, so that pages stay small and browsers quick.
_MAX_SIDE_PX = 2048
# Images of more pixels are JPEGs, smaller ones PNGs without loss.
_MAX_PNG_PIXELS = 2**18
_JPEG_QUALITY = 90


class PageSegment(NamedTuple):
    """A segment as the page tells of it.

    Attributes:
      label: value in the panoptic map.
      name: name of the class.
      score: confidence in [0, 1].
      area_px: number of pixels.
    """

    label: int
    name: str
    score: float
    area_px: int


def make_page(
    image: np.ndarray,
    panoptic: np.ndarray,
    label_format: LabelFormat,
    *,
    segments: Sequence[PageSegment],
    colors: np.ndarray,
    title: str,
    alpha: float = 0.5,
    layers: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Makes an HTML page of an image and its segments.

    Args:
      image: u8[H, W, 3].
      panoptic: i32[H, W].
      label_format: the coding of classes and instances.
      segments: those that the page lists and reads; all others are void to it.
      colors: u8[N, 3], by semantic value.
      title: text at the top.
      alpha: share of the colour in the mix at first, in [0, 1].
      layers: u8[h, w, 3] of the same aspect by name: pictures that a switch shows in the place of
        the image, such as the heat of centres.

    Returns:
      The page. Segments smaller than a pixel of a shrunk picture are in its list alone.

    Raises:
      ValueError: the image is not u8[H, W, 3] of the size of `panoptic`.
    """
    check_image(image, panoptic)
    labels, index, _ = index_labels(panoptic)
    table = color_labels(labels, index, label_format, colors).colors
    row_of_label = {label: row for row, label in enumerate(labels.tolist())}
    ids_of_rows = np.zeros(len(labels), np.int64)
    described, things = [], label_format.thing_classes
    for i, segment in enumerate(segments, 1):
        row = row_of_label.get(segment.label)
        semantic = segment.label // label_format.label_divisor
        if row is not None:
            ids_of_rows[row] = i
        described.append(
            {
                'name': segment.name,
                'score': round(segment.score, 4),
                'area': segment.area_px,
                'color': [0, 0, 0] if row is None else table[row].tolist(),
                'thing': semantic in things,
                # Such stuff would hide the image.
                'plain': semantic not in things and is_background(segment.name),
            }
        )
    image, index = _shrink(image, index)
    height, width = index.shape
    data = {'width': width, 'height': height, 'segments': described}
    data['runs'] = base64.b64encode(encode_runs(ids_of_rows[index])).decode()
    data['layers'] = [
        {'name': name, 'picture': _encode_image(picture)}
        for name, picture in (layers or {}).items()
    ]
    template = (
        importlib.resources.files('pdl_jax.systems.drawing')
        .joinpath('page.html')
        .read_text('utf-8')
    )
    return string.Template(template).substitute(
        title=html.escape(title),
        alpha=round(100 * alpha),
        image=_encode_image(image),
        # Names of classes may hold anything, also tags.
        data=json.dumps(data).replace('<', '\\u003c'),
    )


def encode_runs(ids: np.ndarray) -> bytes:
    """Encodes a map as pairs of (value, length) of its runs in the order of its rows.

    Args:
      ids: i64[H, W], not negative.

    Returns:
      Every number as bytes of seven bits, the lowest first; all bytes but its last have bit 128.
    """
    flat = ids.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    numbers = np.stack([flat[starts], lengths], axis=1).ravel()
    digits = numbers[:, None] >> np.arange(0, 35, 7)
    # A digit is written if it or a higher one is not zero; the first always is.
    is_written = digits > 0
    is_written[:, 0] = True
    is_last = ~np.concatenate([is_written[:, 1:], np.zeros((len(digits), 1), bool)], axis=1)
    encoded = (digits & 127) | np.where(is_last, 0, 128)
    return encoded[is_written].astype(np.uint8).tobytes()


def _shrink(image: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = index.shape
    factor = _MAX_SIDE_PX / max(height, width)
    if factor >= 1:
        return image, index
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    labels = Image.fromarray(index).resize(size, Image.Resampling.NEAREST)
    return np.asarray(small), np.asarray(labels)


def _encode_image(image: np.ndarray) -> str:
    """Encodes u8[H, W, 3] as a data URI."""
    buffer = io.BytesIO()
    if image.shape[0] * image.shape[1] <= _MAX_PNG_PIXELS:
        kind = 'png'
        Image.fromarray(image).save(buffer, format='PNG')
    else:
        kind = 'jpeg'
        Image.fromarray(image).save(buffer, format='JPEG', quality=_JPEG_QUALITY)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'
