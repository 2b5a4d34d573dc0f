"""Prediction of long lists of images: threads decode ahead of the devices and encode behind them.

The list is cut into shards. Each process makes every process_count-th of them, without talking to the others, and leaves out
those that are complete. What a shard holds depends on its part of the list and on the predictor only.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from pdl_jax.data.images import decode_image
from pdl_jax.prediction.image_list import make_key
from pdl_jax.prediction.predictor import PanopticResult, Predictor
from pdl_jax.prediction.shards import ShardWriter, claim_output, find_complete, hash_list
from pdl_jax.runtime.progress import format_duration
from pdl_jax.storage.paths import explain_bucket_errors, is_remote, make_path

_MAX_THREADS = 32
_SAY_EVERY_SECONDS = 10.0
# Images of several canvases wait for others to share a batch with, until so many of the list lie between.
_MIN_WINDOW = 32


@dataclasses.dataclass(frozen=True)
class _Item:
    """One image: its position in the whole list, its path and its shard."""

    position: int
    path: str
    shard: int


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
    """Predicts a list of images into shards, see `prediction_shards` for what they hold.

    Pictures are turned upright where their EXIF data say so. Images that are missing, damaged, too large or no images are listed
    in their shard with the reason.

    Args:
      predictor: its devices share each batch.
      paths: of the images, local or on gs://, each once; the same in the same order on every process.
      output: directory, local or gs://.
      num_shards: into which the list is cut.
      batch_size: images at a time, see `Predictor.start`.
      process_index, process_count: which of how many processes this is.
      say: takes lines on progress.

    Raises:
      ValueError: there are no images, or fewer than shards, or no such process.
      FileExistsError: the output holds predictions of other images or of another network.
      OSError: the output cannot be written, or the storage of the images fails; made again, the call continues.
    """
    if not paths:
        raise ValueError('the list of images is empty')
    if not 1 <= num_shards <= len(paths):
        raise ValueError(
            f'--shards (={num_shards}) must lie in 1 .. {len(paths)}, the number of images'
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f'--process_id (={process_index}) must lie in 0 .. {process_count - 1}, --num_processes less 1'
        )
    if batch_size < 1:
        raise ValueError(f'--batch_size (={batch_size}) must be positive')
    output = make_path(output)
    claim_output(output, _describe(predictor, paths, num_shards))
    mine = range(process_index, num_shards, process_count)
    complete = find_complete(output, num_shards)
    todo = [shard for shard in mine if shard not in complete]
    bounds = [len(paths) * i // num_shards for i in range(num_shards + 1)]
    total = sum(bounds[shard + 1] - bounds[shard] for shard in todo)
    say(
        f'process {process_index} of {process_count}: {total} images in {len(todo)} shards; {len(mine) - len(todo)} are complete'
    )
    items = (
        _Item(i, paths[i], shard) for shard in todo for i in range(bounds[shard], bounds[shard + 1])
    )
    num_threads = min(_MAX_THREADS, 4 * (os.cpu_count() or 1))
    progress = _Progress(total, say)
    with (
        concurrent.futures.ThreadPoolExecutor(num_threads) as workers,
        concurrent.futures.ThreadPoolExecutor(1) as publisher,
    ):
        flow = _Flow(predictor, workers, publisher, output, num_shards, batch_size, progress)
        try:
            for item, image in _decode_ahead(items, workers, num_threads + batch_size):
                flow.put(item, image)
            flow.finish()
        finally:
            flow.close()
            workers.shutdown(wait=False, cancel_futures=True)
    progress.finish()


def _describe(predictor: Predictor, paths: Sequence[str], num_shards: int) -> dict[str, Any]:
    categories = predictor.spec.category_of_class.values()
    return {
        **predictor.origin,
        'num_images': len(paths),
        'images_sha256': hash_list(paths),
        'num_shards': num_shards,
        'categories': [{'id': c.id, 'name': c.name, 'is_thing': c.is_thing} for c in categories],
    }


def _decode_ahead(
    items: Iterator[_Item], workers: concurrent.futures.Executor, num_ahead: int
) -> Iterator[tuple[_Item, np.ndarray | str]]:
    """Yields each item in order with its image, or with the reason why there is none."""
    pending = collections.deque()
    for item in items:
        pending.append((item, workers.submit(_read_image, item.path)))
        if len(pending) > num_ahead:
            item, future = pending.popleft()
            yield item, future.result()
    for item, future in pending:
        yield item, future.result()


def _read_image(path: str) -> np.ndarray | str:
    # A bucket that cannot be reached is no fault of its images: the run stops and is continued later.
    with explain_bucket_errors(path):
        try:
            return decode_image(epath.Path(path).read_bytes(), name=path, is_exif_applied=True)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        except OSError as error:
            if is_remote(path):
                raise
            return str(error)


class _Flow:
    """Brings images into batches, batches through the devices and results into shards, in order."""

    def __init__(self, predictor, workers, publisher, output, num_shards, batch_size, progress):
        self._predictor, self._workers, self._publisher = predictor, workers, publisher
        self._output, self._num_shards = output, num_shards
        # A batch is padded to a multiple of the devices: better filled with images.
        self._batch_size = -(-batch_size // predictor.num_devices) * predictor.num_devices
        # Canvases of which so many images at once exceed the devices' memory.
        self._large_canvases = set()
        self._window = max(_MIN_WINDOW, 4 * self._batch_size)
        self._progress = progress
        self._groups = {}
        self._running = None
        self._encoded = {}
        self._order = collections.deque()
        self._writer, self._shard, self._publishing = None, None, None

    def put(self, item: _Item, image: np.ndarray | str) -> None:
        """Takes the next image of the list, or the reason why there is none."""
        if self._order and self._order[-1].shard != item.shard:
            # A shard made anew after a crash must be the same, so no batch belongs to two.
            self._start_groups()
        self._order.append(item)
        if isinstance(image, str):
            self._fail(item, image)
        else:
            self._add_to_group(item, image)
        oldest = self._oldest_first()[:1]
        if oldest and item.position - self._groups[oldest[0]][0][0].position >= self._window:
            self._start_batch(oldest[0])
        # With few images among many that cannot be read no other batch asks for this one.
        if (
            self._running is not None
            and item.position - self._running[0][0][0].position >= 2 * self._window
        ):
            self._finish_batch()
        self._write_encoded()

    def finish(self) -> None:
        """Waits until all shards are in their places."""
        self._start_groups()
        self._finish_batch()
        while self._order:
            self._write_first()
        self._publish()
        self._wait_for_publisher()

    def close(self) -> None:
        """Lets go of a shard that is not complete."""
        if self._writer is not None:
            self._writer.close()

    def _fail(self, item, reason):
        self._encoded[item] = _completed(({'image': item.path, 'error': reason}, {}))

    def _fail_batch(self, batch):
        for item, image in batch:
            self._fail(
                item,
                f'{item.path}: {image.shape[0]}x{image.shape[1]} pixels exceed the memory of the device',
            )

    def _add_to_group(self, item, image):
        try:
            canvas = self._predictor.canvas_size(image.shape[:2])
        except ValueError as error:
            self._fail(item, f'{item.path}: {error}')
            return
        self._groups.setdefault(canvas, []).append((item, image))
        if len(self._groups[canvas]) == self._choose_batch_size(canvas):
            self._start_batch(canvas)

    def _choose_batch_size(self, canvas):
        return self._predictor.num_devices if canvas in self._large_canvases else self._batch_size

    def _start_groups(self):
        for canvas in self._oldest_first():
            self._start_batch(canvas)

    def _oldest_first(self):
        """The canvases of the groups by their first images."""
        return sorted(self._groups, key=lambda canvas: self._groups[canvas][0][0].position)

    def _start_batch(self, canvas):
        batch = self._groups.pop(canvas)
        batch_size = self._choose_batch_size(canvas)
        running = batch, self._start(batch, batch_size), batch_size
        # The batch before is read while this one runs.
        self._finish_batch()
        self._running = running

    def _start(self, batch, batch_size):
        try:
            return self._predictor.start([image for _, image in batch], batch_size=batch_size)
        except jax.errors.JaxRuntimeError as error:
            return _raiser(error)

    def _finish_batch(self):
        if self._running is None:
            return
        batch, finish, batch_size = self._running
        self._running = None
        if self._encode_results(batch, finish):
            return
        num_devices = self._predictor.num_devices
        if batch_size == num_devices:
            self._fail_batch(batch)
            return
        # One at a time a device may hold them, and those to come.
        self._large_canvases.add(self._predictor.canvas_size(batch[0][1].shape[:2]))
        for start in range(0, len(batch), num_devices):
            part = batch[start : start + num_devices]
            if not self._encode_results(part, self._start(part, num_devices)):
                self._fail_batch(part)

    def _encode_results(self, batch, finish):
        """Waits for the results of a batch; False where the memory of a device did not suffice."""
        try:
            results = finish()
        except jax.errors.JaxRuntimeError as error:
            # A device that is lost is another matter.
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            return False
        for (item, image), result in zip(batch, results, strict=True):
            self._encoded[item] = self._workers.submit(_encode, item, image.shape[:2], result)
        return True

    def _write_encoded(self):
        """Writes what is ready; waits where the encoding falls far behind, so that memory is bounded."""
        while self._order and self._order[0] in self._encoded:
            if len(self._encoded) <= self._window and not self._encoded[self._order[0]].done():
                return
            self._write_first()

    def _write_first(self):
        item = self._order.popleft()
        entry, files = self._encoded.pop(item).result()
        if item.shard != self._shard:
            self._publish()
            self._writer, self._shard = (
                ShardWriter(self._output, item.shard, self._num_shards),
                item.shard,
            )
        self._writer.add(entry, files)
        self._progress.count(entry)

    def _publish(self):
        """Lets a thread put the shard in its place: a bucket takes its time."""
        self._wait_for_publisher()
        if self._writer is not None:
            self._publishing = self._publisher.submit(self._writer.publish)
            self._writer = None

    def _wait_for_publisher(self):
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None


def _encode(
    item: _Item, size: tuple[int, int], result: PanopticResult
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The line of the index and the files of one image."""
    key = make_key(item.position, item.path)
    entry = {
        'image': item.path,
        'key': key,
        'height': size[0],
        'width': size[1],
        'segments': result.to_json(),
    }
    kind = 'semantic' if result.is_semantic else 'panoptic'
    return entry, {f'{key}.{kind}.png': result.to_png(), f'{key}.json': json.dumps(entry).encode()}


