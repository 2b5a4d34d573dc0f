"""The things of the generated scenes: one drawing function per thing class.

A drawing function uses a pen whose unit is the height of the thing: x to the right of the middle, y
up from the ground. Three pixels are drawn per output pixel and axis and then averaged, so edges are
smooth and alpha is the covered share of a pixel.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pdl_jax.data.scenes import textures as scene_textures
from pdl_jax.data.scenes.textures import Light

SUPERSAMPLE = 3

# Reference (height, width) in pixels at the bottom edge of a 192 x 256 image.
SIZES_PX = {
    'person': (66, 30),
    'car': (40, 84),
    'boat': (64, 64),
    'ball': (32, 32),
    'tree': (88, 62),
    'house': (80, 112),
    'sheep': (34, 46),
}

_SKIN = [(0.98, 0.80, 0.66), (0.87, 0.64, 0.47), (0.62, 0.42, 0.29), (0.42, 0.28, 0.20)]
_HAIR = [(0.15, 0.10, 0.08), (0.35, 0.20, 0.10), (0.80, 0.62, 0.30), (0.45, 0.45, 0.47)]
_CLOTH = [
    (0.85, 0.20, 0.20),
    (0.15, 0.35, 0.75),
    (0.95, 0.75, 0.15),
    (0.20, 0.60, 0.40),
    (0.93, 0.93, 0.90),
    (0.55, 0.25, 0.60),
    (0.95, 0.50, 0.15),
    (0.25, 0.25, 0.30),
]
_PAINT = [
    (0.80, 0.12, 0.12),
    (0.12, 0.30, 0.70),
    (0.93, 0.93, 0.93),
    (0.96, 0.76, 0.10),
    (0.15, 0.16, 0.18),
    (0.60, 0.63, 0.66),
    (0.10, 0.50, 0.48),
    (0.90, 0.45, 0.10),
]


class Pen:
    """A pen that draws in units of the thing's height on a supersampled, transparent sheet.

    Attributes:
      sign: -1 if the drawing is mirrored, else 1.
      sheet: the drawing, RGBA.
    """

    def __init__(self, height_px: float, width_px: float, *, is_mirrored: bool) -> None:
        self._unit = SUPERSAMPLE * height_px
        # A margin of two pixels per side, for outlines that overshoot the nominal size.
        self._size = (int(np.ceil(width_px)) + 4, int(np.ceil(height_px)) + 4)
        self.sign = -1.0 if is_mirrored else 1.0
        self.sheet = Image.new('RGBA', (self._size[0] * SUPERSAMPLE, self._size[1] * SUPERSAMPLE))
        self._draw = ImageDraw.Draw(self.sheet)

    def _point(self, x: float, y: float) -> tuple[float, float]:
        return (
            self.sheet.width / 2 + self.sign * x * self._unit,
            self.sheet.height - 2 * SUPERSAMPLE - y * self._unit,
        )

    def polygon(self, points: Sequence[tuple[float, float]], color: Iterable[float]) -> None:
        """Draws a filled polygon."""
        self._draw.polygon([self._point(x, y) for x, y in points], fill=_to_rgba(color))

    def box(
        self,
        left: float,
        bottom: float,
        right: float,
        top: float,
        color: Iterable[float],
        *,
        radius: float = 0.0,
    ) -> None:
        """Draws a filled rectangle with rounded corners."""
        (x0, y1), (x1, y0) = self._point(left, bottom), self._point(right, top)
        self._draw.rounded_rectangle(
            (min(x0, x1), y0, max(x0, x1), y1), radius * self._unit, fill=_to_rgba(color)
        )

    def disc(
        self, x: float, y: float, radius_x: float, radius_y: float, color: Iterable[float]
    ) -> None:
        """Draws a filled ellipse."""
        cx, cy = self._point(x, y)
        rx, ry = radius_x * self._unit, radius_y * self._unit
        self._draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=_to_rgba(color))

    def limb(
        self, points: Sequence[tuple[float, float]], width: float, color: Iterable[float]
    ) -> None:
        """Draws a thick line with round ends."""
        path = [self._point(x, y) for x, y in points]
        self._draw.line(
            path, fill=_to_rgba(color), width=max(1, round(width * self._unit)), joint='curve'
        )
        for x, y in (points[0], points[-1]):
            self.disc(x, y, width / 2, width / 2, color)


def _to_rgba(color: Iterable[float]) -> tuple[int, ...]:
    return tuple(min(max(int(c * 255), 0), 255) for c in color) + (255,)


def _pick(
    rng: np.random.Generator, colors: Sequence[Sequence[float]], *, jitter: float = 0.04
) -> np.ndarray:
    return np.array(colors[int(rng.integers(len(colors)))]) + rng.normal(0, jitter, 3)


def draw_sprite(
    rng: np.random.Generator, name: str, light: Light, *, scale: float, is_end_view: bool = False
) -> np.ndarray:
    """Draws one thing.

    Args:
      rng: source of randomness for colours, pose and variant.
      name: class of the thing, a key of `SIZES_PX`.
      light: light of the scene.
      scale: size relative to `SIZES_PX`, > 0.
      is_end_view: whether a car is seen from the front or back instead of from the side.

    Returns:
      f32[h, w, 4], premultiplied RGB about in 0..1 and alpha in 0..1. The foot of the thing is at
      the middle, 2 pixels above the lower edge.

    Raises:
      ValueError: there is no class `name`.
    """
    height_px = max(4.0, SIZES_PX[name][0] * scale * rng.uniform(0.9, 1.1))
    width_px = height_px * SIZES_PX[name][1] / SIZES_PX[name][0]
    if name == 'ball':
        return _draw_ball(rng, light, height_px)
    pen = Pen(height_px, width_px, is_mirrored=rng.random() < 0.5)
    texture = 0.0
    if name == 'person':
        _draw_person(rng, pen)
    elif name == 'car':
        (_draw_car_end if is_end_view else _draw_car_side)(rng, pen)
    elif name == 'boat':
        _draw_boat(rng, pen)
    elif name == 'tree':
        texture = 0.16
        _draw_tree(rng, pen, light)
    elif name == 'house':
        _draw_house(rng, pen)
    elif name == 'sheep':
        texture = 0.06
        _draw_sheep(rng, pen)
    else:
        raise ValueError(f'no drawing for thing class {name!r}; known: {sorted(SIZES_PX)}')
    return _shade(rng, pen.sheet, light, texture)


def _shade(
    rng: np.random.Generator, sheet: Image.Image, light: Light, texture: float
) -> np.ndarray:
    """Averages a sheet to output pixels, brightens the sun's side and the top, darkens the edge."""
    small = sheet.reduce(SUPERSAMPLE)
    rgba = np.asarray(small, np.float32) / 255
    alpha = rgba[..., 3]
    height, width = alpha.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(1, -1, height, dtype=np.float32)[:, None]
    radius = max(1.0, 0.04 * height)
    inner = np.asarray(small.getchannel('A').filter(ImageFilter.BoxBlur(radius)), np.float32) / 255
    shade = (0.97 + light.contrast * (0.17 * light.side * x + 0.08 * y)) * (0.52 + 0.48 * inner)
    if texture:
        shade = shade * (1 + texture * scene_textures.sample_noise(rng, height, width, 'rough'))
    rgb = rgba[..., :3] * (alpha * shade)[..., None] * np.array(light.tint, np.float32)
    return np.concatenate([rgb, alpha[..., None]], axis=2)


