"""Panoptic maps laid over their images, with outlines and names."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pdl_jax.systems.drawing.colors import color_panoptic, index_labels
from pdl_jax.systems.drawing.fonts import load_font
from pdl_jax.typing import LabelFormat

# Segments below this share of the picture get no name: it would cover them.
_MIN_NAMED_SHARE = 0.001
# Names are wider than high, so a pixel of room above or below counts as so many beside.
_VERTICAL_COST = 2.5
# A name may move aside for others until it has less than this part of the room at its best place.
_MIN_ROOM_SHARE = 0.4


def overlay_panoptic(
    image: np.ndarray,
    panoptic: np.ndarray,
    label_format: LabelFormat,
    *,
    class_names: Sequence[str],
    colors: np.ndarray,
    alpha: float = 0.5,
    scores: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Lays the segments over an image, outlined and named.

    Args:
      image: u8[H, W, 3].
      panoptic: i32[H, W].
      label_format: the coding of classes and instances.
      class_names: by semantic class.
      colors: u8[N, 3], by semantic value.
      alpha: share of the colour in the mix, in [0, 1]; void shows the image unchanged.
      scores: confidence in [0, 1] by label, written after the names of single objects.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: the image is not u8[H, W, 3] of the size of `panoptic`.
    """
    if image.dtype != np.uint8 or image.shape != (*panoptic.shape, 3):
        raise ValueError(
            f'image must be uint8 of shape {(*panoptic.shape, 3)} to lie under its panoptic map, '
            f'not {image.dtype}{image.shape}'
        )
    labels, index, areas = index_labels(panoptic)
    color = color_panoptic(panoptic, label_format, colors)
    is_void = labels // label_format.label_divisor == label_format.ignore_label
    share = np.where(is_void, 0, round(256 * alpha)).astype(np.uint16)[index][..., None]
    picture = ((image * (256 - share) + color * share) >> 8).astype(np.uint8)
    border = _find_borders(index, max(1, round(min(image.shape[:2]) / 400)))
    # Three quarters of the way to white: visible on dark and bright segments, yet not harsh.
    picture[border] = 255 - (255 - picture[border]) // 4
    captions = _list_captions(labels, areas, label_format, class_names, scores or {})
    return _write_names(picture, captions, index, areas, _measure_room(border))


def _list_captions(
    labels: np.ndarray,
    areas: np.ndarray,
    label_format: LabelFormat,
    class_names: Sequence[str],
    scores: Mapping[int, float],
) -> list[tuple[int, str]]:
    """Returns (index of the segment, text) of the segments to name, the largest first."""
    captions = []
    for i in np.argsort(-areas, kind='stable'):
        semantic, instance = divmod(int(labels[i]), label_format.label_divisor)
        if areas[i] < _MIN_NAMED_SHARE * areas.sum():
            break
        if semantic == label_format.ignore_label or semantic >= len(class_names):
            continue
        # COCO marks its merged stuff classes by suffixes, which only take room here.
        text = class_names[semantic].replace('-merged', '').replace('-other', '')
        if semantic in label_format.thing_classes:
            if instance == 0:
                text = f'{text} (crowd)'
            elif int(labels[i]) in scores:
                text = f'{text} {scores[int(labels[i])]:.0%}'
        captions.append((int(i), text))
    return captions


def _find_borders(index: np.ndarray, width: int) -> np.ndarray:
    """Returns bool[H, W], true on a line of `width` pixels along every change of segment."""
    border = np.zeros(index.shape, bool)
    for shift in range(1, width + 1):
        border[:-shift] |= index[:-shift] != index[shift:]
        border[:, :-shift] |= index[:, :-shift] != index[:, shift:]
    return border


def _measure_room(border: np.ndarray) -> np.ndarray:
    """Measures the distance to the nearest border or edge; vertical steps cost more.

    Args:
      border: bool[H, W].

    Returns:
      f32[H, W], in horizontal pixels.
    """
    room = np.where(border, np.float32(0), np.float32(1e6))
    for cost in (1.0, _VERTICAL_COST):
        ramp = cost * np.arange(1, room.shape[1] + 1, dtype=np.float32)
        # The edges of the picture are borders too.
        room = np.minimum(room, np.minimum(ramp, ramp[::-1]))
        for _ in range(2):
            # min over j <= i of room[j] + cost (i - j), as a running minimum; then mirrored.
            room = np.minimum.accumulate(room - ramp, axis=1) + ramp
            room = room[:, ::-1]
        room = room.T
    return room


def _write_names(
    picture: np.ndarray,
    captions: Sequence[tuple[int, str]],
    index: np.ndarray,
    areas: np.ndarray,
    room: np.ndarray,
) -> np.ndarray:
    """Writes names into their segments in order, and omits those that find no room.

    Args:
      picture: u8[H, W, 3]; changed in place.
      captions: (index of the segment, text) pairs.
      index: i32[H, W], the segment of each pixel.
      areas: i64[S], in pixels.
      room: f32[H, W], see `_measure_room`.

    Returns:
      u8[H, W, 3].
    """
    height, width = index.shape
    font_px = np.clip(min(height, width) / 32, 10, 40)
    texts = []
    is_taken = np.zeros(index.shape, bool)
    for row, text in captions:
        # Small segments get a smaller name, but never an unreadable one.
        scale = np.clip(np.sqrt(areas[row] / index.size) * 6, 0.75, 1)
        font = load_font(round(max(10, font_px * scale)))
        left, top, right, bottom = font.getbbox(text, anchor='mm')
        half_height, half_width = int(bottom - top) // 2 + 3, int(right - left) // 2 + 4
        if 2 * half_height >= height or 2 * half_width >= width:
            continue
        center = _find_center(
            np.where(index == row, room, 0), [box for box, *_ in texts], half_height, half_width
        )
        if center is None:
            continue
        y, x = center
        box = np.s_[y - half_height : y + half_height, x - half_width : x + half_width]
        # Clipping to the picture may have moved it onto another name.
        if is_taken[box].any():
            continue
        is_taken[box] = True
        texts.append((box, (x - (left + right) // 2, y - (top + bottom) // 2), text, font))
    # Dark plates make white letters readable on everything.
    picture[is_taken] //= 3
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for _, position, text, font in texts:
        draw.text(position, text, font=font, fill='white', anchor='mm')
    return np.asarray(canvas)


def _find_center(
    room: np.ndarray, boxes: Sequence[tuple[slice, slice]], half_height: int, half_width: int
) -> tuple[int, int] | None:
    """Finds where a name has most room.

    Args:
      room: f32[H, W], see `_measure_room`; 0 outside of the segment. Changed in place.
      boxes: (rows, columns) of the names that were written before.
      half_height: half of the height of the name's plate, in pixels.
      half_width: half of its width.

    Returns:
      (y, x) of the plate's centre, with the plate inside of the picture; None if there is no room.
    """
    height, width = room.shape
    best = room.max()
    for rows, columns in boxes:
        y, x = max(rows.start - half_height, 0), max(columns.start - half_width, 0)
        room[y : rows.stop + half_height, x : columns.stop + half_width] = 0
    # A segment one pixel wide is all border, with no room at all.
    if not best or room.max() < _MIN_ROOM_SHARE * best:
        return None
    # In a wide segment many places are about as good; the one in their middle looks best.
    places = np.argwhere(room >= 0.9 * room.max())
    middle = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
    y, x = places[middle]
    return (
        int(np.clip(y, half_height, height - half_height)),
        int(np.clip(x, half_width, width - half_width)),
    )
