"""Pixels as networks get them: the number of channels, and the values that become 0 and 255.

Files with more than 8 bits per channel rarely use all of them: a 12-bit camera writes 0 .. 4095,
and fluorescence may end at 800. Their range decides the contrast, so it is measured: percentiles of
a data set, which `prepare` stores with the records and checkpoints hand on to prediction, or of
each image. Files of 8 bits are never scaled.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdl_jax.storage.json_files import describe_value

# Percentiles that become 0 and 255. Cellpose takes 1 and 99 of each image, StarDist 1 and 99.8;
# these are wider, since the range of a whole data set has to keep the few bright objects of a dark
# one, and narrower than the extremes, which are hot pixels.
LOW_PERCENTILE = 0.1
HIGH_PERCENTILE = 99.9
MAX_CHANNELS = 64

# Pixels per image that a range is measured from, on a regular grid.
_MAX_SAMPLES = 2**16
# Values are scaled in parts, so that their float64 copies stay small.
_MAX_PART = 2**20
# (low, high) of every channel.
ValueRange = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """The pixels that a network gets: u8[H, W, num_channels].

    Attributes:
      num_channels: 3 for RGB, 1 for grey, or the number that the files have.
      value_range: (low, high) of each channel, or one for all: values of files with more than 8
        bits that become 0 and 255. None measures each image.
    """

    num_channels: int = 3
    value_range: ValueRange | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_channels <= MAX_CHANNELS:
            raise ValueError(f'num_channels (={self.num_channels}) must lie in 1 .. {MAX_CHANNELS}')
        if self.value_range is None:
            return
        if len(self.value_range) not in (1, self.num_channels):
            raise ValueError(
                f'value_range (={self.value_range}) must hold one pair, or one for each of '
                f'{self.num_channels} channels'
            )
        for low, high in self.value_range:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f'value_range: LOW (={low}) must be below HIGH (={high})')

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Scales pixel values to 8 bits; values of 8 bits are returned unchanged.

        Args:
          values: number[H, W, num_channels].

        Returns:
          u8[H, W, num_channels]. Values outside the range are clipped, NaN becomes 0.
        """
        if values.dtype == np.uint8:
            return values
        ranges = self.value_range or measure_range([sample_values(values)])
        if len(ranges) == 1:
            ranges = ranges * values.shape[2]
        is_grey = values.shape[2] > 1 and values.strides[2] == 0
        if is_grey and len(set(ranges)) == 1:
            # Grey as three channels is scaled once.
            grey = PixelFormat(1, ranges[:1]).scale(values[..., :1])
            return np.repeat(grey, values.shape[2], axis=2)
        scaled = np.empty(values.shape, np.uint8)
        if values.dtype == np.uint16:
            # A table of all values is faster than arithmetic.
            every = np.arange(2**16, dtype=np.float64)
            for channel, bounds in enumerate(ranges):
                scaled[..., channel] = _scale_part(every, *bounds)[values[..., channel]]
            return scaled
        rows = max(1, _MAX_PART // (values.shape[1] * values.shape[2]))
        low, high = np.array(ranges, np.float64).T
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            scaled[part] = _scale_part(values[part].astype(np.float64), low, high)
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """Returns the format as JSON types."""
        ranges = None if self.value_range is None else [list(pair) for pair in self.value_range]
        return {'num_channels': self.num_channels, 'value_range': ranges}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str) -> 'PixelFormat':
        """Makes a format from the result of `to_dict`; what is missing has its default.

        Args:
          values: the dict, which may come from a damaged file.
          source: its file, for error messages.

        Raises:
          ValueError: a field has a value that it cannot have; the message names the source.
        """
        try:
            ranges = values.get('value_range')
            return cls(
                num_channels=int(values.get('num_channels', 3)),
                value_range=None
                if ranges is None
                else tuple((float(low), float(high)) for low, high in ranges),
            )
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f'{source}: the pixel format, {describe_value(values)}, is no valid one: {error}'
            ) from error