def _draw_ball(rng: np.random.Generator, light: Light, diameter_px: float) -> np.ndarray:
    """Draws a beach ball, a football or a plain ball, shaded as a sphere."""
    size = int(np.ceil(diameter_px)) + 4
    fine = size * 2
    radius = diameter_px
    axis = (np.arange(fine, dtype=np.float32) + 0.5 - fine / 2) / radius
    # Like every sprite, the ball touches the ground 2 pixels above the lower edge.
    lift = (fine / 2 - 4 - radius) / radius
    x, y = axis[None, :], -axis[:, None] + lift
    square = x * x + y * y
    alpha = np.clip((1 - np.sqrt(square)) * radius + 0.5, 0, 1)
    z = np.sqrt(np.clip(1 - square, 0, 1))
    tilt, turn = rng.uniform(-1.2, 1.2), rng.uniform(0, 2 * np.pi)
    pole = np.stack(
        [
            x * np.cos(tilt) - y * np.sin(tilt) + 0 * z,
            (x * np.sin(tilt) + y * np.cos(tilt)) * 0.8 + z * 0.6,
            z,
        ]
    )
    longitude = np.arctan2(pole[0], z - 0.6 * pole[1]) + turn
    kind = rng.integers(3)
    first, second = _pick(rng, _PAINT[:4]), np.array([0.96, 0.96, 0.94])
    if kind == 0:
        is_first = np.floor(longitude / (np.pi / 3)) % 2 == 0
    elif kind == 1:
        is_first = np.abs(pole[1]) < 0.25
    else:
        first, second = second, np.array([0.15, 0.15, 0.18])
        is_first = np.sin(3 * longitude) * np.sin(5 * pole[1]) < 0.45
    color = np.where(is_first[..., None], first, second)
    lambert = 0.62 * light.side * x + 0.55 * y + 0.55 * z
    highlight = np.clip(0.5 * light.side * x + 0.5 * y + 0.75 * z, 0, 1) ** 24
    shade = 0.62 + 0.5 * light.contrast * np.clip(lambert, -0.4, 1) + (1 - light.contrast) * 0.25
    rgb = (
        color * shade[..., None] * np.array(light.tint)
        + 0.5 * light.contrast * highlight[..., None]
    )
    rgba = np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=2)
    return rgba.reshape(size, 2, size, 2, 4).mean(axis=(1, 3)).astype(np.float32)


