"""The places of the generated scenes: a canvas and the stuff of five kinds of places."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from pdl_jax.data.scenes import textures as scene_textures
from pdl_jax.data.scenes.textures import Light, View, blend, ramp, tone

STUFF_NAMES = ('sky', 'mountain', 'grass', 'water', 'road', 'wall', 'sand')
KINDS = ('street', 'town', 'lake', 'beach', 'meadow')
VOID = 0
MAX_LABELS = 64
# Labels on the canvas; those of things follow.
STUFF_LABELS = {name: 1 + index for index, name in enumerate(STUFF_NAMES)}


class Canvas:
    """Colours f32[H, W, 3] and labels i32[H, W] of one scene, drawn layer by layer.

    A layer mixes its colour into the pixels that it covers in part, and labels those that it covers
    by half or more.

    Attributes:
      view: size of the image and its horizon.
      color: f32[H, W, 3], about in 0..1.
      label: i32[H, W], `VOID`, a value of `STUFF_LABELS` or the label of a thing.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.color = np.zeros((view.height_px, view.width_px, 3), np.float32)
        self.label = np.zeros((view.height_px, view.width_px), np.int32)

    def fill(self, color: npt.ArrayLike, label: int, alpha: npt.ArrayLike | None = None) -> None:
        """Draws a colour, three values or f32[H, W, 3], by `alpha` f32[H, W]; None: everywhere."""
        if alpha is None:
            self.color[:] = color
            self.label[:] = label
            return
        alpha = np.broadcast_to(np.asarray(alpha, np.float32), self.label.shape)
        self.color = blend(self.color, color, alpha)
        self.label[alpha >= 0.5] = label

    def paste(self, sprite: np.ndarray, top: int, left: int, label: int) -> None:
        """Draws a sprite f32[h, w, 4] with premultiplied alpha, cropped to the canvas."""
        overlap = self._overlap(sprite.shape, top, left)
        if overlap is None:
            return
        window, part = overlap
        sprite = sprite[part]
        alpha = sprite[..., 3]
        self.color[window] = tone(self.color[window], 1 - alpha) + sprite[..., :3]
        self.label[window][alpha >= 0.5] = label

    def darken(self, amount: np.ndarray, top: int, left: int, *, spare: Collection[int]) -> None:
        """Multiplies colours by 1 - `amount`, f32[h, w], except where the label is in `spare`."""
        overlap = self._overlap(amount.shape, top, left)
        if overlap is None:
            return
        window, part = overlap
        is_spared = np.zeros(MAX_LABELS, bool)
        is_spared[list(spare)] = True
        factor = 1 - amount[part] * ~is_spared[self.label[window]]
        self.color[window] = tone(self.color[window], factor)

    def _overlap(
        self, shape: tuple[int, ...], top: int, left: int
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        height, width = self.label.shape
        y0, y1 = max(top, 0), min(top + shape[0], height)
        x0, x1 = max(left, 0), min(left + shape[1], width)
        if y0 >= y1 or x0 >= x1:
            return None
        return (slice(y0, y1), slice(x0, x1)), (
            slice(y0 - top, y1 - top),
            slice(x0 - left, x1 - left),
        )


def draw_place(
    rng: np.random.Generator, kind: str, light: Light, *, height_px: int, width_px: int
) -> Canvas:
    """Draws the stuff of one place.

    Args:
      rng: source of randomness.
      kind: kind of place, one of `KINDS`.
      light: light of the scene.
      height_px: height of the image in pixels.
      width_px: width of the image in pixels.

    Returns:
      A canvas whose labels are those of `STUFF_LABELS`.
    """
    low, high = {
        'street': (0.28, 0.42),
        'town': (0.32, 0.46),
        'lake': (0.22, 0.36),
        'beach': (0.20, 0.32),
        'meadow': (0.26, 0.40),
    }[kind]
    view = scene_textures.View(height_px, width_px, float(rng.uniform(low, high)) * height_px)
    canvas = Canvas(view)
    y = np.arange(height_px, dtype=np.float32)[:, None] + 0.5
    x = np.arange(width_px, dtype=np.float32)[None, :] + 0.5
    canvas.fill(scene_textures.paint_sky(rng, view, light), STUFF_LABELS['sky'])
    if (
        kind in ('lake', 'street', 'meadow')
        and rng.random() < {'lake': 0.9, 'street': 0.6, 'meadow': 0.75}[kind]
    ):
        haze = rng.uniform(0.05, 0.3)
        for layer in range(1 + int(rng.random() < 0.5)):
            ridge, color = scene_textures.paint_mountain(
                rng, view, light, haze=haze + 0.25 * (1 - layer)
            )
            lowered = ridge + layer * (view.horizon_px - ridge) * 0.45
            canvas.fill(color, STUFF_LABELS['mountain'], np.clip(y - lowered[None, :] + 0.5, 0, 1))
    ground = 'sand' if kind == 'beach' or (kind == 'town' and rng.random() < 0.25) else 'grass'
    paint_ground = scene_textures.paint_sand if ground == 'sand' else scene_textures.paint_grass
    canvas.fill(
        paint_ground(rng, view, light),
        STUFF_LABELS[ground],
        np.clip(y - view.horizon_px + 0.5, 0, 1),
    )
    if kind == 'street':
        _draw_perspective_road(rng, canvas, light, x, y)
    elif kind == 'town':
        _draw_wall(rng, canvas, light, x, y)
        _draw_cross_road(rng, canvas, light, x, y)
    elif kind in ('lake', 'beach'):
        _draw_shore(rng, canvas, light, y, ground)
    elif rng.random() < 0.6:
        _draw_pond(rng, canvas, light, x, y)
    return canvas


def _draw_perspective_road(
    rng: np.random.Generator, canvas: Canvas, light: Light, x: np.ndarray, y: np.ndarray
) -> None:
    view = canvas.view
    depth = np.clip((y - view.horizon_px) / (view.height_px - view.horizon_px), 0, 1)
    vanish, foot = view.width_px * rng.uniform(0.3, 0.7), view.width_px * rng.uniform(0.35, 0.65)
    center = (
        vanish + (foot - vanish) * depth + view.width_px * rng.normal(0, 0.12) * depth * (1 - depth)
    )
    half = view.unit * (3 + rng.uniform(85, 125) * depth)
    inside = np.clip(half - np.abs(x - center) + 0.5, 0, 1) * np.clip(
        y - view.horizon_px + 0.5, 0, 1
    )
    color = scene_textures.paint_road(rng, view, light)
    white = np.array(light.tint) * 0.88
    edge = np.clip(0.03 * half - np.abs(np.abs(x - center) - 0.91 * half) + 0.5, 0, 1)
    dash = np.sin(9.0 / (depth + 0.15) + rng.uniform(0, 6)) > 0
    middle = np.clip(0.025 * half - np.abs(x - center) + 0.5, 0, 1) * dash
    color = blend(color, white, 0.8 * np.maximum(edge, middle) * ramp(depth, 0.0, 0.15))
    canvas.fill(color, STUFF_LABELS['road'], inside)


def _draw_cross_road(
    rng: np.random.Generator, canvas: Canvas, light: Light, x: np.ndarray, y: np.ndarray
) -> None:
    view = canvas.view
    below = view.height_px - view.horizon_px
    top = view.horizon_px + below * rng.uniform(0.12, 0.30)
    bottom = top + below * rng.uniform(0.32, 0.48)
    color = scene_textures.paint_road(rng, view, light)
    kerb = np.clip(
        2.2 * view.unit - np.minimum(np.abs(y - top), np.abs(y - bottom)) + 0.5, 0, 1
    ) * np.ones_like(x)
    color = blend(color, np.array(light.tint) * 0.68, kerb)
    middle = np.clip(1.0 * view.unit - np.abs(y - (0.55 * top + 0.45 * bottom)) + 0.5, 0, 1)
    dash = (x / (26 * view.unit) + rng.uniform()) % 1 < 0.55
    color = blend(color, np.array(light.tint) * 0.9, 0.8 * middle * dash)
    canvas.fill(
        color, STUFF_LABELS['road'], np.clip(y - top + 0.5, 0, 1) * np.clip(bottom - y + 0.5, 0, 1)
    )


def _draw_wall(
    rng: np.random.Generator, canvas: Canvas, light: Light, x: np.ndarray, y: np.ndarray
) -> None:
    """Draws a wall with windows and a stepped upper edge; its foot is just below the horizon."""
    view = canvas.view
    color = scene_textures.paint_wall(rng, view, light)
    steps = int(rng.integers(1, 4))
    bounds = np.sort(rng.uniform(0.2, 0.8, steps - 1)) * view.width_px
    heights = view.horizon_px * rng.uniform(0.05, 0.6, steps)
    top = heights[np.searchsorted(bounds, x[0])][None, :]
    if rng.random() < 0.65:
        pitch, width, height = view.unit * rng.uniform((34, 12, 15), (46, 18, 22))
        along = (x + rng.uniform(0, 40)) % pitch - pitch / 2
        up = (y - top) % (1.7 * height) - 0.85 * height
        fits = (y - up + 0.9 * height < view.horizon_px) & (y - top > 0)
        outside = np.maximum(np.abs(along) - width / 2, np.abs(up) - height / 2)
        glass = blend(
            (0.16, 0.20, 0.26), np.array(light.skyline) * 0.7, 0.45 * ramp(along - up, -8, 10)
        )
        cross = np.minimum(np.abs(along), np.abs(up)) < 0.6 * view.unit
        window = blend(
            glass, np.array([0.92, 0.91, 0.88]) * light.tint, cross | (outside > -1.4 * view.unit)
        )
        color = blend(color, window, np.clip(0.5 - outside, 0, 1) * fits)
    coping = (y - top) < 3.5 * view.unit
    color = blend(color, np.array([0.70, 0.68, 0.64]) * light.tint, coping)
    foot = view.horizon_px + 3 * view.unit
    canvas.fill(
        color, STUFF_LABELS['wall'], np.clip(y - top + 0.5, 0, 1) * np.clip(foot - y + 0.5, 0, 1)
    )


def _draw_shore(
    rng: np.random.Generator, canvas: Canvas, light: Light, y: np.ndarray, ground: str
) -> None:
    view = canvas.view
    share = rng.uniform(0.40, 0.68)
    wave = scene_textures.sample_noise(rng, 1, view.width_px, 'smooth', zoom=(1.0, 1.5 * view.unit))
    tilt = np.linspace(-1, 1, view.width_px) * rng.normal(0, 9) * view.unit
    edge = (
        view.horizon_px + (view.height_px - view.horizon_px) * share + 5 * view.unit * wave + tilt
    )
    water = scene_textures.paint_water(rng, view, light)
    gap = edge - y
    shallow = ramp(gap, 22 * view.unit, 0)
    foam = np.clip(1 - np.abs(gap - 2.5 * view.unit) / (2.2 * view.unit), 0, 1)
    water = blend(water, (0.45, 0.66, 0.66) * np.array(light.tint), 0.45 * shallow)
    water = blend(
        water, np.minimum(np.array(light.tint), 1) * 0.96, foam * (0.8 if ground == 'sand' else 0.3)
    )
    if ground == 'sand':
        canvas.color = tone(canvas.color, 1 - 0.22 * ramp(-gap, 12 * view.unit, 0) * (gap < 0))
    canvas.fill(
        water,
        STUFF_LABELS['water'],
        np.clip(gap + 0.5, 0, 1) * np.clip(y - view.horizon_px + 0.5, 0, 1),
    )


def _draw_pond(
    rng: np.random.Generator, canvas: Canvas, light: Light, x: np.ndarray, y: np.ndarray
) -> None:
    view = canvas.view
    below = view.height_px - view.horizon_px
    center_y, center_x = (
        view.horizon_px + below * rng.uniform(0.35, 0.75),
        view.width_px * rng.uniform(0.15, 0.85),
    )
    radius_y, radius_x = below * rng.uniform(0.14, 0.24), view.width_px * rng.uniform(0.22, 0.38)
    wobble = scene_textures.sample_noise(
        rng, view.height_px, view.width_px, 'smooth', zoom=(view.unit, 2 * view.unit)
    )
    inside = (
        1 - np.hypot((x - center_x) / radius_x, (y - center_y) / radius_y) + 0.06 * wobble
    ) * radius_y
    bank = blend(
        canvas.color,
        np.array([0.42, 0.36, 0.22]) * light.tint,
        0.7 * ramp(inside, -3 * view.unit, 0),
    )
    canvas.color = blend(canvas.color, bank, inside < 0.5)
    canvas.fill(
        scene_textures.paint_water(rng, view, light),
        STUFF_LABELS['water'],
        np.clip(inside + 0.5, 0, 1),
    )
