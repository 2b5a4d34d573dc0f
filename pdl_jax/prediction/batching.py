"""Batches of a long list of images: grouped by canvas, run on the devices, split if too large."""

import concurrent.futures
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pdl_jax.prediction.image_list import make_key
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult

# The line of the index and the files of one image, see `shards.ShardWriter.add`.
Encoded = tuple[dict[str, Any], dict[str, bytes]]


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of the list.

    Attributes:
      position: index in the whole list.
      path: path of the image.
      shard: number of its shard.
    """

    position: int
    path: str
    shard: int


_Batch = Sequence[tuple[Item, np.ndarray]]
_Finish = Callable[[], list[PanopticResult]]


class Batcher:
    """Brings images into batches and batches through the devices; the results are encoded behind.

    Images that share a canvas share a batch, within a shard. One batch runs on the devices while
    the results of the one before are read.

    Args:
      predictor: its devices share each batch.
      workers: threads that encode results.
      deliver: takes each image with its future results, in no order.
      batch_size: images at a time; rounded up to a multiple of the devices.
      window: number of images of the list after which an incomplete batch starts.
    """

    def __init__(
        self,
        predictor: Predictor,
        workers: concurrent.futures.Executor,
        deliver: Callable[[Item, concurrent.futures.Future[Encoded]], None],
        *,
        batch_size: int,
        window: int,
    ) -> None:
        self._predictor = predictor
        self._workers = workers
        self._deliver = deliver
        self._batch_size = batch_size
        self._window = window
        # Canvases of which `batch_size` images at once exceed the devices' memory.
        self._large_canvases: set[tuple[int, int]] = set()
        # Images that wait, by canvas, and the shard that they belong to.
        self._groups: dict[tuple[int, int], list[tuple[Item, np.ndarray]]] = {}
        self._shard: int | None = None
        # The batch on the devices, the function that reads its results, and its padded size.
        self._running: tuple[_Batch, _Finish, int] | None = None

    def put(self, item: Item, image: np.ndarray | str) -> None:
        """Takes the next image of the list, u8[H, W, 3], or the reason why there is none."""
        if item.shard != self._shard:
            # Batches end with their shard, so that a shard made again after a crash is the same.
            self._start_groups()
            self._shard = item.shard
        if isinstance(image, str):
            self._fail(item, image)
        else:
            self._add_to_group(item, image)
        oldest = self._oldest_first()[:1]
        if oldest and item.position - self._groups[oldest[0]][0][0].position >= self._window:
            self._start_batch(oldest[0])
        # If most files are unreadable, no later batch may flush this one: flush it after two
        # windows.
        if (
            self._running is not None
            and item.position - self._running[0][0][0].position >= 2 * self._window
        ):
            self._finish_batch()

    def finish(self) -> None:
        """Runs the images that wait, and waits for the devices."""
        self._start_groups()
        self._finish_batch()

    def _fail(self, item: Item, reason: str) -> None:
        future: concurrent.futures.Future[Encoded] = concurrent.futures.Future()
        future.set_result(({'image': item.path, 'error': reason}, {}))
        self._deliver(item, future)

    def _fail_batch(self, batch: _Batch) -> None:
        for item, image in batch:
            height, width = image.shape[:2]
            reason = f'{item.path}: {height}x{width} pixels exceed the memory of the device'
            self._fail(item, reason)

    def _find_canvas(self, image: np.ndarray) -> tuple[int, int]:
        height, width = image.shape[:2]
        return self._predictor.canvas_size((height, width))

    def _add_to_group(self, item: Item, image: np.ndarray) -> None:
        try:
            canvas = self._find_canvas(image)
        except ValueError as error:
            self._fail(item, f'{item.path}: {error}')
            return
        self._groups.setdefault(canvas, []).append((item, image))
        if len(self._groups[canvas]) == self._choose_batch_size(canvas):
            self._start_batch(canvas)

    def _choose_batch_size(self, canvas: tuple[int, int]) -> int:
        return self._predictor.num_devices if canvas in self._large_canvases else self._batch_size

    def _start_groups(self) -> None:
        for canvas in self._oldest_first():
            self._start_batch(canvas)

    def _oldest_first(self) -> list[tuple[int, int]]:
        """Returns the canvases of the groups in the order of their first images."""
        return sorted(self._groups, key=lambda canvas: self._groups[canvas][0][0].position)

    def _start_batch(self, canvas: tuple[int, int]) -> None:
        batch = self._groups.pop(canvas)
        batch_size = self._choose_batch_size(canvas)
        running = batch, self._start(batch, batch_size), batch_size
        # Read the previous batch while this one runs.
        self._finish_batch()
        self._running = running

    def _start(self, batch: _Batch, batch_size: int) -> _Finish:
        try:
            return self._predictor.start([image for _, image in batch], batch_size=batch_size)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            return _make_raiser(error)

    def _finish_batch(self) -> None:
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
        # One image per device may still fit; use that batch size for this canvas from now on.
        self._large_canvases.add(self._find_canvas(batch[0][1]))
        for start in range(0, len(batch), num_devices):
            part = batch[start : start + num_devices]
            if not self._encode_results(part, self._start(part, num_devices)):
                self._fail_batch(part)

    def _encode_results(self, batch: _Batch, finish: _Finish) -> bool:
        """Waits for the results of a batch; returns false if it exceeded a memory."""
        try:
            results = finish()
        except MemoryError:
            return False
        except jax.errors.JaxRuntimeError as error:
            # Other failures, such as a lost device, end the run.
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            return False
        for (item, image), result in zip(batch, results, strict=True):
            height, width = image.shape[:2]
            self._deliver(item, self._workers.submit(_encode, item, (height, width), result))
        return True


def _encode(item: Item, size: tuple[int, int], result: PanopticResult) -> Encoded:
    """Makes the line of the index and the files of one image."""
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


def _make_raiser(error: Exception) -> _Finish:
    """Delays an error until the results are asked for."""

    def finish() -> list[PanopticResult]:
        raise error

    return finish
