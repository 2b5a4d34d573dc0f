"""Colours for classes that have none, told apart under every kind of colour vision."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from pdl_jax.data.color_difference import color_distances, simulate_sight, to_lab

# Values of the channels of the colours to choose from.
_LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)
# CIELAB lightness: darker colours look like void, brighter ones like the outlines of overlays.
_LIGHTNESS = (28, 90)
# CIELAB chroma: greys cannot be seen over a grey image.
_MIN_CHROMA = 12
# Searches start from so many colours: more find better palettes, in more time.
_NUM_STARTS = 64
# No palette of more colours is readable, so that the search would only take time.
_MAX_SEARCHED = 64


@functools.lru_cache(maxsize=64)
def choose_colors(
    num: int, taken: tuple[tuple[int, int, int], ...] = ()
) -> tuple[tuple[int, int, int], ...]:
    """Chooses colours whose smallest difference is the largest that a local search finds.

    The difference is CIEDE2000, the smallest of normal sight, deuteranopia and protanopia. The
    choice is deterministic. Colours repeat beyond several hundred.

    Args:
      num: number of colours.
      taken: (r, g, b) in [0, 255] of other classes, from which the colours differ too.

    Returns:
      (r, g, b) in [0, 255] of each.
    """
    if not num:
        return ()
    candidates, distances = _list_candidates()
    if taken:
        others = color_distances(np.array(taken), candidates)
        distances = np.concatenate([distances, others])
    # Rows of `distances` beyond the candidates are the colours that are taken.
    fixed = list(range(len(candidates), len(distances)))
    starts = [fixed] if fixed else [[0]]
    if not fixed and num <= _MAX_SEARCHED:
        starts = [[i] for i in range(0, len(candidates), len(candidates) // _NUM_STARTS)]
    searches = []
    for start in starts:
        rows = _spread(distances, start, len(fixed) + num)
        if num <= _MAX_SEARCHED:
            rows = _improve(distances, rows, len(fixed))
        searches.append((_smallest(distances, rows), rows[len(fixed) :]))
    _, best = max(searches, key=lambda search: search[0])
    chosen = [candidates[i] for i in best] or [candidates[0]]
    return tuple(
        (int(r), int(g), int(b)) for r, g, b in (chosen[i % len(chosen)] for i in range(num))
    )


def match_colors(
    colors: Sequence[tuple[int, int, int]], wanted: Sequence[tuple[int, int, int]]
) -> list[tuple[int, int, int]]:
    """Orders colours so that they resemble others of the same number, the closest pair first."""
    distances = color_distances(np.array(wanted), np.array(colors), ('normal',))
    ordered = list(colors)
    for _ in wanted:
        row, column = np.unravel_index(distances.argmin(), distances.shape)
        ordered[int(row)] = colors[int(column)]
        distances[row], distances[:, column] = np.inf, np.inf
    return ordered


@functools.cache
def _list_candidates() -> tuple[np.ndarray, np.ndarray]:
    """Returns colours to choose from, i64[N, 3], and the differences of all pairs, f64[N, N]."""
    colors = np.array(list(itertools.product(_LEVELS, repeat=3)))
    lightness, a, b = to_lab(simulate_sight(colors, 'normal')).T
    low, high = _LIGHTNESS
    colors = colors[(low < lightness) & (lightness < high) & (np.hypot(a, b) > _MIN_CHROMA)]
    return colors, color_distances(colors)


def _spread(distances: np.ndarray, start: list[int], num: int) -> list[int]:
    """Adds the candidate that is the farthest from all rows so far, until there are `num` rows."""
    rows = list(start)
    nearest = distances[rows].min(axis=0)
    while len(rows) < num and nearest.max() > 0:
        rows.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances[rows[-1]])
    return rows


def _improve(distances: np.ndarray, rows: list[int], num_fixed: int) -> list[int]:
    """Exchanges a colour of the closest pair for a better one as long as that helps."""
    rows = list(rows)
    while len(rows) > 1:
        smallest, pair = _find_closest(distances, rows)
        moves = []
        for place in pair:
            if place >= num_fixed:
                nearest = distances[rows[:place] + rows[place + 1 :]].min(axis=0)
                moves.append((nearest.max(), place, int(nearest.argmax())))
        gain, place, row = max(moves, default=(0.0, 0, 0))
        if gain <= smallest + 1e-9:
            break
        rows[place] = row
    return rows


def _find_closest(distances: np.ndarray, rows: list[int]) -> tuple[float, tuple[int, int]]:
    """Returns the smallest difference of two colours that may change, and their places."""
    num_candidates = distances.shape[1]
    columns = [i for i, row in enumerate(rows) if row < num_candidates]
    pairs = distances[np.ix_(rows, [rows[i] for i in columns])].copy()
    pairs[columns, range(len(columns))] = np.inf
    place, column = np.unravel_index(pairs.argmin(), pairs.shape)
    return pairs[place, column], (int(place), columns[column])


def _smallest(distances: np.ndarray, rows: list[int]) -> float:
    return _find_closest(distances, rows)[0] if len(rows) > 1 else np.inf
