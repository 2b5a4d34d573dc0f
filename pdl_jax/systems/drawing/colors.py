"""Label maps as colour pictures."""

import colorsys
from typing import NamedTuple

import numpy as np

from pdl_jax.typing import LabelFormat

_CROWD_STRIPE_PX = 4
# Brightness of sRGB values (Rec. 601).
_LUMA = np.array([0.299, 0.587, 0.114])
# Instances of a class that lie so near in a picture of 512 pixels get different shades.
_NEAR_PX = (1, 2, 4, 8, 16)
_COARSE_PX = 512
# Shades of a class: steps of brightness and of hue, from the class colour outwards.
_BRIGHTNESS_STEP = 0.15
_DARKEST, _BRIGHTEST = 0.25, 0.88
_HUE_STEP = 0.03
# Objects of the only class of things cannot be taken for those of another.
_HUE_STEP_OF_ONLY_CLASS = 0.17


def color_semantic(semantic: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Colours a class map.

    Args:
      semantic: i32[H, W], classes; values without a colour, such as void, become black.
      colors: u8[N, 3], by semantic value.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: `semantic` is not a non-empty map of non-negative integers.
    """
    check_map('semantic', semantic)
    table = np.concatenate([np.asarray(colors, np.uint8), np.zeros((1, 3), np.uint8)])
    return table[np.minimum(semantic, len(colors))]


def color_panoptic(
    panoptic: np.ndarray, label_format: LabelFormat, colors: np.ndarray
) -> np.ndarray:
    """Colours a panoptic map; void is black and crowds are striped.

    Stuff has the colour of its class, an object a shade of it that differs from those of objects of
    its class nearby.

    Args:
      panoptic: i32[H, W].
      label_format: the coding of classes and instances.
      colors: u8[N, 3], by semantic value.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: `panoptic` is not a non-empty map of non-negative integers.
    """
    labels, index, _ = index_labels(panoptic)
    return paint(index, color_labels(labels, index, label_format, colors))


class LabelColors(NamedTuple):
    """The colours of the labels of a map.

    Attributes:
      colors: u8[S, 3].
      is_crowd: bool[S], true for crowds, which are striped.
    """

    colors: np.ndarray
    is_crowd: np.ndarray


def color_labels(
    labels: np.ndarray, index: np.ndarray, label_format: LabelFormat, colors: np.ndarray
) -> LabelColors:
    """Chooses the colours of labels, see `color_panoptic`.

    Args:
      labels: i64[S], as of `index_labels`.
      index: i32[H, W], the index of each pixel's label.
      label_format: the coding of classes and instances.
      colors: u8[N, 3], by semantic value.
    """
    table = np.zeros((len(labels), 3), np.uint8)
    is_crowd = np.zeros(len(labels), bool)
    neighbors = _find_neighbors(index)
    is_only = len(label_format.thing_classes) == 1
    hue_step = _HUE_STEP_OF_ONLY_CLASS if is_only else _HUE_STEP
    shades: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        semantic, instance = divmod(label, label_format.label_divisor)
        if semantic == label_format.ignore_label or semantic >= len(colors):
            continue
        table[row] = colors[semantic]
        is_crowd[row] = semantic in label_format.thing_classes and instance == 0
        if not instance:
            continue
        choices = _list_shades(colors[semantic], hue_step)
        near = (n for n in neighbors.get(row, ()) if n in shades)
        same = [shades[n] for n in near if labels[n] // label_format.label_divisor == semantic]
        # The turn of the instance is kept where it can be, so that it changes little over frames.
        turn = [(instance - 1 + i) % len(choices) for i in range(len(choices))]
        shades[row] = min(turn, key=same.count)
        table[row] = choices[shades[row]]
    return LabelColors(table, is_crowd)


def paint(index: np.ndarray, label_colors: LabelColors, first_row: int = 0) -> np.ndarray:
    """Paints rows of a map.

    Args:
      index: i32[h, W], the index of each pixel's label.
      label_colors: see `color_labels`.
      first_row: row of the map that the first one is, which places the stripes of crowds.

    Returns:
      u8[h, W, 3].
    """
    picture = np.take(label_colors.colors, index, axis=0)
    if label_colors.is_crowd.any():
        rows, columns = np.ogrid[: index.shape[0], : index.shape[1]]
        stripes = (rows + first_row + columns) // _CROWD_STRIPE_PX % 2 == 0
        striped = label_colors.is_crowd[index] & stripes
        picture[striped] = 255 - (255 - picture[striped]) // 3
    return picture


def index_labels(panoptic: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists the labels of a map.

    Args:
      panoptic: i32[H, W].

    Returns:
      i64[S], the labels that occur, ascending; i32[H, W], the index of each pixel's label among
      them; i64[S], their areas in pixels.

    Raises:
      ValueError: `panoptic` is not a non-empty map of non-negative integers.
    """
    check_map('panoptic', panoptic)
    # Counting is ten times as fast as the sort in np.unique.
    counts = np.bincount(panoptic.ravel())
    labels = np.flatnonzero(counts)
    rows = np.zeros(len(counts), np.int32)
    rows[labels] = np.arange(len(labels))
    return labels, rows[panoptic], counts[labels]


def check_map(name: str, labels: np.ndarray) -> None:
    """Checks a map of labels.

    Raises:
      ValueError: it is no non-empty map of non-negative integers.
    """
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f'{name} must be a non-empty integer [H, W], not {labels.dtype}{labels.shape}'
        )
    if labels.min() < 0:
        raise ValueError(f'{name} has the label {labels.min()}; labels must not be negative')


