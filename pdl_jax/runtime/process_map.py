"""An ordered map over worker processes that end when their parent does."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pdl_jax.runtime import ordered_map

_In = TypeVar('_In')
_Out = TypeVar('_Out')

# Enough to ride out one slow image per process; more would fill memory, since results are whole
# encoded images.
_IN_FLIGHT_PER_PROCESS = 4


@contextlib.contextmanager
def map_ordered(
    function: Callable[[_In], _Out],
    items: Sequence[_In],
    num_processes: int | None,
    *,
    start_method: str = 'spawn',
) -> Iterator[Iterator[_Out]]:
    """Maps `function` over `items`; the results come in the order of the items.

    Workers end when this process does, even if it is killed.

    Args:
      function: picklable unless `num_processes` is 0.
      items: picklable unless `num_processes` is 0.
      num_processes: number of workers; 0 maps in this process; None: one per CPU core.
      start_method: start method of `multiprocessing`. Forking starts workers at once, but a forked
        copy of a process that runs JAX's threads can hang; hence the default.

    Yields:
      An iterator over the results. An exception of `function` is raised in the place of its result.

    Raises:
      RuntimeError: a worker died, e.g. because the machine ran out of memory.
    """
    if num_processes is None:
        num_processes = os.cpu_count() or 1
    if not num_processes:
        yield map(function, items)
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        max_workers=min(num_processes, max(1, len(items))),
        mp_context=multiprocessing.get_context(start_method),
        initializer=_start_worker,
    )
    max_in_flight = num_processes * _IN_FLIGHT_PER_PROCESS
    try:
        yield _explain_dead_workers(
            ordered_map.map_ordered(executor, function, items, max_in_flight=max_in_flight)
        )
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _explain_dead_workers(results: Iterator[_Out]) -> Iterator[_Out]:
    try:
        yield from results
    except BrokenProcessPool as error:
        raise RuntimeError(
            'a worker process died without an error, most likely killed for lack of memory: '
            'use fewer processes'
        ) from error


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; only the parent reports it and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers hold both ends of the queue that they read, so they would wait forever for a parent
    # that was killed.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
