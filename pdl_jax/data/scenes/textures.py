"""Textures, light and perspective of the generated scenes: one painter per stuff class.

Every painter returns colours for the whole image, f32[H, W, 3] about in 0..1; the caller decides
which pixels show them. Noise is cropped from a few periodic tiles, which each process makes once
from a constant seed: images are cheap and do not depend on the process that renders them.
"""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

REFERENCE_HEIGHT_PX = 192
REFERENCE_WIDTH_PX = 256
TILE_PX = 512
# Spectral slopes of the noise tiles: the larger, the smoother.
_SLOPES = {'rough': 0.9, 'medium': 1.5, 'smooth': 2.1}

# name: (zenith, skyline, tint of the sunlight, contrast of the light)
_SKIES = {
    'noon': ((0.20, 0.46, 0.86), (0.70, 0.85, 0.97), (1.00, 1.00, 0.98), 1.0),
    'morning': ((0.40, 0.60, 0.88), (0.98, 0.88, 0.76), (1.05, 0.99, 0.90), 1.0),
    'golden': ((0.34, 0.42, 0.70), (0.99, 0.72, 0.46), (1.12, 0.94, 0.76), 1.1),
    'overcast': ((0.60, 0.66, 0.72), (0.84, 0.86, 0.87), (0.93, 0.95, 0.97), 0.45),
    'dusk': ((0.20, 0.22, 0.46), (0.80, 0.54, 0.58), (0.84, 0.80, 0.94), 0.7),
}


@dataclasses.dataclass(frozen=True)
class View:
    """The camera: size of the image and row of the horizon, in pixels."""

    height_px: int
    width_px: int
    horizon_px: float

    @property
    def unit(self) -> float:
        """Pixels of this image per pixel of the 192 x 256 reference image."""
        return min(self.height_px / REFERENCE_HEIGHT_PX, self.width_px / REFERENCE_WIDTH_PX)

    def depth_at(self, y: float | np.ndarray) -> np.ndarray:
        """Returns the nearness of ground row `y`: 0 at the horizon, 1 at the bottom edge."""
        return np.clip((y - self.horizon_px) / (self.height_px - self.horizon_px), 0.0, 1.15)

    def scale_at(self, y: float | np.ndarray) -> np.ndarray:
        """Returns the size of a thing on row `y`; 1 = its reference size at the bottom edge.

        Unlike in true perspective, things at the horizon keep a third of their size, so that they
        are large enough to label.
        """
        return self.unit * (0.36 + 0.64 * self.depth_at(y))


@dataclasses.dataclass(frozen=True)
class Light:
    """Global light of one scene.

    Attributes:
      side: direction of the sun, -1 (left) to 1 (right).
      shadow_length: length of a shadow per height of its thing.
      shadow_rise: rows a shadow rises (> 0, sun behind the camera) or falls (< 0, sun before it)
        per height of its thing.
      tint: colour of the sunlight, three values about 1.
      zenith: colour of the sky at the top.
      skyline: colour of the sky and the haze at the horizon.
      contrast: 0 (diffuse) to 1 (hard light).
    """

    side: float
    shadow_length: float
    shadow_rise: float
    tint: tuple[float, ...]
    zenith: tuple[float, ...]
    skyline: tuple[float, ...]
    contrast: float


def sample_light(rng: np.random.Generator) -> Light:
    """Returns the light of a random time of day."""
    name = rng.choice(list(_SKIES), p=[0.34, 0.22, 0.16, 0.16, 0.12])
    zenith, skyline, tint, contrast = _SKIES[name]
    tint = tuple(np.array(tint) * (1 + rng.normal(0, 0.02, 3)))
    side = float(rng.choice([-1, 1]) * rng.uniform(0.35, 1.0))
    rise = float(rng.choice([1, -1], p=[0.6, 0.4]) * rng.uniform(0.15, 0.3))
    return Light(side, float(rng.uniform(0.4, 1.0)), rise, tint, zenith, skyline, contrast)


@functools.cache
def _noise_tile(kind: str) -> np.ndarray:
    """Returns periodic noise f32[TILE_PX, TILE_PX], mean 0, standard deviation 1."""
    rng = np.random.default_rng([20200611, list(_SLOPES).index(kind)])
    spectrum = np.fft.rfft2(rng.standard_normal((TILE_PX, TILE_PX)))
    frequency = np.hypot(np.fft.fftfreq(TILE_PX)[:, None], np.fft.rfftfreq(TILE_PX)[None, :])
    frequency[0, 0] = 1.0
    spectrum *= frequency ** -_SLOPES[kind] * (frequency > 2.5 / TILE_PX)
    tile = np.fft.irfft2(spectrum, s=(TILE_PX, TILE_PX))
    return (tile / tile.std()).astype(np.float32)


