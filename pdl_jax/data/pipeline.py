"""Batches on a fixed canvas: endless shuffled ones for training, padded ones for evaluation.

Every batch has the keys
  'image': u8[B, Hc, Wc, 3], the image in the top-left corner, 0 outside;
  'panoptic': i32[B, Hc, Wc], void outside the image;
  'size': i32[B, 2], (height, width) of the image in pixels;
and more as the functions say. B are the rows of the global batch that this process feeds, one of
`shard_count` equal runs of neighbours, see `sharding.find_batch_shard`.
"""

import concurrent.futures
import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from PIL import Image

from pdl_jax.data import records
from pdl_jax.runtime import ordered_map

Batch = dict[str, np.ndarray]

# A split where this many records in a row are unreadable is broken, not scratched.
_MAX_UNREADABLE_RUN = 32
# Decoding releases the GIL, but placing and stacking do not: more threads bring nothing.
_MAX_THREADS = 16


class TrainIterator:
    """Endless training batches with a position that can be saved; see `make_train_iterator`."""

    def __init__(self, batches: grain.MapDataset, num_workers: int, identity: dict[str, int]):
        self._batches = batches
        self._num_workers = num_workers
        self._identity = identity
        self._next_batch = 0
        self._iterator = None

    def __iter__(self) -> 'TrainIterator':
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._start_reading())
        batch = next(self._iterator)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position after the last batch that was handed out, as plain JSON types.

        It is the same on all processes and does not depend on their number, nor on that of workers.
        """
        return {'next_record': self._next_batch * self._identity['batch_size'], **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues behind the last batch before `get_state` gave `state`.

        Where the batch size has changed, the position is rounded down to a whole batch.

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
            # Grain's workers read absl flags, which nobody has parsed in a notebook or a test.
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
    """Makes endless training batches, shuffled anew in each epoch.

    All processes walk through one global sequence, epoch after epoch without a gap: global batch k
    holds its elements k * batch_size .. (k + 1) * batch_size - 1 in this order, whatever the number
    of shards, each of which is a run of neighbours. So an epoch is each record once over all
    processes together, and a split may be smaller than a batch.

    An image larger than the canvas is shrunk by one factor for both axes until it fits (bilinear;
    labels by nearest neighbour), and 'size' is its new size.

    Args:
      source: the split.
      batch_size: global, over all shards.
      canvas_size: (height, width) in pixels of the canvas.
      seed: of the shuffling.
      num_workers: processes that decode; 0 decodes in threads of this process.
      skip_unreadable: whether a damaged record is replaced by the next readable one in the
        split; otherwise the error that names it stops the iteration. Batches then have the key
        'num_unreadable', i32[B]: how many records were skipped for the sake of this row.
      shard_index: of this process.
      shard_count: into which batches are cut.

    Returns:
      An iterator with `get_state` and `set_state`.

    Raises:
      ValueError: an argument is out of range, or batch_size is no multiple of shard_count.
    """
    local_batch_size = _divide_batch(batch_size, shard_index, shard_count)
    _check_canvas(canvas_size)
    if num_workers < 0:
        raise ValueError(f'num_workers (={num_workers}) must not be negative')
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed (={seed}) must lie in 0 .. 2**32 - 1')
    decode = _Decode(source, tuple(canvas_size), skip_unreadable)
    stack = _Stack(tuple(canvas_size), source.spec.label_format.void_label)
    elements = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat()
        .map(decode)
        .batch(local_batch_size, batch_fn=stack)[shard_index::shard_count]
    )
    identity = {'batch_size': batch_size, 'seed': seed, 'num_records': len(source)}
    return TrainIterator(elements, num_workers, identity)


class EvalBatches:
    """The records of a split once, in order; see `make_eval_batches`."""

    def __init__(
        self,
        source: records.RecordSource,
        local_batch_size: int,
        canvas_size: tuple[int, int],
        shard_index: int,
        shard_count: int,
    ):
        self._source = source
        self._local_batch_size = local_batch_size
        self._canvas_size = canvas_size
        self._shard_index = shard_index
        self._shard_count = shard_count

    def __len__(self) -> int:
        """Number of batches, the same of all shards."""
        return -(-len(self._source) // (self._local_batch_size * self._shard_count))

    def __iter__(self) -> Iterator[Batch]:
        num_threads = _count_threads()
        stack = _Stack(self._canvas_size, self._source.spec.label_format.void_label)
        indices = [self._list_records(batch) for batch in range(len(self))]
        with (
            concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
            contextlib.closing(
                ordered_map.map_ordered(
                    pool,
                    self._source.decode,
                    itertools.chain.from_iterable(indices),
                    # Look-ahead for every thread and for the batch that follows.
                    max_in_flight=num_threads + self._local_batch_size + 1,
                )
            ) as decoded,
        ):
            for rows in indices:
                yield self._make_batch(stack, list(itertools.islice(decoded, len(rows))), rows)

    def _list_records(self, batch: int) -> range:
        # The rows of one shard lie together in a global array.
        start = (batch * self._shard_count + self._shard_index) * self._local_batch_size
        return range(
            min(start, len(self._source)), min(start + self._local_batch_size, len(self._source))
        )

    def _make_batch(
        self, stack: '_Stack', decoded: list[tuple[np.ndarray, np.ndarray]], rows: range
    ) -> Batch:
        elements = [{'image': image, 'panoptic': panoptic} for image, panoptic in decoded]
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

    The last batch is padded, and shards that have no record left are padding only, so that all
    of them have the same number of batches. Besides the usual keys a batch has 'valid', bool[B],
    false for padding rows, and 'record', i32[B], the index in the split, -1 for padding rows. The
    image, size and label of padding rows are 0, 0 and void.

    Args:
      source: the split.
      batch_size: global, over all shards.
      canvas_size: (height, width) in pixels, at least the largest of the split; None: exactly that.
      shard_index: of this process.
      shard_count: into which batches are cut.

    Returns:
      An iterable that can be walked through many times, with a length. An unreadable record raises
      ValueError while it is walked through.

    Raises:
      ValueError: the canvas is too small, or batch_size is no multiple of shard_count.
    """
    local_batch_size = _divide_batch(batch_size, shard_index, shard_count)
    if canvas_size is None:
        canvas_size = source.max_size
    _check_canvas(canvas_size)
    if any(have < need for have, need in zip(canvas_size, source.max_size, strict=True)):
        raise ValueError(
            f'canvas_size {tuple(canvas_size)} is smaller than {source.max_size}, the largest '
            f'height and width of {source!r}: evaluation scores the original pixels and never '
            f'shrinks, so leave canvas_size out or enlarge it'
        )
    return EvalBatches(source, local_batch_size, tuple(canvas_size), shard_index, shard_count)


