"""Checks every image of a split and lists all faults, not only the first."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tqdm

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.data.notices import Notices
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.statistics import (
    ImageStatistics,
    SplitStatistics,
    StatisticsCollector,
    count_labels,
)
from pdl_jax.runtime import process_map


class Sample(NamedTuple):
    """An image with its label, for a look at them.

    Attributes:
      name: name of the image.
      image: u8[H, W, 3].
      panoptic: i32[H, W].
    """

    name: str
    image: np.ndarray
    panoptic: np.ndarray


class CheckedSplit(NamedTuple):
    """The result of a check.

    Attributes:
      faults: a line for each image that cannot be read or contradicts its label.
      notes: what was derived or repaired, a line for each kind.
      statistics: counts over the labels of the others.
      samples: some of the others, evenly spread.
    """

    faults: list[str]
    notes: tuple[str, ...]
    statistics: SplitStatistics
    samples: list[Sample]


def check_split(
    source: AnnotatedSplit, *, num_samples: int = 12, num_processes: int | None = None
) -> CheckedSplit:
    """Loads every image of a split.

    Args:
      source: the split.
      num_samples: number of samples.
      num_processes: see `prepare.prepare_split`.

    Raises:
      RuntimeError: a worker process died.
    """
    # Starting workers costs more than a few images.
    if len(source.items) < 32:
        num_processes = 0
    check = functools.partial(_check_item, load=source.load, spec=source.spec)
    collector = StatisticsCollector(source.spec)
    faults, good = [], []
    notices = Notices()
    with process_map.map_ordered(check, source.items, num_processes) as results:
        progress = tqdm.tqdm(
            results, total=len(source.items), desc='checking', unit='image', disable=None
        )
        for item, result in zip(source.items, progress, strict=True):
            if isinstance(result, str):
                faults.append(result)
            else:
                statistics, name, remarks = result
                collector.add(statistics)
                notices.add_remarks(remarks, name)
                good.append(item)
    stride = max(1, -(-len(good) // num_samples))
    samples = [_load_sample(item, source.load) for item in good[::stride]]
    notes = (*source.notes, *notices.to_lines())
    return CheckedSplit(faults, notes, collector.compute(), samples)


def _check_item(
    item: Any, *, load: Callable[[Any], LoadedRecord], spec: catalog.DatasetSpec
) -> tuple[ImageStatistics, str, Mapping[str, int]] | str:
    try:
        record = load(item)
        return count_labels(record.panoptic, spec), record.file_name, record.remarks
    except (OSError, ValueError) as error:
        return str(error)


def _load_sample(item: Any, load: Callable[[Any], LoadedRecord]) -> Sample:
    record = load(item)
    header = images.read_header(record.image, name=record.file_name)
    values = images.decode_values(record.image, name=record.file_name, num_channels=None)
    # As `prepare` stores it: upright if the label is, and of 8 bits.
    if header.upright_size == record.panoptic.shape:
        values = images.turn_upright(values, header.orientation)
    image = images.show_channels(PixelFormat(values.shape[2]).scale(values))
    return Sample(record.file_name, image, record.panoptic)
