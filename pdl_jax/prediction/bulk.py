"""Prediction of long lists of images: threads decode ahead of the devices and encode behind them.

The list is cut into shards. Each process makes every process_count-th of them, without
communication with the others, and skips those that are complete. The content of a shard depends on
its part of the list and on the predictor only.
"""

import collections
import concurrent.futures
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.batching import Batcher, Encoded, Item
from pdl_jax.prediction.image_files import read_image
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.shards import ShardWriter, claim_output, find_complete, hash_list
from pdl_jax.runtime.ordered_map import map_ordered
from pdl_jax.runtime.progress import format_duration
from pdl_jax.storage.paths import is_remote, make_path

_MAX_THREADS = 32
_SAY_EVERY_SECONDS = 10.0
# An incomplete batch starts at the latest so many images of the list after its first one.
_MIN_WINDOW = 32


def predict_shards(
    predictor: Predictor,
    paths: Sequence[str],
    output: str,
    *,
    num_shards: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Predicts a list of images into shards, see `shards` for their content.

    Pictures are turned upright where their EXIF data say so. Images that are missing, damaged, too
    large or no images are listed in their shard with the reason.

    Args:
      predictor: its devices share each batch.
      paths: paths of the images, local or on gs://, each once; the same in the same order on every
        process.
      output: directory, local or gs://.
      num_shards: number of shards that the list is cut into.
      batch_size: images at a time, see `Predictor.start`.
      process_index, process_count: index of this process and number of processes.
      say: called with each line on progress.

    Raises:
      ValueError: there are no images, or fewer than shards, or no such process.
      FileExistsError: the output holds predictions of other images or of another network.
      OSError: the output cannot be written, or the storage of the images fails; the same call
        continues.
    """
    _check_arguments(len(paths), num_shards, batch_size, process_index, process_count)
    folder = make_path(output)
    claim_output(folder, _describe(predictor, paths, num_shards))
    mine = range(process_index, num_shards, process_count)
    complete = find_complete(folder, num_shards)
    todo = [shard for shard in mine if shard not in complete]
    bounds = [len(paths) * i // num_shards for i in range(num_shards + 1)]
    total = sum(bounds[shard + 1] - bounds[shard] for shard in todo)
    say(
        f'process {process_index} of {process_count}: {total} images in {len(todo)} shards; '
        f'{len(mine) - len(todo)} are complete'
    )
    items = (
        Item(i, paths[i], shard) for shard in todo for i in range(bounds[shard], bounds[shard + 1])
    )
    # Rows without an image are computed too: fill the batch up to a multiple of the devices.
    batch_size = ceil_div(batch_size, predictor.num_devices) * predictor.num_devices
    progress = _Progress(total, say)
    _predict_items(predictor, items, folder, num_shards, batch_size, progress)
    progress.finish()


def _check_arguments(
    num_images: int, num_shards: int, batch_size: int, process_index: int, process_count: int
) -> None:
    if not num_images:
        raise ValueError('the list of images is empty')
    if not 1 <= num_shards <= num_images:
        raise ValueError(
            f'--shards (={num_shards}) must lie in 1 .. {num_images}, the number of images'
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f'--process_id (={process_index}) must lie in 0 .. {process_count - 1}, '
            f'--num_processes less 1'
        )
    if batch_size < 1:
        raise ValueError(f'--batch_size (={batch_size}) must be positive')


def _describe(predictor: Predictor, paths: Sequence[str], num_shards: int) -> dict[str, Any]:
    categories = predictor.spec.category_of_class.values()
    return {
        **predictor.origin,
        'num_images': len(paths),
        'images_sha256': hash_list(paths),
        'num_shards': num_shards,
        'categories': [{'id': c.id, 'name': c.name, 'is_thing': c.is_thing} for c in categories],
    }


def _predict_items(
    predictor: Predictor,
    items: Iterator[Item],
    output: epath.Path,
    num_shards: int,
    batch_size: int,
    progress: '_Progress',
) -> None:
    """Reads, predicts and writes the images of all shards that are left."""
    num_threads = min(_MAX_THREADS, 4 * (os.cpu_count() or 1))
    window = max(_MIN_WINDOW, 4 * batch_size)
    with (
        concurrent.futures.ThreadPoolExecutor(num_threads) as workers,
        concurrent.futures.ThreadPoolExecutor(1) as publisher,
    ):
        shards = _OrderedShards(
            output, num_shards, publisher, on_written=progress.count, max_waiting=window
        )
        batcher = Batcher(predictor, workers, shards.take, batch_size=batch_size, window=window)
        # Enough reads to fill the next batch and to keep every thread busy.
        read_item = functools.partial(_read_item, pixels=predictor.pixels)
        images = map_ordered(workers, read_item, items, max_in_flight=num_threads + batch_size + 1)
        try:
            for item, image in images:
                shards.expect(item)
                batcher.put(item, image)
                shards.write_ready()
            batcher.finish()
            shards.finish()
        finally:
            shards.close()
            workers.shutdown(wait=False, cancel_futures=True)


def _read_item(item: Item, *, pixels: PixelFormat) -> tuple[Item, np.ndarray | str]:
    """Reads and decodes an image; returns u8[H, W, C], or the reason why it cannot."""
    try:
        return item, read_image(item.path, pixels)
    except (ValueError, FileNotFoundError) as error:
        return item, str(error)
    except OSError as error:
        # A bucket that cannot be reached is no fault of its images: the run stops and is continued
        # later.
        if is_remote(item.path):
            raise
        return item, str(error)


class _OrderedShards:
    """Writes results, which arrive in any order, into shards in the order of the list.

    Args:
      output: directory of the shards, local or gs://.
      num_shards: number of shards in all.
      publisher: one thread that moves shards to their places.
      on_written: called with the index line of each image that is written.
      max_waiting: results that may wait for an earlier one; beyond that `write_ready` blocks.
    """

    def __init__(
        self,
        output: epath.Path,
        num_shards: int,
        publisher: concurrent.futures.Executor,
        *,
        on_written: Callable[[Mapping[str, Any]], None],
        max_waiting: int,
    ) -> None:
        self._output = output
        self._num_shards = num_shards
        self._publisher = publisher
        self._on_written = on_written
        self._max_waiting = max_waiting
        self._order: collections.deque[Item] = collections.deque()
        self._results: dict[Item, concurrent.futures.Future[Encoded]] = {}
        self._shard: int | None = None
        self._writer: ShardWriter | None = None
        self._publishing: concurrent.futures.Future[None] | None = None

    def expect(self, item: Item) -> None:
        """Announces the next image of the list."""
        self._order.append(item)

    def take(self, item: Item, result: concurrent.futures.Future[Encoded]) -> None:
        """Takes the future results of an image that was announced."""
        self._results[item] = result

    def write_ready(self) -> None:
        """Writes what is ready; waits if encoding falls far behind, which bounds the memory."""
        while self._order and self._order[0] in self._results:
            is_done = self._results[self._order[0]].done()
            if len(self._results) <= self._max_waiting and not is_done:
                return
            self._write_first()

    def finish(self) -> None:
        """Writes the rest and waits until all shards are in their places."""
        while self._order:
            self._write_first()
        self._publish()
        self._wait_for_publisher()

    def close(self) -> None:
        """Drops a shard that is not complete."""
        if self._writer is not None:
            self._writer.close()

    def _write_first(self) -> None:
        item = self._order.popleft()
        entry, files = self._results.pop(item).result()
        if self._writer is None or item.shard != self._shard:
            self._publish()
            self._writer = ShardWriter(self._output, item.shard, self._num_shards)
            self._shard = item.shard
        self._writer.add(entry, files)
        self._on_written(entry)

    def _publish(self) -> None:
        """Publishes the shard in a thread: an upload to a bucket takes long."""
        self._wait_for_publisher()
        if self._writer is not None:
            self._publishing = self._publisher.submit(self._writer.publish)
            self._writer = None

    def _wait_for_publisher(self) -> None:
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None


class _Progress:
    """Reports every few seconds the number of images done, their rate and the time left."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say = total, say
        self._done, self._failed = 0, 0
        self._start = self._last = time.monotonic()
        # The rate counts from the first result on, so that it leaves compilation out.
        self._first: float | None = None
        self._first_done = 0

    def count(self, entry: Mapping[str, Any]) -> None:
        """Counts an image whose results are written."""
        self._done += 1
        self._failed += 'error' in entry
        now = time.monotonic()
        if self._first is None and 'error' not in entry:
            self._first, self._first_done = now, self._done
        if now - self._last >= _SAY_EVERY_SECONDS:
            self._last = now
            rate = self._find_rate(now)
            left = f', ETA {format_duration((self._total - self._done) / rate)}' if rate else ''
            failed = f', {self._failed} failed' if self._failed else ''
            self._say(f'{self._done} of {self._total} images, {rate:.1f}/s{left}{failed}')

    def finish(self) -> None:
        """Reports the result."""
        now = time.monotonic()
        self._say(
            f'{self._done} images in {format_duration(now - self._start)}, '
            f'{self._find_rate(now):.1f}/s after the first'
        )
        if self._failed:
            self._say(
                f'{self._failed} of them could not be predicted: the .jsonl files say why, see '
                f'"error"'
            )

    def _find_rate(self, now: float) -> float:
        if self._first is None or now <= self._first:
            return 0.0
        return (self._done - self._first_done) / (now - self._first)
