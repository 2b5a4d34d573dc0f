"""Label maps, heatmaps and offset maps as colour pictures."""

import colorsys
from typing import NamedTuple

import numpy as np

from pdl_jax.typing import LabelFormat

_CROWD_STRIPE_PX = 4
# Brightness of sRGB values (Rec. 601).
_LUMA = np.array([0.299, 0.587, 0.114])
_HEAT_STOPS = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32
)
# Instances of a class that lie so near in a picture of 512 pixels get different shades.
_NEAR_PX = (1, 2, 4, 8, 16)
_COARSE_PX = 512
# Shades of a class: steps of brightness and of hue, from the class colour outwards.
_BRIGHTNESS_STEP = 0.15
_DARKEST, _BRIGHTEST = 0.25, 0.95
_HUE_STEP = 0.03


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
    _check_map('semantic', semantic)
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
    shades: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        semantic, instance = divmod(label, label_format.label_divisor)
        if semantic == label_format.ignore_label or semantic >= len(colors):
            continue
        table[row] = colors[semantic]
        is_crowd[row] = semantic in label_format.thing_classes and instance == 0
        if not instance:
            continue
        choices = _list_shades(colors[semantic])
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
    picture = label_colors.colors[index]
    if label_colors.is_crowd.any():
        rows, columns = np.ogrid[: index.shape[0], : index.shape[1]]
        stripes = (rows + first_row + columns) // _CROWD_STRIPE_PX % 2 == 0
        striped = label_colors.is_crowd[index] & stripes
        picture[striped] = 255 - (255 - picture[striped]) // 3
    return picture


def heatmap_picture(heatmap: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """Colours a map from black over red to yellow.

    Args:
      heatmap: f32[H, W] in [0, 1]; values outside are clipped, NaN becomes 0.
      image: u8[H, W, 3], shown in grey where the heat is low.

    Returns:
      u8[H, W, 3].
    """
    heat = np.clip(np.nan_to_num(np.asarray(heatmap, np.float32), nan=0.0), 0, 1)
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    picture = np.stack([np.interp(heat, stops, channel) for channel in _HEAT_STOPS.T], axis=-1)
    if image is not None:
        # The square root keeps the faint rims of the heat visible on a bright image.
        share = np.sqrt(heat)[..., None]
        picture = share * picture + (1 - share) * 0.6 * image.mean(axis=-1, keepdims=True)
    return np.round(picture).astype(np.uint8)


def offset_picture(
    offset: np.ndarray, mask: np.ndarray | None = None, *, longest_px: float | None = None
) -> np.ndarray:
    """Colours offsets by a colour wheel: hue is the direction, saturation the length.

    Right is red, down yellow-green, left cyan, up violet; a zero offset is white.

    Args:
      offset: f32[H, W, 2], (dy, dx) in pixels.
      mask: bool[H, W]; black where it is false.
      longest_px: length of full saturation, by default that of `longest_offset`.

    Returns:
      u8[H, W, 3].
    """
    dy, dx = _split_offset(offset)
    inside = np.ones(dy.shape, bool) if mask is None else np.asarray(mask, bool)
    longest = longest_offset(offset, mask) if longest_px is None else longest_px
    saturation = np.clip(np.hypot(dy, dx) / max(longest, 1e-6), 0, 1)[..., None]
    hue = np.arctan2(dy, dx)[..., None] * (3 / np.pi)
    # The hexagon of HSV: each primary is full within one sixth of its hue, zero beyond two sixths.
    distance = np.abs((hue - np.array([0, 2, 4], np.float32) + 3) % 6 - 3)
    wheel = np.clip(2 - distance, 0, 1)
    picture = 255 * (1 - saturation * (1 - wheel)) * inside[..., None]
    return np.round(picture).astype(np.uint8)


def longest_offset(offset: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Computes the 99th percentile of the lengths of offsets, see `offset_picture`, in pixels."""
    length = np.hypot(*_split_offset(offset))
    length = length if mask is None else length[np.asarray(mask, bool)]
    return float(np.percentile(length, 99)) if length.size else 1.0


def offset_wheel(diameter_px: int) -> np.ndarray:
    """Draws the key of `offset_picture`: each pixel has the colour of its offset from the middle.

    Args:
      diameter_px: diameter of the wheel, at least 3.

    Returns:
      u8[diameter_px, diameter_px, 3], black outside of the wheel.
    """
    radius = (diameter_px - 1) / 2
    offset = np.moveaxis(np.indices((diameter_px, diameter_px)) - radius, 0, -1)
    inside = np.hypot(*np.moveaxis(offset, -1, 0)) <= radius
    return offset_picture(offset, inside, longest_px=radius)


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
    _check_map('panoptic', panoptic)
    # Counting is ten times as fast as the sort in np.unique.
    counts = np.bincount(panoptic.ravel())
    labels = np.flatnonzero(counts)
    rows = np.zeros(len(counts), np.int32)
    rows[labels] = np.arange(len(labels))
    return labels, rows[panoptic], counts[labels]


def _split_offset(offset: np.ndarray) -> np.ndarray:
    """Returns dy and dx, f32[2, H, W], finite."""
    finite = np.nan_to_num(np.asarray(offset, np.float32), posinf=1e6, neginf=-1e6)
    return np.moveaxis(finite, -1, 0)


def _check_map(name: str, labels: np.ndarray) -> None:
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


def _list_shades(color: np.ndarray) -> list[np.ndarray]:
    """Lists shades of a class colour, itself first; each two differ in brightness.

    Args:
      color: u8[3], RGB.

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
            turned = colorsys.hsv_to_rgb((hue + sign * k * _HUE_STEP) % 1, saturation, value)
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
