"""Contrast of dark and flat images for display."""

import numpy as np

CONTRASTS = ('auto', 'stretch', 'none')

# Shares in percent of pixels that may become black and white.
_PERCENTILES = (0.2, 99.8)
# Pixels that percentiles are computed from; more would change nothing.
_MAX_SAMPLES = 2**20
# An image is dark or flat, on a scale of 255, if its bright end or its range stays below these.
_DARK = 128
_FLAT = 64


def stretch_contrast(image: np.ndarray, contrast: str = 'auto') -> np.ndarray:
    """Stretches the values of an image to the whole range, alike in all channels.

    Args:
      image: u8[H, W, 3].
      contrast: 'auto' stretches dark and flat images alone, 'stretch' all, 'none' none.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: there is no such contrast.
    """
    if contrast not in CONTRASTS:
        raise ValueError(f'contrast (={contrast!r}) must be one of {", ".join(CONTRASTS)}')
    if contrast == 'none':
        return image
    step = max(1, int(np.sqrt(image[..., 0].size / _MAX_SAMPLES)))
    # The brightest channel of each pixel decides: fluorescence is often in one alone.
    sample = image[::step, ::step]
    low = np.percentile(sample.min(axis=-1), _PERCENTILES[0])
    high = np.percentile(sample.max(axis=-1), _PERCENTILES[1])
    if contrast == 'auto' and high >= _DARK and high - low >= _FLAT:
        return image
    if high <= low:
        return image
    table = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255)
    return np.round(table).astype(np.uint8)[image]
