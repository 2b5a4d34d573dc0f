"""Pictures of proposals: boxes drawn into the image, and a view from above."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pdl_jax.systems.drawing.fonts import load_font

# Colours of Okabe and Ito, which the colour-blind can tell apart; labels are white.
_COLORS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66))
LABEL_COLOR = (255, 255, 255)
_BACKGROUND, _POINT, _GRID = (16, 20, 28), (150, 158, 170), (52, 60, 72)
_PIXELS_PER_M = 10
_GRID_M = 10
_FONT_PX = 13
# Corners of `overlap.box_corners` that an edge joins; the first four lie on the ground.
_EDGES = (
    *((i, (i + 1) % 4) for i in range(4)),
    *((4 + i, 4 + (i + 1) % 4) for i in range(4)),
    *((i, 4 + i) for i in range(4)),
)


class DrawnBox(NamedTuple):
    """A box for pictures.

    Attributes:
      corners: f32[8, 3] in camera coordinates, see `overlap.box_corners`.
      color: RGB.
      text: written at its top; '' for none.
    """

    corners: np.ndarray
    color: tuple[int, int, int]
    text: str = ''


def class_color(index: int) -> tuple[int, int, int]:
    """Returns the colour of a class."""
    return _COLORS[index % len(_COLORS)]


def draw_boxes(image: np.ndarray, boxes: Sequence[DrawnBox], projection: np.ndarray) -> np.ndarray:
    """Draws boxes into an image, the first ones on top.

    Args:
      image: u8[H, W, 3].
      boxes: the boxes; those that reach behind the camera are left out.
      projection: f32[3, 4].

    Returns:
      u8[H, W, 3].
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    texts: list[tuple[float, float, DrawnBox]] = []
    for box in reversed(boxes):
        x, y, depth = projection[:, :3] @ box.corners.T + projection[:, 3:]
        if depth.min() <= 0.1:
            continue
        pixels = list(zip((x / depth).tolist(), (y / depth).tolist(), strict=True))
        for start, end in _EDGES:
            draw.line((pixels[start], pixels[end]), fill=box.color, width=2)
        left, top = (min(pixel[axis] for pixel in pixels) for axis in (0, 1))
        texts.insert(0, (left, top - _FONT_PX - 2, box))
    _write(draw, texts)
    return np.asarray(picture)


def draw_top_view(
    points: np.ndarray,
    boxes: Sequence[DrawnBox],
    *,
    x_m: tuple[float, float],
    z_m: tuple[float, float],
) -> np.ndarray:
    """Draws points and boxes from above, the camera at the bottom, a line every 10 m.

    Args:
      points: f32[N, 3] in camera coordinates.
      boxes: the boxes.
      x_m, z_m: (low, high) of the view in metres.

    Returns:
      u8[H, W, 3], 10 pixels per metre.
    """
    height, width = (round((high - low) * _PIXELS_PER_M) for low, high in (z_m, x_m))
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)

    def place(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (x - x_m[0]) * _PIXELS_PER_M, (z_m[1] - z) * _PIXELS_PER_M

    columns, rows = (np.floor(v).astype(int) for v in place(points[:, 0], points[:, 2]))
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    picture[rows[is_inside], columns[is_inside]] = _POINT
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    texts: list[tuple[float, float, DrawnBox]] = []
    for z in range(int(z_m[0] // _GRID_M) * _GRID_M, int(z_m[1]), _GRID_M):
        row = (z_m[1] - z) * _PIXELS_PER_M
        draw.line(((0, row), (width, row)), fill=_GRID)
        draw.text((2, row - _FONT_PX), f'{z} m', fill=_POINT, font=load_font(_FONT_PX))
    for box in reversed(boxes):
        x, y = place(box.corners[:4, 0], box.corners[:4, 2])
        outline = list(zip(x.tolist(), y.tolist(), strict=True))
        draw.line([*outline, outline[0]], fill=box.color, width=2)
        texts.insert(0, (float(x.max()) + 2, float(y.min()), box))
    _write(draw, texts)
    return np.asarray(image)


def _write(draw: ImageDraw.ImageDraw, texts: Sequence[tuple[float, float, DrawnBox]]) -> None:
    """Writes texts at (x, y) on plates; one that would cover an earlier one is left out."""
    font = load_font(_FONT_PX)
    plates: list[tuple[float, float, float, float]] = []
    for x, y, box in texts:
        plate = draw.textbbox((x, y), box.text, font=font)
        covers = (
            plate[0] < x1 and x0 < plate[2] and plate[1] < y1 and y0 < plate[3]
            for x0, y0, x1, y1 in plates
        )
        if box.text and not any(covers):
            plates.append(plate)
            draw.rectangle(plate, fill=_BACKGROUND)
            draw.text((x, y), box.text, fill=box.color, font=font)
