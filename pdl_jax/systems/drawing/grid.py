"""Pictures side by side with titles, and those that training writes of one sample."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pdl_jax.systems.drawing.colors import color_panoptic, color_semantic
from pdl_jax.systems.drawing.fields import draw_offset, draw_ponder, heatmap_picture
from pdl_jax.systems.drawing.fonts import load_font
from pdl_jax.typing import LabelFormat

_GAP_PX = 4


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[Sequence[str]] | None = None
) -> np.ndarray:
    """Lays pictures out in rows on white.

    Args:
      rows: u8[h, w, 3] pictures of any size.
      titles: one line of text above each picture, in the same order.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: there is no picture, or the titles do not match the pictures.
    """
    if not rows or not all(rows):
        raise ValueError(f'each row needs a picture, got rows of {list(map(len, rows))}')
    if titles is not None and list(map(len, titles)) != list(map(len, rows)):
        raise ValueError(
            f'titles (={titles}) must be one per picture; the rows have {list(map(len, rows))}'
        )
    font_px = round(np.clip(rows[0][0].shape[1] / 20, 10, 24))
    title_px = 0 if titles is None else round(1.5 * font_px)
    num_columns = max(len(row) for row in rows)
    widths = [max(row[j].shape[1] for row in rows if j < len(row)) for j in range(num_columns)]
    heights = [title_px + max(picture.shape[0] for picture in row) for row in rows]
    height, width = (sum(sides) + _GAP_PX * (len(sides) - 1) for sides in (heights, widths))
    canvas = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(canvas)
    y = 0
    for i, row in enumerate(rows):
        x = 0
        for j, picture in enumerate(row):
            if titles is not None:
                middle = (x + 2, y + title_px // 2)
                draw.text(middle, titles[i][j], 'black', load_font(font_px), anchor='lm')
            canvas.paste(Image.fromarray(picture), (x, y + title_px))
            x += widths[j] + _GAP_PX
        y += heights[i] + _GAP_PX
    return np.asarray(canvas)


def training_pictures(
    image: np.ndarray,
    target: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
    *,
    label_format: LabelFormat,
    colors: np.ndarray,
    max_side_px: int = 512,
) -> dict[str, np.ndarray]:
    """Draws the targets and the predictions of one sample.

    Args:
      image: u8[H, W, 3].
      target: 'semantic' i32[H, W], 'center' f32[H, W], 'offset' f32[H, W, 2], and the weights
        'semantic_weight', 'center_weight', 'offset_weight', each f32[H, W].
      prediction: 'semantic', 'center' and 'offset' like the target's, and 'panoptic' i32[H, W]; a
        semantic network has 'semantic' alone, and only the semantic targets are drawn. An adaptive
        network has 'ponder' f32[H, W] too.
      label_format: the coding of classes and instances.
      colors: u8[N, 3], by semantic value.
      max_side_px: limit of the longer side; larger pictures are shrunk, since event files keep all.

    Returns:
      u8 pictures 'target' and 'prediction', each a row with titles.
    """
    weight = target['semantic_weight'] * (target['semantic'] != label_format.ignore_label)
    highest = max(weight.max(), 1e-6)
    wanted = {'image': image, 'semantic': color_semantic(target['semantic'], colors)}
    answer = {'semantic': color_semantic(prediction['semantic'], colors)}
    if 'center' in prediction:
        is_object = np.asarray(target['offset_weight']) > 0
        center = heatmap_picture(target['center'], image)
        center[np.asarray(target['center_weight']) <= 0] //= 3
        wanted['center (dark: no loss)'] = center
        wanted['offset'] = draw_offset(target['offset'], is_object)
        heat = prediction['center']
        answer = {
            'panoptic': color_panoptic(prediction['panoptic'], label_format, colors),
            **answer,
            f'center, up to {np.max(heat):.2f}': heatmap_picture(heat, image),
            'offset': draw_offset(prediction['offset']),
            'offset at target objects': draw_offset(prediction['offset'], is_object),
        }
    if 'ponder' in prediction:
        ponder = prediction['ponder']
        title = f'ponder, {np.min(ponder):.1f} to {np.max(ponder):.1f} units'
        answer[title] = draw_ponder(ponder, image)
    wanted[f'semantic weight / {highest:.3g}'] = heatmap_picture(weight / highest)
    return {
        name: picture_grid([[_shrink(p, max_side_px) for p in row.values()]], [list(row)])
        for name, row in (('target', wanted), ('prediction', answer))
    }


def _shrink(picture: np.ndarray, max_side_px: int) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.BOX)
    return np.asarray(image)
