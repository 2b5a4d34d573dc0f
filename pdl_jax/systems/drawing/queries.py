"""Maps of queries as pictures."""

import colorsys

import numpy as np

from pdl_jax.systems.drawing.overlay import resize_image

# Successive multiples of the golden ratio are far apart on the colour circle.
_TURN = 0.618034
_SATURATIONS = (0.85, 0.55)
_VALUES = (0.95, 0.75, 0.55)


def color_queries(queries: np.ndarray, num: int, size: tuple[int, ...]) -> np.ndarray:
    """Paints every pixel in the colour of its query.

    Args:
      queries: i32[h, w] in [0, num); pixels outside of that are black.
      num: number of queries.
      size: (height, width) of the picture in pixels.

    Returns:
      u8[H, W, 3].
    """
    table = np.zeros((num + 1, 3), np.uint8)
    for i in range(num):
        saturation = _SATURATIONS[i % len(_SATURATIONS)]
        color = colorsys.hsv_to_rgb(i * _TURN % 1, saturation, _VALUES[i % len(_VALUES)])
        table[i] = np.round(255 * np.array(color))
    is_query = (queries >= 0) & (queries < num)
    picture = table[np.where(is_query, queries, num)]
    return resize_image(picture, size, is_smooth=False)
