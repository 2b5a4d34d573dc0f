"""Pictures for people: label maps in colour, overlays with outlines and names, heatmaps, offsets."""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pdl_jax.typing import LabelFormat

_CROWD_STRIPE_PX = 4
_MIN_LABELLED_SHARE = 0.002


def color_semantic(semantic: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Colours a class map i32[H, W] by u8[N, 3]; values beyond N are black. Returns u8[H, W, 3]."""
    table = np.zeros((max(len(colors), int(semantic.max()) + 1), 3), np.uint8)
    table[: len(colors)] = colors
    return table[semantic]


def color_panoptic(panoptic: np.ndarray, label_format: LabelFormat, colors: np.ndarray) -> np.ndarray:
    """Colours a panoptic map: stuff in its class colour, objects in shades of theirs, crowds striped, void black.

    Args:
      panoptic: i32[H, W].
      label_format: how classes and instances are coded.
      colors: u8[N, 3], by semantic value.

    Returns:
      u8[H, W, 3].
    """
    labels, index = np.unique(panoptic, return_inverse=True)
    index = index.reshape(panoptic.shape)
    is_thing = label_format.thing_table()
    table = np.zeros((len(labels), 3), np.uint8)
    is_crowd = np.zeros(len(labels), bool)
    for row, label in enumerate(labels.tolist()):
        semantic, instance = divmod(label, label_format.label_divisor)
        if semantic == label_format.ignore_label or semantic >= len(colors):
            continue
        table[row] = _shade(colors[semantic], instance)
        is_crowd[row] = is_thing[semantic] and instance == 0
    picture = table[index]
    rows, columns = np.indices(panoptic.shape)
    stripes = (rows + columns) // _CROWD_STRIPE_PX % 2 == 0
    picture[is_crowd[index] & stripes] //= 3
    return picture


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
      label_format: how classes and instances are coded.
      class_names: by semantic class.
      colors: u8[N, 3], by semantic value.
      alpha: share of the colour in the mix; void stays as it is.
      scores: confidence of labels to print behind the names of things.

    Returns:
      u8[H, W, 3].
    """
    is_void = panoptic // label_format.label_divisor == label_format.ignore_label
    color = color_panoptic(panoptic, label_format, colors)
    mixed = image * (1 - alpha) + color * alpha
    mixed = np.where(is_void[..., None], image, mixed).astype(np.uint8)
    width = max(1, round(min(image.shape[:2]) / 500))
    mixed[_find_borders(panoptic, width)] = (255, 255, 255)
    picture = Image.fromarray(mixed)
    _write_names(picture, panoptic, label_format, class_names, scores or {})
    return np.asarray(picture)


def heatmap_picture(heatmap: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """A map f32[H, W] in [0, 1] from dark over red to yellow, added to a greyed image if one is given."""
    heat = np.clip(heatmap, 0, 1)[..., None]
    picture = np.clip(heat * np.array([2.0, 2.0, 1.0]) - np.array([0.0, 1.0, 0.75]), 0, 1) * 255
    if image is not None:
        picture = np.clip(picture + image.mean(-1, keepdims=True) * 0.5, 0, 255)
    return picture.astype(np.uint8)


def offset_picture(offset: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Offsets f32[H, W, 2] as colours: the hue is their direction, the saturation their length; black outside of `mask`."""
    length = np.hypot(offset[..., 0], offset[..., 1])
    inside = np.ones(length.shape, bool) if mask is None else mask.astype(bool)
    longest = np.percentile(length[inside], 99) if inside.any() else 1.0
    hue = (np.arctan2(offset[..., 0], offset[..., 1]) / (2 * np.pi) % 1) * 255
    saturation = np.clip(length / max(longest, 1e-6), 0, 1) * 255
    hsv = np.stack([hue, saturation, np.where(inside, 255, 0)], axis=-1).astype(np.uint8)
    return np.asarray(Image.fromarray(hsv, 'HSV').convert('RGB'))


def picture_row(pictures: Sequence[np.ndarray], gap_px: int = 4) -> np.ndarray:
    """Pictures u8[H, W, 3] of one size side by side, with white between them."""
    gap = np.full((pictures[0].shape[0], gap_px, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)


def training_pictures(
    image: np.ndarray,
    target: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
    *,
    label_format: LabelFormat,
    colors: np.ndarray,
) -> dict[str, np.ndarray]:
    """What a network was asked for and what it answered.

    Args:
      image: u8[H, W, 3].
      target: 'semantic' i32[H, W], 'center' f32[H, W], 'offset' f32[H, W, 2], 'offset_weight' f32[H, W].
      prediction: 'semantic', 'center', 'offset' of the same shapes and 'panoptic' i32[H, W].
      label_format: how classes and instances are coded.
      colors: u8[N, 3], by semantic value.

    Returns:
      'target': image, semantic, centre and offset target side by side.
      'prediction': panoptic map, semantic map, centre heatmap and offsets side by side.
    """
    return {
        'target': picture_row(
            [
                image,
                color_semantic(target['semantic'], colors),
                heatmap_picture(target['center'], image),
                offset_picture(target['offset'], target['offset_weight'] > 0),
            ]
        ),
        'prediction': picture_row(
            [
                color_panoptic(prediction['panoptic'], label_format, colors),
                color_semantic(prediction['semantic'], colors),
                heatmap_picture(prediction['center'], image),
                offset_picture(prediction['offset']),
            ]
        ),
    }


def _shade(color, instance):
    """The class colour for instance 0, a shade of it for others: golden-ratio steps keep neighbours apart."""
    if instance == 0:
        return color
    hue, saturation, value = colorsys.rgb_to_hsv(*(np.asarray(color) / 255))
    step = instance * 0.618 % 1
    value = np.clip(0.55 + 0.45 * step, 0, 1) if value > 0.3 else np.clip(value + 0.5 * step, 0, 1)
    saturation = np.clip(saturation * (0.6 + 0.8 * (instance * 0.382 % 1)), 0, 1)
    return np.round(np.array(colorsys.hsv_to_rgb((hue + 0.06 * (step - 0.5)) % 1, saturation, value)) * 255)


def _find_borders(panoptic, width):
    """bool[H, W], true on a line of `width` pixels along every border between segments."""
    border = np.zeros(panoptic.shape, bool)
    for shift in range(1, width + 1):
        border[:-shift] |= panoptic[:-shift] != panoptic[shift:]
        border[:, :-shift] |= panoptic[:, :-shift] != panoptic[:, shift:]
    return border


def _find_inside_point(mask):
    """A pixel (y, x) far from the border of a mask: the middle of the widest run in the row whose runs are widest."""
    rows = np.flatnonzero(mask.any(axis=1))
    counts = mask[rows].sum(axis=1)
    middle = rows.mean()
    # The longest rows, and of them the one nearest to the middle.
    row = min(rows[counts >= 0.8 * counts.max()], key=lambda r: abs(r - middle))
    line = np.concatenate([[0], mask[row].astype(np.int8), [0]])
    starts, ends = np.flatnonzero(np.diff(line) == 1), np.flatnonzero(np.diff(line) == -1)
    widest = np.argmax(ends - starts)
    return int(row), int(starts[widest] + ends[widest]) // 2


def _write_names(picture, panoptic, label_format, class_names, scores):
    """Names the large segments, largest first; a name that would cover one already written is left out."""
    labels, areas = np.unique(panoptic, return_counts=True)
    draw = ImageDraw.Draw(picture)
    size = int(np.clip(min(picture.size) / 32, 9, 28))
    font = ImageFont.load_default(size=size)
    taken = []
    for i in np.argsort(-areas):
        semantic = int(labels[i]) // label_format.label_divisor
        is_small = areas[i] < _MIN_LABELLED_SHARE * panoptic.size
        if semantic == label_format.ignore_label or semantic >= len(class_names) or is_small:
            continue
        text = class_names[semantic]
        if int(labels[i]) in scores and semantic in label_format.thing_classes:
            text = f'{text} {scores[int(labels[i])]:.0%}'
        y, x = _find_inside_point(panoptic == labels[i])
        left, top, right, bottom = draw.textbbox((x, y), text, font=font, anchor='mm')
        # Shifted back inside where the name would leave the picture.
        dx = max(0, 2 - left) - max(0, right + 2 - picture.size[0])
        dy = max(0, 2 - top) - max(0, bottom + 2 - picture.size[1])
        box = (left + dx - 2, top + dy - 2, right + dx + 2, bottom + dy + 2)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        draw.text(
            (x + dx, y + dy), text, font=font, anchor='mm', fill='white', stroke_width=max(1, size // 8), stroke_fill='black'
        )