def _find_neighbors(index: np.ndarray) -> dict[int, list[int]]:
    """Lists the labels near each label, the earlier ones alone, by index."""
    step = -(-max(index.shape) // _COARSE_PX)
    coarse = index[step // 2 :: step, step // 2 :: step].astype(np.int64)
    num = int(index.max()) + 1
    pairs = [np.zeros(0, np.int64)]
    for distance in _NEAR_PX:
        for axis in (0, 1):
            one = np.moveaxis(coarse, axis, 0)
            first, second = one[:-distance].ravel(), one[distance:].ravel()
            low, high = np.minimum(first, second), np.maximum(first, second)
            pairs.append(np.unique((high * num + low)[low != high]))
    neighbors: dict[int, list[int]] = {}
    for pair in np.unique(np.concatenate(pairs)).tolist():
        neighbors.setdefault(pair // num, []).append(pair % num)
    return neighbors


def _list_shades(color: np.ndarray, hue_step: float) -> list[np.ndarray]:
    """Lists shades of a class colour, itself first; each two differ in brightness.

    Args:
      color: u8[3], RGB.
      hue_step: change of hue from shade to shade, of a whole turn.

    Returns:
      u8[3] each, at least four.
    """
    brightness = float(_LUMA @ color) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(*(np.asarray(color) / 255))
    shades = [np.asarray(color, np.uint8)]
    for k in range(1, 7):
        for sign in (1, -1):
            wanted = brightness + sign * k * _BRIGHTNESS_STEP
            if not _DARKEST <= wanted <= _BRIGHTEST:
                continue
            turned = colorsys.hsv_to_rgb((hue + sign * k * hue_step) % 1, saturation, value)
            shades.append(_set_brightness(np.array(turned), wanted))
    return shades


def _set_brightness(color: np.ndarray, wanted: float) -> np.ndarray:
    """Mixes f64[3], RGB in [0, 1], with black or white to a brightness; u8[3]."""
    brightness = float(_LUMA @ color)
    if wanted < brightness:
        color = color * (wanted / brightness)
    else:
        color = color + (1 - color) * ((wanted - brightness) / max(1 - brightness, 1e-6))
    return np.round(255 * color).astype(np.uint8)