def sample_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    kind: str = 'medium',
    *,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Draws a random crop of a noise tile, magnified.

    Args:
      rng: source of randomness.
      height: rows of the result.
      width: columns of the result.
      kind: 'rough', 'medium' or 'smooth'.
      zoom: magnification (rows, columns); 4 makes structures four times as large.

    Returns:
      f32[height, width], about mean 0 and standard deviation 1.
    """
    rows = int(np.ceil(height / zoom[0])) + 1
    columns = int(np.ceil(width / zoom[1])) + 1
    top, left = rng.integers(0, TILE_PX, 2)
    row_index = (top + np.arange(rows)) % TILE_PX
    column_index = (left + np.arange(columns)) % TILE_PX
    crop = _noise_tile(kind)[row_index[:, None], column_index[None, :]]
    if zoom == (1.0, 1.0):
        return crop[:height, :width]
    box = (0, 0, width / zoom[1], height / zoom[0])
    return np.asarray(
        Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC, box=box)
    )


def ground_noise(
    rng: np.random.Generator,
    view: View,
    kind: str = 'medium',
    *,
    density: float = 1.0,
    stretch: float = 1.0,
) -> np.ndarray:
    """Draws noise that lies on the ground plane in perspective.

    Args:
      rng: source of randomness.
      view: size of the image and its horizon.
      kind: 'rough', 'medium' or 'smooth'.
      density: structures per length; larger is finer.
      stretch: > 1 lengthens the structures sideways (ripples on water).

    Returns:
      f32[H, W]; contrast fades towards the horizon, where the tile would alias.
    """
    y = np.arange(view.height_px, dtype=np.float32)
    below = np.maximum(y - view.horizon_px, 0.0) + 4.0 * view.unit
    distance = (view.height_px - view.horizon_px) / below
    top, left = rng.integers(0, TILE_PX, 2)
    x = np.arange(view.width_px, dtype=np.float32) - view.width_px / 2
    columns = (left + x[None, :] * (distance * density / (view.unit * stretch))[:, None]).astype(
        np.int32
    )
    rows = (top + distance * 150.0 * density).astype(np.int32)
    noise = _noise_tile(kind)[rows[:, None] % TILE_PX, columns % TILE_PX]
    return noise * np.clip(1.6 / (0.6 + distance), 0.15, 1.0)[:, None]


def blend(first: npt.ArrayLike, second: npt.ArrayLike, amount: npt.ArrayLike) -> np.ndarray:
    """Mixes two colours per pixel.

    Args:
      first: colour where `amount` is 0, three values or f32[H, W, 3].
      second: colour where `amount` is 1, three values or f32[H, W, 3].
      amount: f32[H, W] or bool[H, W].

    Returns:
      f32[H, W, 3].
    """
    amount = np.asarray(amount, np.float32)
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    mixed = np.empty(amount.shape + (3,), np.float32)
    # One channel at a time: NumPy is three times slower if the innermost axis holds 3 values.
    for c in range(3):
        mixed[..., c] = first[..., c] + (second[..., c] - first[..., c]) * amount
    return mixed


def tone(color: npt.ArrayLike, factor: np.ndarray) -> np.ndarray:
    """Multiplies a colour, three values or f32[H, W, 3], by f32[H, W]; returns f32[H, W, 3]."""
    color = np.asarray(color, np.float32)
    toned = np.empty(factor.shape + (3,), np.float32)
    for c in range(3):
        toned[..., c] = color[..., c] * factor
    return toned


def ramp(value: float | np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns the smoothstep of `value` from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def paint_sky(rng: np.random.Generator, view: View, light: Light) -> np.ndarray:
    """Paints a gradient, clouds lit from the sun's side, and a glow around the sun."""
    height, width = view.height_px, view.width_px
    y = (np.arange(height, dtype=np.float32) / max(view.horizon_px, 1.0))[:, None]
    gradient = np.clip(y, 0, 1) ** np.float32(0.8) * np.ones((1, width), np.float32)
    color = blend(light.zenith, light.skyline, gradient)
    noise = sample_noise(rng, height, width, 'smooth', zoom=(0.8 * view.unit, 1.8 * view.unit))
    cover = rng.uniform(-0.2, 1.2)
    density = ramp(noise, cover, cover + 1.1) * np.clip(1.25 - 0.8 * y, 0.1, 1.0)
    lit = np.clip(0.6 + 0.5 * _rise_towards_sun(noise, 6 * view.unit, light), 0.0, 1.0)
    white = np.minimum(np.array(light.tint) * 0.98, 1.0)
    color = blend(color, blend(np.array(light.zenith) * 0.35 + 0.42, white, lit), 0.9 * density)
    sun_x = width * (0.5 + 0.55 * light.side)
    x = np.arange(width, dtype=np.float32)[None, :]
    sun_y = view.horizon_px * 0.45
    rows = np.arange(height, dtype=np.float32)[:, None]
    glow = np.exp(-((x - sun_x) ** 2 + (rows - sun_y) ** 2) / (70 * view.unit) ** 2)
    return blend(color, np.minimum(np.array(light.tint) * 1.02, 1.05), 0.55 * light.contrast * glow)