def _completed(value: Any) -> concurrent.futures.Future:
    future = concurrent.futures.Future()
    future.set_result(value)
    return future


def _raiser(error: Exception) -> Callable[[], None]:
    def finish():
        raise error

    return finish


class _Progress:
    """Says now and then how many images are done, how fast, and how long the rest will take."""

    def __init__(self, total, say):
        self._total, self._say = total, say
        self._done, self._failed = 0, 0
        self._start = self._last = time.monotonic()
        # The rate is that since the first results, so that it leaves compiling out.
        self._first = None

    def count(self, entry: dict[str, Any]) -> None:
        """Counts an image whose results are written."""
        self._done += 1
        self._failed += 'error' in entry
        now = time.monotonic()
        if self._first is None and 'error' not in entry:
            self._first, self._first_done = now, self._done
        if now - self._last >= _SAY_EVERY_SECONDS:
            self._last = now
            rate = self._rate(now)
            left = f', ETA {format_duration((self._total - self._done) / rate)}' if rate else ''
            failed = f', {self._failed} failed' if self._failed else ''
            self._say(f'{self._done} of {self._total} images, {rate:.1f}/s{left}{failed}')

    def finish(self) -> None:
        """Says the result."""
        now = time.monotonic()
        self._say(
            f'{self._done} images in {format_duration(now - self._start)}, {self._rate(now):.1f}/s after the first'
        )
        if self._failed:
            self._say(
                f'{self._failed} of them could not be predicted: the .jsonl files say why, see "error"'
            )

    def _rate(self, now):
        if self._first is None or now <= self._first:
            return 0.0
        return (self._done - self._first_done) / (now - self._first)
