"""The camera of the generated scenes: obstacles, which become void, and flaws of the image."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pdl_jax.data.scenes import textures as scene_textures
from pdl_jax.data.scenes.places import VOID, Canvas
from pdl_jax.data.scenes.textures import Light


def _draw_glare(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Draws the sun in the lens: a bright spot without a contour."""
    height, width = canvas.label.shape
    center_y, center_x = rng.uniform(0.05, 0.6) * height, (0.5 + 0.45 * light.side) * width
    radius = rng.uniform(26, 44) * canvas.view.unit
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    strength = np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / radius**2)
    white = np.minimum(np.array(light.tint) * 1.05, 1.1)
    canvas.color = scene_textures.blend(canvas.color, white, np.minimum(1.25 * strength, 1))
    canvas.label[strength > 0.62] = VOID


def _draw_smudge(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Draws a drop on the lens, behind which everything is blurred."""
    del light
    height, width = canvas.label.shape
    center_y, center_x = rng.uniform(0.2, 0.85) * height, rng.uniform(0.15, 0.85) * width
    radius_y, radius_x = rng.uniform(12, 24, 2) * canvas.view.unit
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    inside = 1 - np.hypot((x - center_x) / radius_x, (y - center_y) / radius_y)
    blurred = _to_image(canvas.color).filter(ImageFilter.GaussianBlur(7 * canvas.view.unit))
    milky = np.asarray(blurred, np.float32) / 255 * 0.8 + 0.19
    canvas.color = scene_textures.blend(
        canvas.color, milky, scene_textures.ramp(inside, -0.1, 0.15)
    )
    canvas.label[inside > 0] = VOID


def _draw_logo(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Draws a station logo in a corner: a plate with bars for letters."""
    del light
    height, width = canvas.label.shape
    unit = canvas.view.unit
    plate_h, plate_w = round(rng.uniform(14, 20) * unit), round(rng.uniform(34, 50) * unit)
    top = round(6 * unit) if rng.random() < 0.5 else height - plate_h - round(6 * unit)
    left = round(6 * unit) if rng.random() < 0.5 else width - plate_w - round(6 * unit)
    color = np.array([(0.10, 0.12, 0.35), (0.55, 0.08, 0.10), (0.95, 0.95, 0.95)])[rng.integers(3)]
    canvas.color[top : top + plate_h, left : left + plate_w] *= 0.2
    canvas.color[top : top + plate_h, left : left + plate_w] += 0.8 * color
    ink = 1.0 - 0.9 * np.round(color.mean())
    x = left + round(4 * unit)
    while x < left + plate_w - 6 * unit:
        letter = max(2, round(rng.uniform(2, 6) * unit))
        tall = round(rng.uniform(0.3, 0.6) * plate_h)
        canvas.color[
            top + plate_h - tall - round(3 * unit) : top + plate_h - round(3 * unit), x : x + letter
        ] = ink
        x += letter + max(1, round(2 * unit))
    canvas.label[top : top + plate_h, left : left + plate_w] = VOID


def _draw_bonnet(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Draws the bonnet of the observer's vehicle at the lower edge, as in driving data."""
    height, width = canvas.label.shape
    scale = 4
    sheet = Image.new('L', (width * scale, height * scale))
    rise, reach = rng.uniform(0.07, 0.13) * height, rng.uniform(0.55, 0.8) * width
    center = width * rng.uniform(0.4, 0.6)
    box = [center - reach, height - rise, center + reach, height + 5 * rise]
    ImageDraw.Draw(sheet).ellipse([value * scale for value in box], fill=255)
    alpha = np.asarray(sheet.reduce(scale), np.float32) / 255
    y = np.arange(height, dtype=np.float32)[:, None]
    shine = np.exp(-(((y - (height - 0.6 * rise)) / (0.25 * rise)) ** 2)) * np.ones((1, width))
    paint = np.array([(0.12, 0.12, 0.14), (0.40, 0.08, 0.08), (0.10, 0.14, 0.30)])[rng.integers(3)]
    canvas.fill(scene_textures.blend(paint, light.skyline, 0.35 * shine), VOID, alpha)


_OBSTACLES = (_draw_glare, _draw_smudge, _draw_logo, _draw_bonnet)


def draw_obstacle(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Draws glare, a drop, a logo or a bonnet over the scene and labels its pixels void."""
    _OBSTACLES[rng.integers(len(_OBSTACLES))](rng, canvas, light)


def _to_image(color: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(color, 0, 1) * 255).astype(np.uint8))


def develop_image(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Returns the image u8[H, W, 3]: exposure, vignette, blur of the lens, noise of the sensor."""
    height, width = canvas.label.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    vignette = 1 - rng.uniform(0.05, 0.28) * (0.5 * (x * x + y * y))
    color = scene_textures.tone(canvas.color, rng.uniform(0.9, 1.1) * vignette)
    soft = _to_image(color).filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.6) * canvas.view.unit))
    noise = rng.standard_normal(color.shape, np.float32) * np.float32(rng.uniform(1.0, 5.0))
    return np.clip(np.asarray(soft, np.float32) + noise + 0.5, 0, 255).astype(np.uint8)