def paint_mountain(
    rng: np.random.Generator, view: View, light: Light, *, haze: float
) -> tuple[np.ndarray, np.ndarray]:
    """Paints rock, forest or bare hills with relief and snow, and haze towards the foot.

    Args:
      rng: source of randomness.
      view: size of the image and its horizon.
      light: light of the scene.
      haze: 0 (clear) to 1 (the colour of the skyline).

    Returns:
      The row of the ridge per column in pixels, f32[W], and the colours, f32[H, W, 3].
    """
    height, width = view.height_px, view.width_px
    profile = sample_noise(rng, 1, width, 'smooth', zoom=(1.0, 0.9 * view.unit))[0]
    jagged = sample_noise(rng, 1, width, 'medium', zoom=(1.0, 1.0 * view.unit))[0]
    lift = np.clip(0.42 + 0.20 * profile + 0.06 * jagged, 0.06, 0.92)
    ridge = view.horizon_px * (1.0 - lift)
    base = np.array(
        [(0.40, 0.40, 0.46), (0.30, 0.39, 0.33), (0.52, 0.43, 0.37), (0.36, 0.40, 0.52)]
    )[rng.integers(4)] * rng.uniform(0.85, 1.15)
    relief = sample_noise(rng, height, width, 'medium', zoom=(1.2 * view.unit, 0.7 * view.unit))
    slope = _rise_towards_sun(relief, 2 * view.unit, light)
    shade = 1.0 + light.contrast * 0.45 * np.clip(slope, -1.2, 1.2)
    color = tone(base, shade)
    y = np.arange(height, dtype=np.float32)[:, None]
    if rng.random() < 0.45:
        snow = ramp(view.horizon_px * 0.48 - y + 7 * view.unit * relief, 0, 6 * view.unit)
        color = blend(color, tone((0.95, 0.96, 1.0), np.clip(shade, 0.7, 1.05)), snow)
    foot = np.clip(haze + 0.45 * ramp(y, view.horizon_px * 0.5, view.horizon_px), 0, 0.85)
    return ridge, blend(
        color * np.array(light.tint, np.float32), light.skyline, foot * np.ones((1, width))
    )


def paint_grass(rng: np.random.Generator, view: View, light: Light) -> np.ndarray:
    """Paints a meadow: patches and blades in perspective, sometimes flowers."""
    lush, dry = (
        np.array([(0.30, 0.54, 0.17), (0.24, 0.47, 0.20), (0.38, 0.53, 0.18)])[rng.integers(3)],
        (0.55, 0.56, 0.25),
    )
    patches = ground_noise(rng, view, 'smooth', density=0.9, stretch=1.6)
    blades = ground_noise(rng, view, 'rough', density=3.5, stretch=0.5)
    color = blend(lush, dry, np.clip(0.22 + 0.25 * patches, 0, 0.8))
    color = tone(color, 1 + 0.13 * blades + 0.10 * patches)
    if rng.random() < 0.35:
        petals = np.array([(0.98, 0.95, 0.9), (0.98, 0.85, 0.25), (0.9, 0.45, 0.55)])[
            rng.integers(3)
        ]
        flowers = ground_noise(rng, view, 'rough', density=1.5)
        color = blend(color, petals, 0.85 * (flowers > 2.2) * (patches > 0))
    return _into_distance(color * np.array(light.tint, np.float32), view, light, 0.35)


def paint_sand(rng: np.random.Generator, view: View, light: Light) -> np.ndarray:
    """Paints a beach: fine grain and wind ripples."""
    base = np.array([(0.88, 0.77, 0.56), (0.83, 0.71, 0.53), (0.92, 0.83, 0.66)])[rng.integers(3)]
    grain = ground_noise(rng, view, 'rough', density=4.0)
    dunes = ground_noise(rng, view, 'smooth', density=1.2, stretch=3.0)
    color = tone(base, 1 + 0.05 * grain + 0.06 * dunes)
    return _into_distance(color * np.array(light.tint, np.float32), view, light, 0.2)


