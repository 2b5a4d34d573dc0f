"""Differences between colours as people see them, also those with a colour-vision deficiency."""

import numpy as np

# Linear sRGB to XYZ over the white point D65 (IEC 61966-2-1).
_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _XYZ.sum(axis=1)
# Dichromats, severity 1.0, in linear sRGB. Source: Machado, Oliveira and Fernandes, A
# physiologically-based model for simulation of color vision deficiency, 2009, table of matrices.
_SIGHTS = {
    'normal': np.eye(3),
    'deuteranope': np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    'protanope': np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
SIGHTS = tuple(_SIGHTS)


def simulate_sight(colors: np.ndarray, sight: str) -> np.ndarray:
    """Simulates how colours look to a person with normal or deficient colour vision.

    Args:
      colors: [..., 3], sRGB in [0, 255].
      sight: one of `SIGHTS`.

    Returns:
      f64[..., 3], linear sRGB in [0, 1].
    """
    gamma = np.asarray(colors, np.float64) / 255
    linear = np.where(gamma <= 0.04045, gamma / 12.92, ((gamma + 0.055) / 1.055) ** 2.4)
    return np.clip(linear @ _SIGHTS[sight].T, 0, 1)


def to_lab(linear: np.ndarray) -> np.ndarray:
    """Converts linear sRGB f64[..., 3] in [0, 1] to CIELAB f64[..., 3] under D65."""
    ratio = linear @ _XYZ.T / _WHITE
    is_small = ratio <= (6 / 29) ** 3
    f = np.where(is_small, ratio * (29 / 6) ** 2 / 3 + 4 / 29, np.cbrt(ratio))
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e_2000(lab1: np.ndarray, lab2: np.ndarray) -> np.ndarray:
    """Computes the colour difference CIEDE2000; 1 is about just noticeable.

    Args:
      lab1: f64[..., 3], CIELAB.
      lab2: f64[..., 3]; the two are broadcast.

    Returns:
      f64[...].

    Source: Sharma, Wu and Dalal, The CIEDE2000 color-difference formula, 2005.
    """
    l1, a1, b1 = np.moveaxis(np.asarray(lab1, np.float64), -1, 0)
    l2, a2, b2 = np.moveaxis(np.asarray(lab2, np.float64), -1, 0)
    stretch = 1.5 - 0.5 * _saturate((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    # Opposite hues have two means; the paper takes the sign of h2 - h1 as it is.
    turn = np.where((turn == -180) & (h2 > h1), 180, turn)
    is_grey = c1 * c2 == 0
    turn = np.where(is_grey, 0, turn)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(is_grey, h1 + h2, (h1 + h2) / 2 + _half_turn(h1, h2, is_grey))
    t = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue)
    t += 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    squared = (lightness - 50) ** 2
    d_lightness = (l2 - l1) / (1 + 0.015 * squared / np.sqrt(20 + squared))
    d_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2) / (1 + 0.015 * chroma * t)
    angle = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * _saturate(chroma) * np.sin(np.radians(angle))
    total = d_lightness**2 + d_chroma**2 + d_hue**2 + rotation * d_chroma * d_hue
    return np.sqrt(np.maximum(total, 0))


def color_distances(
    colors: np.ndarray, others: np.ndarray | None = None, sights: tuple[str, ...] = SIGHTS
) -> np.ndarray:
    """Computes CIEDE2000 between all pairs of colours, the smallest over several sights.

    Args:
      colors: u8[N, 3], sRGB.
      others: u8[M, 3]; by default the colours themselves.
      sights: see `SIGHTS`.

    Returns:
      f64[N, M].
    """
    others = colors if others is None else others
    differences = []
    for sight in sights:
        one, other = (to_lab(simulate_sight(c, sight)) for c in (colors, others))
        differences.append(delta_e_2000(one[:, None], other[None]))
    return np.min(differences, axis=0)


def _half_turn(h1: np.ndarray, h2: np.ndarray, is_grey: np.ndarray) -> np.ndarray:
    """Returns what brings the mean of two hues to the shorter arc between them, in degrees."""
    is_far = (np.abs(h1 - h2) > 180) & ~is_grey
    return np.where(is_far, np.where(h1 + h2 < 360, 180, -180), 0)


def _saturate(chroma: np.ndarray) -> np.ndarray:
    power = chroma**7
    return np.sqrt(power / (power + 25.0**7))


def _cos(degrees: np.ndarray) -> np.ndarray:
    return np.cos(np.radians(degrees))