def _draw_person(rng: np.random.Generator, pen: Pen) -> None:
    shirt, trousers = _pick(rng, _CLOTH), _pick(rng, _CLOTH[1:2] + _CLOTH[5:6] + _CLOTH[7:]) * 0.8
    skin, hair = _pick(rng, _SKIN), _pick(rng, _HAIR)
    stride = rng.uniform(0.03, 0.12)
    for sign in (-1, 1):
        pen.limb(
            [(sign * 0.07, 0.46), (sign * (0.05 + stride), 0.06)],
            0.13,
            trousers * (1.0 if sign > 0 else 0.85),
        )
        pen.disc(sign * (0.05 + stride) + 0.03, 0.035, 0.08, 0.035, (0.16, 0.12, 0.10))
    for sign in (-1, 1):
        pose = rng.integers(4)
        hand = [(0.20, 0.44), (0.21, 0.96), (0.20, 0.56), (0.19, 0.44)][pose]
        elbow = [(0.20, 0.60), (0.21, 0.80), (0.22, 0.64), (0.19, 0.60)][pose]
        pen.limb(
            [(sign * 0.14, 0.75), (sign * elbow[0], elbow[1]), (sign * hand[0], hand[1])],
            0.085,
            shirt * 0.85,
        )
        pen.disc(sign * hand[0], hand[1], 0.045, 0.045, skin)
    if rng.random() < 0.3:
        pen.polygon([(-0.13, 0.6), (0.13, 0.6), (0.2, 0.28), (-0.2, 0.28)], shirt * 0.95)
    pen.polygon(
        [(-0.13, 0.42), (0.13, 0.42), (0.18, 0.76), (0.12, 0.80), (-0.12, 0.80), (-0.18, 0.76)],
        shirt,
    )
    pen.box(-0.035, 0.76, 0.035, 0.84, skin * 0.9)
    pen.disc(0, 0.915, 0.092, 0.095, hair)
    pen.disc(0.02, 0.895, 0.074, 0.075, skin)


def _draw_car_side(rng: np.random.Generator, pen: Pen) -> None:
    paint = _pick(rng, _PAINT)
    glass = np.array([0.22, 0.30, 0.38])
    back = rng.uniform(-0.92, -0.55)
    pen.box(-1.03, 0.16, 1.03, 0.60, paint, radius=0.14)
    pen.polygon([(back, 0.56), (back + 0.2, 0.98), (0.28, 0.98), (0.62, 0.56)], paint)
    pen.polygon([(back + 0.1, 0.60), (back + 0.25, 0.91), (-0.20, 0.91), (-0.20, 0.60)], glass)
    pen.polygon([(-0.12, 0.60), (-0.12, 0.91), (0.25, 0.91), (0.50, 0.60)], glass * 1.2)
    pen.box(-1.0, 0.30, 1.0, 0.35, paint * 0.75)
    pen.box(-0.18, 0.18, -0.15, 0.60, paint * 0.7)
    pen.box(0.93, 0.40, 1.03, 0.50, (1.0, 0.95, 0.65), radius=0.03)
    pen.box(-1.03, 0.40, -0.94, 0.52, (0.85, 0.10, 0.08), radius=0.03)
    for x in (-0.60, 0.62):
        pen.disc(x, 0.2, 0.23, 0.2, (0.08, 0.08, 0.09))
        pen.disc(x, 0.2, 0.11, 0.1, (0.65, 0.66, 0.68))