def paint_water(rng: np.random.Generator, view: View, light: Light) -> np.ndarray:
    """Paints water: reflected colours of the sky, ripples, and glints under the sun."""
    y = np.arange(view.height_px, dtype=np.float32)[:, None]
    near = ramp(view.depth_at(y), 0.0, 0.75) * np.ones((1, view.width_px))
    deep = np.array([(0.05, 0.26, 0.42), (0.04, 0.34, 0.42), (0.10, 0.25, 0.36)])[rng.integers(3)]
    color = blend(
        0.35 * np.array(light.skyline) + 0.65 * (deep + 0.12),
        0.20 * np.array(light.zenith) + 0.80 * deep,
        near,
    )
    ripples = ground_noise(rng, view, 'medium', density=1.6, stretch=5.0)
    color += tone(0.6 + np.array(light.skyline), 0.05 * ripples)
    x = np.arange(view.width_px, dtype=np.float32)[None, :]
    column = np.exp(-(((x - view.width_px * (0.5 + 0.55 * light.side)) / (45 * view.unit)) ** 2))
    glints = ramp(ground_noise(rng, view, 'rough', density=1.5, stretch=4.0), 0.5, 1.5)
    return blend(
        color,
        np.minimum(light.tint, 1.0),
        np.clip(glints * (0.12 + 0.6 * light.contrast * column), 0, 0.9),
    )


def paint_road(rng: np.random.Generator, view: View, light: Light) -> np.ndarray:
    """Paints asphalt without markings, which `places` draws along the road."""
    base = np.array([0.36, 0.36, 0.38]) * rng.uniform(0.8, 1.25)
    grain = ground_noise(rng, view, 'rough', density=4.0)
    stains = ground_noise(rng, view, 'smooth', density=1.5)
    return _into_distance(
        tone(base * light.tint, 1 + 0.06 * grain + 0.06 * stains), view, light, 0.25
    )


def paint_wall(rng: np.random.Generator, view: View, light: Light) -> np.ndarray:
    """Paints masonry: courses of bricks or stones with mortar, stains, and a darker foot."""
    height, width = view.height_px, view.width_px
    base = np.array(
        [(0.62, 0.30, 0.23), (0.70, 0.42, 0.30), (0.63, 0.58, 0.50), (0.72, 0.55, 0.38)]
    )[rng.integers(4)]
    course = rng.uniform(5.5, 9.0) * view.unit
    length = course * rng.uniform(1.8, 2.6)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    row = np.floor(y / course).astype(np.int32)
    along = x / length + 0.5 * (row % 2)
    column = np.floor(along).astype(np.int32)
    shade = rng.normal(1.0, 0.09, (64, 64)).astype(np.float32)[row % 64, column % 64]
    # Half a pixel of soft edge on each side of the mortar keeps the courses from flickering.
    edge = np.minimum(
        np.minimum(y - row * course, (row + 1) * course - y),
        length * np.minimum(along - column, column + 1 - along),
    )
    mortar = np.clip(1.1 * view.unit - edge + 0.3, 0, 1)
    stains = sample_noise(rng, height, width, 'smooth', zoom=(view.unit, view.unit))
    color = blend(tone(base, shade + 0.06 * stains), (0.74, 0.71, 0.66), 0.6 * mortar)
    foot = 1.0 - 0.25 * ramp(y, view.horizon_px - 12 * view.unit, view.horizon_px + 4 * view.unit)
    shaded = foot * (0.92 + 0.08 * light.contrast) * np.ones((1, width), np.float32)
    return tone(color * np.array(light.tint, np.float32), shaded)


def _rise_towards_sun(height_map: np.ndarray, step_px: float, light: Light) -> np.ndarray:
    """Returns f32[H, W] minus its value `step_px` columns further from the sun; > 0 is lit."""
    step = int(np.sign(light.side)) * max(1, round(step_px))
    columns = np.arange(height_map.shape[1])
    return height_map - height_map[:, np.clip(columns - step, 0, columns[-1])]


def _into_distance(color: np.ndarray, view: View, light: Light, amount: float) -> np.ndarray:
    """Adds haze towards the horizon and darkens the foreground a little."""
    depth = view.depth_at(np.arange(view.height_px, dtype=np.float32))[:, None]
    haze = amount * (1 - ramp(depth, 0.0, 0.7)) * np.ones((1, view.width_px), np.float32)
    return blend(color * (1.04 - 0.12 * depth)[..., None], light.skyline, haze)