def parse_value_range(text: str) -> str | ValueRange:
    """Reads the choice of a value range: 'dataset', 'image' or 'LOW,HIGH'.

    Raises:
      ValueError: the text is none of these.
    """
    if text in ('dataset', 'image'):
        return text
    try:
        low, high = (float(part) for part in text.split(','))
    except ValueError as error:
        raise ValueError(
            f'--value_range={text} must be dataset, image or two numbers LOW,HIGH'
        ) from error
    value_range = ((low, high),)
    PixelFormat(value_range=value_range)  # Checks it.
    return value_range


def sample_values(values: np.ndarray) -> np.ndarray:
    """Takes the values of pixels on a regular grid, all of them in a small image.

    Args:
      values: number[H, W, C].

    Returns:
      f64[N, C], finite ones; pixels with a channel that is not are left out.
    """
    step = math.ceil(math.sqrt(values.shape[0] * values.shape[1] / _MAX_SAMPLES))
    samples = values[::step, ::step].reshape(-1, values.shape[2]).astype(np.float64)
    return samples[np.isfinite(samples).all(axis=1)]


def measure_range(samples: Sequence[np.ndarray]) -> ValueRange:
    """Measures the value range of images, each channel by itself.

    Channels of a microscope differ by orders of magnitude, so that a common range would blacken
    the faint ones.

    Args:
      samples: f64[N, C] each, results of `sample_values`.

    Returns:
      The percentiles `LOW_PERCENTILE` and `HIGH_PERCENTILE` of each channel, or its extremes if
      they are equal.
    """
    pooled = np.concatenate(samples)
    ranges = []
    for channel in pooled.T:
        if not channel.size:
            ranges.append((0.0, 1.0))
            continue
        low, high = np.percentile(channel, [LOW_PERCENTILE, HIGH_PERCENTILE])
        if low == high:
            low, high = channel.min(), channel.max()
        # A flat channel becomes black.
        ranges.append((float(low), float(high) if high > low else float(low) + 1.0))
    return tuple(ranges)


def format_range(value_range: ValueRange) -> str:
    """Writes a value range for people: '102 .. 3990', a range per channel where they differ."""
    shown = [f'{low:.6g} .. {high:.6g}' for low, high in value_range]
    return shown[0] if len(set(shown)) == 1 else ', '.join(shown)


def match_channels(
    values: np.ndarray, num_channels: int | None, has_alpha: bool, name: str
) -> np.ndarray:
    """Brings pixels to a number of channels, if nothing but opacity is lost by it.

    Args:
      values: number[H, W, C].
      num_channels: the number; None takes all.
      has_alpha: whether the last channel is opacity.
      name: name of the image, for error messages.

    Raises:
      ValueError: the image has another number of channels.
    """
    found = values.shape[2]
    if num_channels in (None, found):
        return values
    colors = values[..., :-1] if has_alpha else values
    if colors.shape[2] == num_channels:
        return colors
    if num_channels == 3 and colors.shape[2] == 1:
        return np.broadcast_to(colors, (*colors.shape[:2], 3))
    is_grey = num_channels == 1 and colors.shape[2] == 3
    if is_grey and (colors == colors[..., :1]).all():
        return colors[..., :1]
    opacity = ' with its opacity' if has_alpha else ''
    raise ValueError(
        f'{name} has {found} channels{opacity}, not the {num_channels} of num_channels: convert '
        f'the image, or choose another --num_channels of prepare and config.data.num_channels'
    )


def _scale_part(values: np.ndarray, low: Any, high: Any) -> np.ndarray:
    with np.errstate(invalid='ignore', over='ignore'):
        scaled = (values - low) * (255 / (high - low))
    return np.nan_to_num(np.rint(scaled), nan=0.0).clip(0, 255).astype(np.uint8)
