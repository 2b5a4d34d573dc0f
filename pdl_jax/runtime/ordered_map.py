"""A map over an executor that keeps the order of the items and bounds the work in flight."""

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

_In = TypeVar('_In')
_Out = TypeVar('_Out')


def map_ordered(
    executor: concurrent.futures.Executor,
    function: Callable[[_In], _Out],
    items: Iterable[_In],
    *,
    max_in_flight: int,
) -> Generator[_Out, None, None]:
    """Maps `function` over `items` on an executor; yields the results in the order of the items.

    Unlike `Executor.map` it takes an item only when a result has been handed out, so that neither
    the items nor the results pile up in memory. When the iterator is closed, or `function` raises,
    calls that have not started are cancelled; the executor stays open.

    Args:
      executor: threads or processes.
      function: called as `function(item)`; picklable where the executor runs processes.
      items: may be endless.
      max_in_flight: upper bound on the calls whose result has not been handed out, >= 1. While the
        caller works on a result, max_in_flight - 1 calls run or wait.

    Yields:
      The results. An exception of `function` is raised in the place of its result.

    Raises:
      ValueError: max_in_flight < 1.
    """
    if max_in_flight < 1:
        raise ValueError(f'max_in_flight (={max_in_flight}) must be positive')
    in_flight: collections.deque[concurrent.futures.Future[_Out]] = collections.deque()
    try:
        for item in items:
            in_flight.append(executor.submit(function, item))
            if len(in_flight) >= max_in_flight:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    finally:
        for future in in_flight:
            future.cancel()
