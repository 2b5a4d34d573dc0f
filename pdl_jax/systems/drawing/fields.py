"""Heatmaps and offset maps as colour pictures."""

import numpy as np
from PIL import Image, ImageDraw

from pdl_jax.systems.drawing.fonts import load_font

_HEAT_STOPS = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32
)
# Diameter of the key of offsets, as a share of the shorter side, and its bounds in pixels.
_WHEEL_SHARE = 0.22
_MIN_WHEEL_PX, _MAX_WHEEL_PX = 24, 240


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


def draw_ponder(ponder: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Draws the ponder cost over an image: bright where most units ran, grey where fewest did.

    Args:
      ponder: f32[H, W].
      image: u8[H, W, 3].

    Returns:
      u8[H, W, 3].
    """
    low, high = np.min(ponder), np.max(ponder)
    return heatmap_picture((ponder - low) / max(high - low, 1e-6), image)


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


def draw_offset(offset: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Draws an offset map with its key: a wheel, and the length at its rim in pixels.

    Args:
      offset: f32[H, W, 2], (dy, dx) in pixels.
      mask: bool[H, W]; black where it is false.

    Returns:
      u8[H, W, 3]; pictures too small for a wheel have none.
    """
    picture = offset_picture(offset, mask)
    wheel_px = round(min(_WHEEL_SHARE * min(picture.shape[:2]), _MAX_WHEEL_PX))
    if wheel_px < _MIN_WHEEL_PX:
        return picture
    text_px = max(10, wheel_px // 6)
    key = np.zeros((wheel_px + round(1.4 * text_px), wheel_px, 3), np.uint8)
    key[:wheel_px] = offset_wheel(wheel_px)
    canvas = Image.fromarray(key)
    place = wheel_px / 2, wheel_px + 0.7 * text_px
    text = f'{longest_offset(offset, mask):.3g} px'
    ImageDraw.Draw(canvas).text(place, text, 'white', load_font(text_px), anchor='mm')
    picture[-key.shape[0] :, -wheel_px:] = np.asarray(canvas)
    return picture


def _split_offset(offset: np.ndarray) -> np.ndarray:
    """Returns dy and dx, f32[2, H, W], finite."""
    finite = np.nan_to_num(np.asarray(offset, np.float32), posinf=1e6, neginf=-1e6)
    return np.moveaxis(finite, -1, 0)
