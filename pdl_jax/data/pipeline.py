"""Batches on a fixed canvas: endless shuffled ones for training, padded ones for evaluation.

Every batch has the keys
  'image': u8[B, Hc, Wc, C], the image in the top-left corner of the canvas, 0 outside;
  'panoptic': i32[B, Hc, Wc], void outside the image;
  'size': i32[B, 2], (height, width) of the image in pixels;
and those that the functions name. B counts the rows of the global batch that this process feeds:
one of `shard_count` equal contiguous parts, see `sharding.find_batch_shard`.
"""

import concurrent.futures
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from PIL import Image

from pdl_jax.data import records
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.runtime import ordered_map

Batch = dict[str, np.ndarray]

# Skipping stops here: a split with so many unreadable records in a row is broken as a whole.
_MAX_UNREADABLE_RUN = 32
# Decoding releases the GIL but placing and stacking do not, so more threads do not help.
_MAX_THREADS = 16


class TrainIterator:
    """Endless training batches with a position that can be saved; see `make_train_iterator`."""

    def __init__(
        self, batches: grain.MapDataset, num_workers: int, identity: dict[str, int]
    ) -> None:
        self._batches = batches
        self._num_workers = num_workers
        self._identity = identity
        self._next_batch = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> 'TrainIterator':
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._start_reading())
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            # Grain's words for a process that the system killed.
            if 'terminated unexpectedly' not in str(error):
                raise
            raise RuntimeError(
                f'one of the config.data.num_workers (={self._num_workers}) processes that read '
                f'images was killed, most likely for lack of memory ({error}): set fewer of them '
                f'and run the same command again to go on from the newest checkpoint'
            ) from error
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position after the last batch that was handed out, as JSON types.

        It is the same on all processes, for any number of processes and workers.
        """
        return {'next_record': self._next_batch * self._identity['batch_size'], **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues after the last batch before `get_state` returned `state`.

        If the batch size has changed, the position is rounded down to a whole batch.

        Raises:
          ValueError: the state lacks a field, or belongs to another split or seed.
        """
        for key in ('next_record', 'seed', 'num_records'):
            if not isinstance(state.get(key), int) or state[key] < 0:
                raise ValueError(f'input state lacks {key!r} >= 0: {state}')
        for key in ('seed', 'num_records'):
            if state[key] != self._identity[key]:
                raise ValueError(
                    f'input state was saved with {key} {state[key]}, this pipeline has '
                    f'{self._identity[key]}: continue with the same data and seed, or do not '
                    f'restore the input state'
                )
        self.close()
        self._next_batch = state['next_record'] // self._identity['batch_size']

    def close(self) -> None:
        """Stops the worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _start_reading(self) -> grain.IterDataset:
        batches = self._batches[self._next_batch :]
        if self._num_workers:
            # Grain's workers read absl flags, which are not parsed in a notebook or a test.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
            return batches.to_iter_dataset(read).mp_prefetch(
                grain.multiprocessing.MultiprocessingOptions(
                    num_workers=self._num_workers, per_worker_buffer_size=2
                )
            )
        num_threads = _count_threads()
        read = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads + 1)
        return batches.to_iter_dataset(read)


def make_train_iterator(
    source: records.RecordSource,
    *,
    batch_size: int,
    canvas_size: tuple[int, int],
    seed: int,
    num_workers: int = 0,
    skip_unreadable: bool = False,
    shard_index: int = 0,
    shard_count: int = 1,
) -> TrainIterator:
    """Makes endless training batches, reshuffled in each epoch.

    All processes read one global sequence, epoch after epoch without a gap: global batch k holds
    its elements k * batch_size .. (k + 1) * batch_size - 1 in this order, for any number of shards,
    each of which is a contiguous part. So an epoch has each record once over all processes
    together, and a split may be smaller than a batch.

    An image larger than the canvas is shrunk by one factor for both axes until it fits (bilinear;
    labels by nearest neighbour), and 'size' is its new size.

    Args:
      source: the split.
      batch_size: number of rows of the global batch, over all shards.
      canvas_size: (height, width) of the canvas in pixels.
      seed: seed of the shuffling, 0 .. 2**32 - 1.
      num_workers: number of processes that decode; 0: threads of this process decode.
      skip_unreadable: replace a damaged record by the next readable one of the split, instead of
        stopping with an error that names it. Batches then have the key 'num_unreadable', i32[B],
        the number of records skipped for each row.
      shard_index: index of this process's part of each batch.
      shard_count: number of parts of each batch.

    Returns:
      An iterator with `get_state` and `set_state`.

    Raises:
      ValueError: an argument is out of range, or batch_size is not a multiple of shard_count.
    """
    local_batch_size = _divide_batch(batch_size, shard_index, shard_count)
    height, width = _check_canvas(canvas_size)
    if num_workers < 0:
        raise ValueError(f'num_workers (={num_workers}) must not be negative')
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed (={seed}) must lie in 0 .. 2**32 - 1')
    decode = _Decode(source, (height, width), skip_unreadable)
    stack = _Stack((height, width), source)
    elements = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat()
        .map(decode)
        # The sequence is endless, so nothing is dropped. Without this Grain rounds the number of
        # batches up as a float, which exceeds a C integer if a batch has one row.
        .batch(local_batch_size, drop_remainder=True, batch_fn=stack)[shard_index::shard_count]
    )
    identity = {'batch_size': batch_size, 'seed': seed, 'num_records': len(source)}
    return TrainIterator(elements, num_workers, identity)


class EvalBatches:
    """The records of a split once, in order; `file_names` has the names of those read so far."""

    def __init__(
        self,
        source: records.RecordSource,
        local_batch_size: int,
        canvas_size: tuple[int, int],
        shard_index: int,
        shard_count: int,
    ) -> None:
        self._source = source
        self._local_batch_size = local_batch_size
        self._canvas_size = canvas_size
        self._shard_index = shard_index
        self._shard_count = shard_count
        self.file_names: dict[int, str] = {}

    def __len__(self) -> int:
        """Returns the number of batches, the same for all shards."""
        return ceil_div(len(self._source), self._local_batch_size * self._shard_count)

    def __iter__(self) -> Iterator[Batch]:
        num_threads = _count_threads()
        stack = _Stack(self._canvas_size, self._source)
        indices = [self._list_records(batch) for batch in range(len(self))]
        with (
            concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
            contextlib.closing(
                ordered_map.map_ordered(
                    pool,
                    self._source.decode_named,
                    itertools.chain.from_iterable(indices),
                    # Look-ahead for every thread and for the batch that follows.
                    max_in_flight=num_threads + self._local_batch_size + 1,
                )
            ) as decoded,
        ):
            for rows in indices:
                yield self._make_batch(stack, list(itertools.islice(decoded, len(rows))), rows)

    def _list_records(self, batch: int) -> range:
        # The rows of one shard are contiguous in the global array.
        start = (batch * self._shard_count + self._shard_index) * self._local_batch_size
        return range(
            min(start, len(self._source)), min(start + self._local_batch_size, len(self._source))
        )

    def _make_batch(
        self, stack: '_Stack', decoded: list[tuple[np.ndarray, np.ndarray, str]], rows: range
    ) -> Batch:
        elements = [{'image': image, 'panoptic': panoptic} for image, panoptic, _ in decoded]
        self.file_names.update(zip(rows, (name for *_, name in decoded), strict=True))
        batch = stack(elements, num_rows=self._local_batch_size)
        record = np.full(self._local_batch_size, -1, np.int32)
        record[: len(rows)] = rows
        return {**batch, 'valid': record >= 0, 'record': record}


def make_eval_batches(
    source: records.RecordSource,
    *,
    batch_size: int,
    canvas_size: tuple[int, int] | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> EvalBatches:
    """Makes the batches of one pass over a split, in order and at the original resolution.

    The last batch is padded, and shards without a record left get padding only, so that all shards
    have the same number of batches. A batch also has the keys 'valid', bool[B], false for padding
    rows, and 'record', i32[B], the index in the split, -1 for padding rows. The image, size and
    label of padding rows are 0, 0 and void.

    Args:
      source: the split.
      batch_size: number of rows of the global batch, over all shards.
      canvas_size: (height, width) of the canvas in pixels, at least `source.max_size`; None: equal
        to it.
      shard_index: index of this process's part of each batch.
      shard_count: number of parts of each batch.

    Returns:
      A sized iterable, which may be iterated many times. Iterating raises ValueError at an
      unreadable record.

    Raises:
      ValueError: the canvas is too small, or batch_size is not a multiple of shard_count.
    """
    local_batch_size = _divide_batch(batch_size, shard_index, shard_count)
    height, width = _check_canvas(source.max_size if canvas_size is None else canvas_size)
    if height < source.max_size[0] or width < source.max_size[1]:
        raise ValueError(
            f'canvas_size {(height, width)} is smaller than {source.max_size}, the largest '
            f'height and width of {source!r}: evaluation scores the original pixels and never '
            f'shrinks, so leave canvas_size out or enlarge it'
        )
    return EvalBatches(source, local_batch_size, (height, width), shard_index, shard_count)


class _Decode:
    """Function from a record index to arrays that fit the canvas; picklable for workers."""

    def __init__(
        self,
        source: records.RecordSource,
        canvas_size: tuple[int, int],
        skip_unreadable: bool,
    ) -> None:
        self._source = source
        self._canvas_size = canvas_size
        self._skip_unreadable = skip_unreadable

    def __call__(self, index: int) -> dict[str, Any]:
        num_unreadable = 0
        while True:
            try:
                image, panoptic = self._source.decode((index + num_unreadable) % len(self._source))
                break
            except ValueError as error:
                if not self._skip_unreadable:
                    raise
                logging.warning('skipped: %s', error)
                num_unreadable += 1
                # Records are replaced, not dropped, so that positions stay computable on resume.
                if num_unreadable >= min(_MAX_UNREADABLE_RUN, len(self._source)):
                    raise ValueError(
                        f'{num_unreadable} records in a row from {index} of {self._source!r} are '
                        f'unreadable, the last: {error}'
                    ) from error
        image, panoptic = shrink_to_fit(image, panoptic, self._canvas_size)
        element: dict[str, Any] = {'image': image, 'panoptic': panoptic}
        if self._skip_unreadable:
            element['num_unreadable'] = num_unreadable
        return element


class _Stack:
    """Function that places images and labels of several sizes on the canvases of one batch."""

    def __init__(self, canvas_size: tuple[int, int], source: records.RecordSource) -> None:
        self._canvas_size = canvas_size
        self._void_label = source.spec.label_format.void_label
        self._num_channels = source.pixels.num_channels

    def __call__(self, elements: Sequence[dict[str, Any]], num_rows: int | None = None) -> Batch:
        num_rows = len(elements) if num_rows is None else num_rows
        batch = {
            'image': np.zeros((num_rows, *self._canvas_size, self._num_channels), np.uint8),
            'panoptic': np.full((num_rows, *self._canvas_size), self._void_label, np.int32),
            'size': np.zeros((num_rows, 2), np.int32),
        }
        for row, element in enumerate(elements):
            height, width = element['panoptic'].shape
            batch['image'][row, :height, :width] = element['image']
            batch['panoptic'][row, :height, :width] = element['panoptic']
            batch['size'][row] = height, width
        if elements and 'num_unreadable' in elements[0]:
            counts = [element['num_unreadable'] for element in elements]
            batch['num_unreadable'] = np.array(counts, np.int32)
        return batch


def shrink_to_fit(
    image: np.ndarray, panoptic: np.ndarray, canvas_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks an image and its label by one factor to fit the canvas; smaller ones are unchanged.

    Args:
      image: u8[H, W, C].
      panoptic: i32[H, W].
      canvas_size: (height, width) in pixels.

    Returns:
      The image u8[h, w, C], bilinear with the support scaled by the factor, and the label
      i32[h, w], nearest neighbour.
    """
    height, width = panoptic.shape
    factor = min(canvas_size[0] / height, canvas_size[1] / width)
    if factor >= 1:
        return image, panoptic
    # A side of a thin image must not round to 0.
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small_label = Image.fromarray(panoptic).resize(size, Image.Resampling.NEAREST)
    return _resize_bilinear(image, size), np.asarray(small_label)


def _resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes u8[H, W, C] to (width, height)."""
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    # Each channel by itself: Pillow would weight those of RGBA by the fourth.
    channels = [Image.fromarray(channel) for channel in np.moveaxis(image, -1, 0)]
    resized = [channel.resize(size, Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized], axis=-1)


def _divide_batch(batch_size: int, shard_index: int, shard_count: int) -> int:
    if not 0 <= shard_index < shard_count:
        raise ValueError(
            f'shard_index (={shard_index}) must lie in 0 .. shard_count - 1 (={shard_count - 1})'
        )
    if batch_size < 1 or batch_size % shard_count:
        raise ValueError(
            f'the global batch_size (={batch_size}) must be a positive multiple of shard_count '
            f'(={shard_count})'
        )
    return batch_size // shard_count


def _check_canvas(canvas_size: Sequence[int]) -> tuple[int, int]:
    if len(canvas_size) != 2 or min(canvas_size) < 1:
        raise ValueError(f'canvas_size {canvas_size} must be a positive (height, width) in pixels')
    height, width = canvas_size
    return height, width


def _count_threads() -> int:
    return max(1, min(_MAX_THREADS, os.cpu_count() or 1))
