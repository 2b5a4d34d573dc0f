"""An image beside its segments, and where the truth is known, beside that and the errors."""

from collections.abc import Mapping, Sequence

import numpy as np

from pdl_jax.systems.drawing.errors import error_picture, find_errors
from pdl_jax.systems.drawing.grid import picture_grid
from pdl_jax.systems.drawing.legend import draw_legend, list_class_entries, list_error_entries
from pdl_jax.systems.drawing.overlay import enlarge_image, overlay_panoptic
from pdl_jax.typing import LabelFormat


def draw_panel(
    image: np.ndarray,
    panoptic: np.ndarray,
    label_format: LabelFormat,
    *,
    class_names: Sequence[str],
    colors: np.ndarray,
    truth: np.ndarray | None = None,
    scores: Mapping[int, float] | None = None,
    alpha: float = 0.5,
    min_side_px: int = 0,
) -> np.ndarray:
    """Draws an image and its overlay side by side over a legend of the classes.

    Args:
      image: u8[H, W, 3].
      panoptic: i32[H, W], the prediction.
      label_format: the coding of classes and instances.
      class_names: by semantic class.
      colors: u8[N, 3], by semantic value.
      truth: i32[H, W]: its overlay and the errors are drawn in a second row.
      scores, alpha, min_side_px: see `overlay_panoptic`.

    Returns:
      u8[h, w, 3].

    Raises:
      ValueError: the image is not u8[H, W, 3] of the size of the maps.
    """

    def draw(labels: np.ndarray, scores: Mapping[int, float] | None) -> np.ndarray:
        return overlay_panoptic(
            image,
            labels,
            label_format,
            class_names=class_names,
            colors=colors,
            alpha=alpha,
            scores=scores,
            min_side_px=min_side_px,
        )

    rows = [{'image': enlarge_image(image, min_side_px), 'prediction': draw(panoptic, scores)}]
    maps = [panoptic]
    error_entries = []
    if truth is not None:
        errors = find_errors(panoptic, truth, label_format)
        picture = enlarge_image(error_picture(errors, image), min_side_px)
        rows.append({'truth': draw(truth, None), 'errors': picture})
        maps.append(truth)
        error_entries = list_error_entries(errors)
    grid = picture_grid([list(row.values()) for row in rows], [list(row) for row in rows])
    width = grid.shape[1]
    legend = draw_legend(list_class_entries(maps, label_format, class_names, colors), width)
    return np.concatenate([grid, legend, draw_legend(error_entries, width)])