class _Decode:
    """Record index -> decoded arrays that fit the canvas; picklable for worker processes."""

    def __init__(
        self,
        source: records.RecordSource,
        canvas_size: tuple[int, int],
        skip_unreadable: bool,
    ):
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
                # Replacing, not dropping, keeps every position computable, hence resumable.
                if num_unreadable >= min(_MAX_UNREADABLE_RUN, len(self._source)):
                    raise ValueError(
                        f'{num_unreadable} records in a row from {index} of {self._source!r} are '
                        f'unreadable, the last: {error}'
                    ) from error
        image, panoptic = shrink_to_fit(image, panoptic, self._canvas_size)
        element = {'image': image, 'panoptic': panoptic}
        if self._skip_unreadable:
            element['num_unreadable'] = num_unreadable
        return element


class _Stack:
    """Places images and labels of several sizes on the canvases of one batch."""

    def __init__(self, canvas_size: tuple[int, int], void_label: int):
        self._canvas_size = canvas_size
        self._void_label = void_label

    def __call__(self, elements: list[dict[str, Any]], num_rows: int | None = None) -> Batch:
        num_rows = len(elements) if num_rows is None else num_rows
        batch = {
            'image': np.zeros((num_rows, *self._canvas_size, 3), np.uint8),
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
    """Shrinks an image and its label by one factor to fit the canvas; smaller ones stay.

    Args:
      image: u8[H, W, 3].
      panoptic: i32[H, W].
      canvas_size: (height, width) in pixels.

    Returns:
      The image, bilinear with a support as wide as the factor, and the label, nearest neighbour.
    """
    height, width = panoptic.shape
    factor = min(canvas_size[0] / height, canvas_size[1] / width)
    if factor >= 1:
        return image, panoptic
    # A thin image must not vanish.
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small_image = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    small_label = Image.fromarray(panoptic).resize(size, Image.Resampling.NEAREST)
    return np.asarray(small_image), np.asarray(small_label)


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


def _check_canvas(canvas_size: tuple[int, int]) -> None:
    if len(canvas_size) != 2 or min(canvas_size) < 1:
        raise ValueError(f'canvas_size {canvas_size} must be a positive (height, width) in pixels')


def _count_threads() -> int:
    return max(1, min(_MAX_THREADS, os.cpu_count() or 1))
