"""An ordered map over worker processes that keeps a bounded number of results in flight."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_In = TypeVar('_In')
_Out = TypeVar('_Out')

# Enough to ride out one slow image a process; results are whole encoded images.
_IN_FLIGHT_PER_PROCESS = 4


@contextlib.contextmanager
def map_ordered(
    function: Callable[[_In], _Out],
    items: Sequence[_In],
    num_processes: int,
    *,
    start_method: str = 'spawn',
) -> Iterator[Iterator[_Out]]:
    """Maps `function` over `items`; the results come in the order of the items.

    Workers end when this process does, however it ends.

    Args:
      function: picklable where `num_processes` > 0.
      items: picklable too.
      num_processes: number of workers; 0 maps in this process.
      start_method: of `multiprocessing`. Workers are spawned unless told otherwise: forking starts
        them at once, but a process that runs JAX's threads can hang in it.

    Yields:
      An iterator over the results. An exception of `function` is raised from it.

    Raises:
      RuntimeError: a worker died, e.g. because the machine ran out of memory.
    """
    if not num_processes:
        yield map(function, items)
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        max_workers=min(num_processes, max(1, len(items))),
        mp_context=multiprocessing.get_context(start_method),
        initializer=_start_worker,
    )
    try:
        yield _iterate(executor, function, items, num_processes * _IN_FLIGHT_PER_PROCESS)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _iterate(
    executor: concurrent.futures.Executor,
    function: Callable[[_In], _Out],
    items: Sequence[_In],
    max_in_flight: int,
) -> Iterator[_Out]:
    in_flight = collections.deque()
    try:
        for item in items:
            in_flight.append(executor.submit(function, item))
            if len(in_flight) >= max_in_flight:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            'a worker process died without an error, most likely killed for lack of memory: '
            'use fewer processes'
        ) from error


def _start_worker() -> None:
    # Ctrl-C reaches the whole group; the parent alone reports it and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers hold both ends of the queue they read, so a killed parent would leave them waiting.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