def _draw_car_end(rng: np.random.Generator, pen: Pen) -> None:
    paint = _pick(rng, _PAINT)
    is_back = rng.random() < 0.6
    glass = np.array([0.20, 0.28, 0.36])
    lamp = (0.88, 0.10, 0.08) if is_back else (1.0, 0.96, 0.75)
    for sign in (-1, 1):
        pen.box(sign * 0.45 - 0.11, 0.0, sign * 0.45 + 0.11, 0.3, (0.07, 0.07, 0.08), radius=0.03)
    pen.polygon([(-0.58, 0.56), (-0.42, 0.98), (0.42, 0.98), (0.58, 0.56)], paint * 0.95)
    pen.polygon([(-0.48, 0.60), (-0.36, 0.91), (0.36, 0.91), (0.48, 0.60)], glass)
    pen.box(-0.62, 0.13, 0.62, 0.62, paint, radius=0.1)
    pen.box(-0.62, 0.13, 0.62, 0.24, paint * 0.6, radius=0.04)
    for sign in (-1, 1):
        pen.box(sign * 0.46 - 0.12, 0.40, sign * 0.46 + 0.12, 0.53, lamp, radius=0.03)
    pen.box(-0.16, 0.30, 0.16, 0.40, (0.95, 0.94, 0.85))


def _draw_boat(rng: np.random.Generator, pen: Pen) -> None:
    hull, sail = (
        _pick(rng, _PAINT),
        _pick(
            rng, [(0.97, 0.96, 0.92), (0.97, 0.96, 0.92), (0.90, 0.35, 0.25), (0.95, 0.80, 0.35)]
        ),
    )
    if rng.random() < 0.7:
        pen.limb([(0.0, 0.2), (0.0, 0.98)], 0.035, (0.40, 0.28, 0.18))
        pen.polygon([(0.01, 0.25), (0.01, 0.97), (0.42, 0.26)], sail)
        pen.polygon([(-0.01, 0.25), (-0.01, 0.86), (-0.36, 0.25)], sail * 0.88)
    else:
        pen.box(-0.28, 0.22, 0.14, 0.62, (0.93, 0.93, 0.90), radius=0.04)
        pen.box(-0.28, 0.56, 0.20, 0.64, hull * 0.8)
        for x in (-0.17, 0.02):
            pen.box(x - 0.06, 0.38, x + 0.06, 0.50, (0.20, 0.28, 0.36))
        pen.limb([(-0.2, 0.6), (-0.2, 0.86)], 0.05, (0.3, 0.3, 0.3))
    pen.polygon([(-0.48, 0.28), (-0.36, 0.0), (0.34, 0.0), (0.49, 0.31)], hull)
    pen.polygon([(-0.48, 0.28), (-0.46, 0.22), (0.47, 0.25), (0.49, 0.31)], (0.95, 0.94, 0.90))


