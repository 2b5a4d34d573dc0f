"""Legends: squares of colour with names."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pdl_jax.systems.drawing.colors import index_labels
from pdl_jax.systems.drawing.errors import ERROR_COLORS, PixelError
from pdl_jax.systems.drawing.fonts import load_font, make_drawable, short_name
from pdl_jax.typing import LabelFormat


def draw_legend(
    entries: Sequence[tuple[str, Sequence[int]]], width_px: int, *, font_px: int = 14
) -> np.ndarray:
    """Draws entries in as many lines as they need, black on white.

    Args:
      entries: name and (r, g, b) each.
      width_px: width of the picture; longer names are cut.
      font_px: size of the text.

    Returns:
      u8[h, width_px, 3].
    """
    font = load_font(font_px)
    line_px, gap_px = round(1.5 * font_px), round(0.4 * font_px)
    places = []
    x = y = gap_px
    for name, color in entries:
        text = make_drawable(name, font_px) or '?'
        entry_px = round(2 * gap_px + font_px + font.getlength(text))
        if x > gap_px and x + entry_px > width_px:
            x, y = gap_px, y + line_px
        places.append((x, y, text, tuple(map(int, color))))
        x += entry_px + gap_px
    canvas = Image.new('RGB', (width_px, y + line_px if entries else 0), 'white')
    draw = ImageDraw.Draw(canvas)
    for x, y, text, color in places:
        draw.rectangle((x, y, x + font_px, y + font_px), fill=color, outline='black')
        draw.text((x + font_px + gap_px, y + font_px / 2), text, 'black', font, anchor='lm')
    return np.asarray(canvas)


def list_class_entries(
    maps: Sequence[np.ndarray],
    label_format: LabelFormat,
    class_names: Sequence[str],
    colors: np.ndarray,
) -> list[tuple[str, tuple[int, int, int]]]:
    """Lists the classes of panoptic maps with the number of their objects in the first map.

    Args:
      maps: i32[H, W] each.
      label_format: the coding of classes and instances.
      class_names: by semantic class.
      colors: u8[N, 3], by semantic value.
    """
    labels = [index_labels(panoptic)[0] for panoptic in maps]
    objects = labels[0][labels[0] % label_format.label_divisor > 0] // label_format.label_divisor
    entries = []
    for semantic in np.unique(np.concatenate(labels) // label_format.label_divisor).tolist():
        if semantic == label_format.ignore_label or semantic >= min(len(class_names), len(colors)):
            continue
        red, green, blue = map(int, colors[semantic])
        count = f'{np.sum(objects == semantic)} ' if semantic in label_format.thing_classes else ''
        entries.append((f'{count}{short_name(class_names, semantic)}', (red, green, blue)))
    return entries


def list_error_entries(errors: np.ndarray) -> list[tuple[str, tuple[int, int, int]]]:
    """Lists the entries of the legend of `error_picture`, with shares of the pixels.

    Args:
      errors: u8[H, W], values of `PixelError`.
    """
    counts = np.bincount(errors.ravel(), minlength=len(PixelError))
    return [
        (f'{kind.name.lower().replace("_", " ")} {counts[kind] / errors.size:.1%}', color)
        for kind, color in ERROR_COLORS.items()
    ]
