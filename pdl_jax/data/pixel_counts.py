"""Pixels of each class in a split."""

import concurrent.futures
import contextlib
import os

import numpy as np

from pdl_jax.data.records import RecordSource
from pdl_jax.runtime.ordered_map import map_ordered
from pdl_jax.runtime.progress import stage

_MAX_THREADS = 16


def count_class_pixels(source: RecordSource) -> tuple[np.ndarray, np.ndarray]:
    """Counts the pixels of the classes in all images of a split; crowds count for their class.

    The statistics that `prepare` stored have them. A split that was prepared before there were any
    is read once.

    Returns:
      i64[C], pixels of each class, and i64[C], images that have the class. Void, which may be one
      of the classes, has none.

    Raises:
      ValueError: a record cannot be read.
    """
    num_classes, statistics = source.spec.num_classes, source.statistics
    if statistics is not None:
        return np.array(statistics.pixels[:num_classes]), np.array(statistics.images)
    label_format = source.spec.label_format

    def count(index: int) -> np.ndarray:
        semantic = source.decode(index)[1] // label_format.label_divisor
        counts = np.bincount(semantic.ravel(), minlength=label_format.num_semantic_values)
        counts[label_format.ignore_label] = 0
        return counts[:num_classes]

    pixels, images = np.zeros((2, num_classes), np.int64)
    num_threads = max(1, min(_MAX_THREADS, os.cpu_count() or 1))
    with (
        stage(f'counting the pixels of the classes in {len(source)} images'),
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
        contextlib.closing(
            map_ordered(pool, count, range(len(source)), max_in_flight=2 * num_threads)
        ) as results,
    ):
        for counts in results:
            pixels += counts
            images += counts > 0
    return pixels, images
