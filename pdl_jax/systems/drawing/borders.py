"""Borders between segments."""

import numpy as np


def find_borders(index: np.ndarray, width: int) -> np.ndarray:
    """Returns bool[H, W], true on a line of `width` pixels before every change of segment.

    Args:
      index: i32[H, W], the segment of each pixel.
      width: width of the line in pixels.
    """
    border = np.zeros(index.shape, bool)
    for shift in range(1, width + 1):
        border[:-shift] |= index[:-shift] != index[shift:]
        border[:, :-shift] |= index[:, :-shift] != index[:, shift:]
    return border
