"""Label maps, heatmaps and offset maps as colour pictures."""

import colorsys

import numpy as np

from pdl_jax.typing import LabelFormat

_CROWD_STRIPE_PX = 4
_HEAT_STOPS = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32
)
# (saturation, value) of generated class colours.
_TONES = ((0.75, 0.95), (0.5, 0.7), (0.9, 0.55), (0.4, 1.0), (1.0, 0.8))


def class_palette(num: int) -> np.ndarray:
    """Makes colours for classes that have none: deterministic, with neighbours far apart.

    Args:
      num: number of classes.

    Returns:
      u8[num, 3].
    """
    # Golden-ratio steps spread the hues however many there are. They nearly return after 13, 21 and
    # 34 classes, where a cycle of five tones differs.
    rgb = [colorsys.hsv_to_rgb(i * 0.618034 % 1, *_TONES[i % 5]) for i in range(num)]
    return np.round(255 * np.reshape(rgb, (num, 3))).astype(np.uint8)


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

    Stuff has the colour of its class, an object a shade of it that depends only on its label.

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
    table = np.zeros((len(labels), 3), np.uint8)
    is_crowd = np.zeros(len(labels), bool)
    for row, label in enumerate(labels.tolist()):
        semantic, instance = divmod(label, label_format.label_divisor)
        if semantic == label_format.ignore_label or semantic >= len(colors):
            continue
        table[row] = _shade(colors[semantic], instance) if instance else colors[semantic]
        is_crowd[row] = semantic in label_format.thing_classes and instance == 0
    picture = table[index]
    if is_crowd.any():
        rows, columns = np.ogrid[: index.shape[0], : index.shape[1]]
        stripes = (rows + columns) // _CROWD_STRIPE_PX % 2 == 0
        striped = is_crowd[index] & stripes
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


def offset_picture(offset: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Colours offsets by a colour wheel: hue is the direction, saturation the length.

    Right is red, down yellow-green, left cyan, up violet; a zero offset is white. Lengths saturate
    at their 99th percentile.

    Args:
      offset: f32[H, W, 2], (dy, dx) in pixels.
      mask: bool[H, W]; black where it is false.

    Returns:
      u8[H, W, 3].
    """
    dy, dx = np.moveaxis(
        np.nan_to_num(np.asarray(offset, np.float32), posinf=1e6, neginf=-1e6), -1, 0
    )
    length = np.hypot(dy, dx)
    inside = np.ones(length.shape, bool) if mask is None else np.asarray(mask, bool)
    longest = np.percentile(length[inside], 99) if inside.any() else 1.0
    saturation = np.clip(length / max(longest, 1e-6), 0, 1)[..., None]
    hue = np.arctan2(dy, dx)[..., None] * (3 / np.pi)
    # The hexagon of HSV: each primary is full within one sixth of its hue, zero beyond two sixths.
    distance = np.abs((hue - np.array([0, 2, 4], np.float32) + 3) % 6 - 3)
    wheel = np.clip(2 - distance, 0, 1)
    picture = 255 * (1 - saturation * (1 - wheel)) * inside[..., None]
    return np.round(picture).astype(np.uint8)


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


def _check_map(name: str, labels: np.ndarray) -> None:
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f'{name} must be a non-empty integer [H, W], not {labels.dtype}{labels.shape}'
        )
    if labels.min() < 0:
        raise ValueError(f'{name} has the label {labels.min()}; labels must not be negative')


def _shade(color: np.ndarray, instance: int) -> np.ndarray:
    """Returns a shade near the class colour in hue; the first instances differ visibly.

    Args:
      color: u8[3], RGB.
      instance: instance id, at least 1.

    Returns:
      f64[3], RGB in [0, 255].
    """
    hue, saturation, _ = colorsys.rgb_to_hsv(*(np.asarray(color) / 255))
    u = [_radical_inverse(instance, base) for base in (5, 3, 2)]
    hue = (hue + 0.16 * (u[0] - 0.5)) % 1
    low, high = max(saturation - 0.4, 0.25), min(saturation + 0.4, 1)
    saturation = float(np.interp(u[1], [0, 1], [low, high]))
    # From dark to bright for every class: the eye separates that best.
    value = 0.42 + 0.58 * u[2]
    return np.round(255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)))


def _radical_inverse(number: int, base: int) -> float:
    """Mirrors digits at the point: 1, 2, 3, ... spread evenly over [0, 1) at any count."""
    digits = np.base_repr(number, base)
    return int(digits[::-1], base) / base ** len(digits)
