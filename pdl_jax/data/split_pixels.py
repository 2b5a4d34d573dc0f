"""The pixel format of a split that is prepared: chosen, measured, and told."""

import os
from collections.abc import Mapping

from etils import epath

from pdl_jax.data import images, records, split_directory
from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.pixel_format import (
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    PixelFormat,
    ValueRange,
    format_range,
    measure_range,
    sample_values,
)
from pdl_jax.data.record_images import NOT_TURNED, SCALED, TURNED, TURNED_ON_TRUST

# Images that a range is measured from, spread over the split.
_MAX_IMAGES = 64


def choose_pixel_format(
    directory: epath.Path, num_channels: int, value_range: str | ValueRange
) -> tuple[PixelFormat, bool]:
    """Chooses the pixel format of a split before its images are read.

    Args:
      directory: the place of the split; other splits of the data set lie beside it.
      num_channels: number of channels.
      value_range: 'dataset', 'image' or the range.

    Returns:
      The format, and whether its value range is decided. It is not if it is that of a data set, of
      which no split is there that has one.

    Raises:
      ValueError: another split of the data set has another number of channels.
    """
    siblings = _read_siblings(directory)
    for name, pixels in siblings.items():
        if pixels.num_channels != num_channels:
            raise ValueError(
                f'num_channels (={num_channels}) is not that of split {name!r} in '
                f'{os.fspath(directory.parent)}, {pixels.num_channels}: give '
                f'--num_channels={pixels.num_channels} or another --out'
            )
    if value_range == 'image':
        return PixelFormat(num_channels), True
    if not isinstance(value_range, str):
        return PixelFormat(num_channels, value_range), True
    for name, pixels in sorted(siblings.items(), key=lambda item: (item[0] != 'train', item[0])):
        if pixels.value_range is not None:
            print(f'values of more than 8 bits are scaled as in split {name!r}')
            return pixels, True
    return PixelFormat(num_channels), False


def measure_split(source: AnnotatedSplit, num_channels: int) -> PixelFormat:
    """Measures the value range of a split's files with more than 8 bits per channel.

    Args:
      source: the split; at most 64 of its images are read, spread evenly.
      num_channels: number of channels.

    Raises:
      ValueError: an image is damaged or has another number of channels.
    """
    step = max(1, len(source.items) / _MAX_IMAGES)
    chosen = [source.items[int(i * step)] for i in range(min(len(source.items), _MAX_IMAGES))]
    samples = _sample(source, chosen, num_channels)
    if not samples:
        # None of them has more than 8 bits, but another image of the split has.
        samples = _sample(source, source.items, num_channels)
    return PixelFormat(num_channels, measure_range(samples))


def describe_changes(changes: Mapping[str, int], pixels: PixelFormat) -> list[str]:
    """Writes what was done to images, a line for each kind.

    Args:
      changes: number of images by kind, see `record_images`.
      pixels: the format of the split.
    """
    lines = []
    if changes.get(SCALED):
        scaled = f'{changes[SCALED]} images have more than 8 bits per channel: '
        if pixels.value_range is None:
            scaled += f'percentiles {LOW_PERCENTILE} and {HIGH_PERCENTILE} of each'
        else:
            scaled += f'values {format_range(pixels.value_range)}'
        lines.append(f'{scaled} become 0 and 255')
    if changes.get(TURNED):
        lines.append(f'{changes[TURNED]} images were turned by their EXIF orientation to fit')
    if changes.get(TURNED_ON_TRUST):
        lines.append(
            f'note: {changes[TURNED_ON_TRUST]} images were turned by their EXIF orientation, and '
            f'their size does not tell whether their labels were drawn on the turned picture. If '
            f'not, remove the orientation from the files (exiftool -Orientation= FILE)'
        )
    if changes.get(NOT_TURNED):
        lines.append(
            f'{changes[NOT_TURNED]} images have an EXIF orientation, and labels of their stored '
            f'pixels: they are not turned'
        )
    return lines


def _sample(source: AnnotatedSplit, items: tuple | list, num_channels: int) -> list:
    samples = []
    for item in items:
        loaded = source.load(item)
        header = images.read_header(loaded.image, name=loaded.file_name)
        if header.is_deep:
            values = images.decode_values(
                loaded.image,
                name=loaded.file_name,
                num_channels=num_channels,
                is_checked=False,
            )
            samples.append(sample_values(values))
            if len(samples) == _MAX_IMAGES:
                break
    return samples


def _read_siblings(directory: epath.Path) -> dict[str, PixelFormat]:
    """Returns the pixel formats of the other finished splits of the data set, by their names."""
    found = {}
    if directory.parent.is_dir():
        for path in directory.parent.iterdir():
            is_other = path.name != directory.name and not path.name.startswith('.')
            if is_other and split_directory.is_complete(path):
                found[path.name] = _read_format(path)
    return {name: pixels for name, pixels in sorted(found.items()) if pixels is not None}


def _read_format(directory: epath.Path) -> PixelFormat | None:
    try:
        metadata = records.read_metadata(directory)
        return PixelFormat.from_dict(metadata.get('pixels', {}), source=os.fspath(directory))
    except ValueError:
        # A folder of another program, which this split has nothing to do with.
        return None
