"""SIGTERM as a question that a loop asks between two steps."""

import signal
import threading
from typing import Self

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Remembers that the process was told to stop; a context manager that handles SIGTERM.

    With several processes JAX's own service handles the signal and agrees on one step for all.
    """

    def __enter__(self) -> Self:
        self._num_asked = 0
        self._requested = threading.Event()
        self._is_handled = (
            threading.current_thread() is threading.main_thread() and jax.process_count() == 1
        )
        if self._is_handled:
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._requested.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_handled:
            signal.signal(signal.SIGTERM, self._previous)

    def is_requested(self) -> bool:
        """Tells if the loop should save and leave; every process asks equally often."""
        if jax.process_count() == 1:
            return self._requested.is_set()
        self._num_asked += 1
        return multihost_utils.reached_preemption_sync_point(self._num_asked)