def _draw_tree(rng: np.random.Generator, pen: Pen, light: Light) -> None:
    trunk = np.array([0.40, 0.28, 0.18]) * rng.uniform(0.8, 1.2)
    pen.polygon([(-0.05, 0.0), (0.05, 0.0), (0.035, 0.5), (-0.035, 0.5)], trunk)
    sun = np.sign(light.side) * pen.sign
    if rng.random() < 0.4:
        leaf = np.array([0.10, 0.32, 0.20]) * rng.uniform(0.8, 1.25)
        layers = 4
        for layer in range(layers):
            bottom, top = 0.12 + 0.19 * layer, 0.46 + 0.18 * layer
            half = 0.33 - 0.065 * layer
            pen.polygon(
                [(-half, bottom), (0, min(top, 0.99)), (half, bottom)], leaf * (0.85 + 0.08 * layer)
            )
            pen.polygon(
                [(0.1 * sun * half, bottom), (0, min(top, 0.99)), (sun * half, bottom)],
                leaf * (1.05 + 0.1 * layer),
            )
        return
    leaf = _pick(
        rng,
        [(0.20, 0.42, 0.14), (0.13, 0.36, 0.12), (0.30, 0.46, 0.12), (0.72, 0.42, 0.12)],
        jitter=0.02,
    )
    crown = rng.uniform(-1, 1, (11, 2)) * (0.19, 0.20) + (0.0, 0.68)
    radii = rng.uniform(0.10, 0.15, 11)
    # Shade, then leaves, then sunlit leaves: single discs would not blend into one round crown.
    pen.disc(0, 0.66, 0.25, 0.26, leaf * 0.8)
    for offset, gain in ((0.0, 0.75), (0.03, 1.0), (0.06, 1.3)):
        for (x, y), radius in zip(crown, radii, strict=True):
            shrink = radius * (1.0 - 5 * offset)
            pen.disc(x + sun * offset, y + offset, shrink, shrink, leaf * gain)


def _draw_house(rng: np.random.Generator, pen: Pen) -> None:
    plaster = _pick(
        rng,
        [(0.93, 0.88, 0.76), (0.92, 0.92, 0.90), (0.80, 0.88, 0.92), (0.95, 0.80, 0.62)],
        jitter=0.02,
    )
    roof = _pick(rng, [(0.62, 0.22, 0.16), (0.45, 0.22, 0.18), (0.32, 0.34, 0.40)], jitter=0.02)
    pane, frame = np.array([0.30, 0.42, 0.52]), np.array([0.98, 0.97, 0.94])
    eaves, ridge = 0.50, 0.93
    pen.box(0.22, 0.72, 0.32, 0.99, roof * 0.8)
    pen.polygon([(0.0, 0.0), (0.0, eaves), (0.62, eaves), (0.62, 0.02)], plaster * 0.82)
    pen.polygon([(-0.60, 0.0), (-0.60, eaves), (-0.30, ridge), (0.0, eaves), (0.0, 0.0)], plaster)
    pen.polygon(
        [(-0.31, ridge + 0.02), (0.42, ridge - 0.01), (0.68, eaves - 0.05), (0.03, eaves - 0.06)],
        roof,
    )
    pen.limb([(-0.64, eaves - 0.05), (-0.31, ridge)], 0.05, roof * 0.8)
    pen.box(-0.38, 0.0, -0.22, 0.30, roof * 0.7)
    for x, y in ((-0.48, 0.30), (-0.11, 0.30), (-0.30, 0.60), (0.18, 0.24), (0.44, 0.24)):
        pen.box(x - 0.075, y - 0.02, x + 0.075, y + 0.15, frame)
        pen.box(x - 0.055, y, x + 0.055, y + 0.13, pane)


def _draw_sheep(rng: np.random.Generator, pen: Pen) -> None:
    wool = np.array([0.94, 0.92, 0.87]) * rng.uniform(0.92, 1.04)
    face = _pick(rng, [(0.14, 0.12, 0.12), (0.25, 0.20, 0.18)], jitter=0.01)
    for x in (-0.36, -0.18, 0.16, 0.32):
        pen.box(x - 0.05, 0.0, x + 0.05, 0.38, face)
    for angle in np.linspace(0, 2 * np.pi, 11)[:-1]:
        pen.disc(
            -0.04 + 0.36 * np.cos(angle),
            0.58 + 0.20 * np.sin(angle),
            0.2,
            0.2,
            wool * (0.93 + 0.08 * np.sin(angle)),
        )
    pen.disc(-0.04, 0.60, 0.40, 0.26, wool)
    is_grazing = rng.random() < 0.4
    y = 0.36 if is_grazing else 0.76
    pen.disc(0.50, y, 0.13, 0.17, face)
    pen.disc(0.40, y + 0.11, 0.09, 0.05, face)
    pen.disc(0.42, y + 0.16, 0.12, 0.07, wool)
