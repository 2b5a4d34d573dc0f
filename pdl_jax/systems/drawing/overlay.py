"""Panoptic maps laid over their images, with outlines and names."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pdl_jax.systems.drawing.borders import find_borders
from pdl_jax.systems.drawing.captions import (
    MIN_FONT_PX,
    Caption,
    Plate,
    place_captions,
    swatch_width,
)
from pdl_jax.systems.drawing.colors import LabelColors, color_labels, index_labels, paint
from pdl_jax.systems.drawing.fonts import load_font, short_name
from pdl_jax.typing import LabelFormat

# Segments below this share of the picture get no name.
_MIN_NAMED_SHARE = 0.0003
# Rows that are painted at a time, so that large pictures need little memory.
_STRIP_ROWS = 64
_MAX_OUTLINE_PX = 6
# More objects of the only class of things are named by their scores alone.
_MANY = 8


def overlay_panoptic(
    image: np.ndarray,
    panoptic: np.ndarray,
    label_format: LabelFormat,
    *,
    class_names: Sequence[str],
    colors: np.ndarray,
    alpha: float = 0.5,
    scores: Mapping[int, float] | None = None,
    min_side_px: int = 0,
) -> np.ndarray:
    """Lays the segments over an image, outlined and named.

    Stuff that is called background, as in microscopy, is neither coloured nor named.

    Args:
      image: u8[H, W, 3].
      panoptic: i32[H, W].
      label_format: the coding of classes and instances.
      class_names: by semantic class; empty to write no names.
      colors: u8[N, 3], by semantic value.
      alpha: share of the colour in the mix, in [0, 1]; void shows the image unchanged.
      scores: confidence in [0, 1] by label, written after the names of single objects.
      min_side_px: pictures are enlarged by the whole factor that brings their longer side closest
        to this, if it is above 1, so that names can be read; 0 keeps their size.

    Returns:
      u8[k H, k W, 3], k being that factor.

    Raises:
      ValueError: the image is not u8[H, W, 3] of the size of `panoptic`.
    """
    check_image(image, panoptic)
    factor = _find_factor(panoptic.shape, min_side_px)
    image = enlarge_image(image, min_side_px)
    panoptic = panoptic.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else panoptic
    labels, index, areas = index_labels(panoptic)
    label_colors = color_labels(labels, index, label_format, colors)
    is_plain = _find_plain(labels, label_format, class_names)
    picture = _mix(image, index, label_colors, np.where(is_plain, 0, round(256 * alpha)))
    captions = _list_captions(labels, areas, is_plain, label_format, class_names, scores or {})
    # Names of the same relative size in every picture, as far as they can be read.
    font_px = max(MIN_FONT_PX, round(min(index.shape) / 36))
    for plate in place_captions(index, captions, font_px):
        _write(picture, plate, label_colors.colors[plate.row])
    return picture


def check_image(image: np.ndarray, panoptic: np.ndarray) -> None:
    """Checks that an image fits its panoptic map.

    Raises:
      ValueError: the image is not u8[H, W, 3] of the size of `panoptic`.
    """
    if image.dtype != np.uint8 or image.shape != (*panoptic.shape, 3):
        raise ValueError(
            f'image must be uint8 of shape {(*panoptic.shape, 3)} to lie under its panoptic map, '
            f'not {image.dtype}{image.shape}'
        )


def enlarge_image(image: np.ndarray, min_side_px: int) -> np.ndarray:
    """Enlarges a small image as `overlay_panoptic` does; u8[H, W, 3] to u8[k H, k W, 3]."""
    factor = _find_factor(image.shape, min_side_px)
    if factor == 1:
        return image
    return resize_image(image, (factor * image.shape[0], factor * image.shape[1]))


def resize_image(image: np.ndarray, size: tuple[int, ...], *, is_smooth: bool = True) -> np.ndarray:
    """Resizes u8[H, W, 3] or u8[H, W] to (height, width); labels must not be smooth."""
    if image.shape[:2] == size:
        return image
    resampling = Image.Resampling.BICUBIC if is_smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resampling))


def _find_factor(shape: tuple[int, ...], min_side_px: int) -> int:
    return max(1, round(min_side_px / max(shape[:2])))


def is_background(name: str) -> bool:
    """Returns whether stuff of this name is what is left besides the objects."""
    return name.strip('_ ').lower() == 'background'


def _find_plain(
    labels: np.ndarray, label_format: LabelFormat, class_names: Sequence[str]
) -> np.ndarray:
    """Returns bool[S], true for void and background."""
    semantic = labels // label_format.label_divisor
    plain = [label_format.ignore_label]
    for i, name in enumerate(class_names):
        if i not in label_format.thing_classes and is_background(name):
            plain.append(i)
    return np.isin(semantic, plain)


def _mix(
    image: np.ndarray, index: np.ndarray, label_colors: LabelColors, shares: np.ndarray
) -> np.ndarray:
    """Mixes an image with the colours of its segments and outlines them.

    Args:
      image: u8[H, W, 3].
      index: i32[H, W], the segment of each pixel.
      label_colors: the colours of the segments.
      shares: i64[S], share of its colour per segment, of 256.

    Returns:
      u8[H, W, 3].
    """
    picture = np.empty(image.shape, np.uint8)
    outline_px = int(np.clip(round(min(index.shape) / 400), 1, _MAX_OUTLINE_PX))
    for top in range(0, len(index), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        strip = index[rows]
        share = np.take(shares.astype(np.uint16), strip)[..., None]
        # In place, since the time goes into memory.
        mixed = image[rows] * (256 - share)
        mixed += paint(strip, label_colors, top) * share
        mixed >>= 8
        mixed = mixed.astype(np.uint8)
        # The rows below decide on the last borders of the strip.
        border = find_borders(index[top : top + _STRIP_ROWS + outline_px], outline_px)
        border = border[: len(strip)]
        # Three quarters of the way to white: visible on dark and bright segments, yet not harsh.
        mixed[border] = 255 - (255 - mixed[border]) // 4
        picture[rows] = mixed
    return picture


def _list_captions(
    labels: np.ndarray,
    areas: np.ndarray,
    is_plain: np.ndarray,
    label_format: LabelFormat,
    class_names: Sequence[str],
    scores: Mapping[int, float],
) -> list[Caption]:
    """Lists the texts of segments: things before stuff, which finds room elsewhere; by area."""
    things, stuff = [], []
    # The score alone tells more than the name of the only class, again and again.
    is_only = len(label_format.thing_classes) == 1
    is_name_plain = is_only and np.sum(labels % label_format.label_divisor > 0) > _MANY
    for i in np.argsort(-areas, kind='stable'):
        semantic, instance = divmod(int(labels[i]), label_format.label_divisor)
        if areas[i] < _MIN_NAMED_SHARE * areas.sum():
            break
        if is_plain[i] or semantic >= len(class_names):
            continue
        name = short_name(class_names, semantic)
        if semantic not in label_format.thing_classes:
            stuff.append(Caption(int(i), (name,), may_stand_beside=False))
        elif instance == 0:
            things.append(Caption(int(i), (f'{name} (crowd)',), may_stand_beside=False))
        else:
            texts = (name,)
            if int(labels[i]) in scores:
                score = f'{scores[int(labels[i])]:.0%}'
                texts = (f'{name} {score}', score if is_only else name)
                texts = (score,) if is_name_plain else texts
            things.append(Caption(int(i), texts, may_stand_beside=True))
    return things + stuff


def _write(picture: np.ndarray, plate: Plate, color: np.ndarray) -> None:
    """Writes a text, white on a dark plate with a strip of its segment's colour.

    Args:
      picture: u8[H, W, 3]; changed in place.
      plate: the text and its place.
      color: u8[3], RGB.
    """
    y0, x0, y1, x1 = plate.box
    strip_px = swatch_width(plate.font_px)
    # A dark plate makes white letters readable on everything.
    canvas = Image.fromarray(picture[y0:y1, x0:x1] // 4)
    draw = ImageDraw.Draw(canvas)
    font = load_font(plate.font_px)
    left, _, right, _ = font.getbbox(plate.text)
    x = strip_px + (x1 - x0 - strip_px - (right - left)) // 2 - left
    draw.text((x, (y1 - y0) / 2), plate.text, 'white', font, anchor='lm')
    draw.rectangle((0, 0, strip_px - 1, y1 - y0), fill=tuple(map(int, color)))
    picture[y0:y1, x0:x1] = np.asarray(canvas)
