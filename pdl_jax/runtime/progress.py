"""Lines that tell a user what a long stage is doing."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import tqdm
from absl import logging

_Item = TypeVar('_Item')

# A terminal shows seconds as they pass; a log gets a line now and then.
_TERMINAL_SECONDS = 1.0
_LOG_SECONDS = 30.0
_RATE_SECONDS = 10.0


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
    """Announces a stage, shows that it goes on, and logs how long it took.

    Commands show this; in other programs messages of level info have to be turned on.

    Args:
      text: what is being done, such as 'compiling the train step'.
    """
    if not logging.vlog_is_on(0):
        # Nobody asked for messages, as in a script that uses the library.
        yield
        return
    start = time.monotonic()
    is_terminal = sys.stderr.isatty()
    logging.info('%s ...', text)
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(text, start, done, is_terminal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    logging.info('%s took %.1f s', text, time.monotonic() - start)


def _show(text: str, start: float, done: threading.Event, is_terminal: bool) -> None:
    is_shown = False
    while not done.wait(_TERMINAL_SECONDS if is_terminal else _LOG_SECONDS):
        seconds = time.monotonic() - start
        if is_terminal:
            is_shown = True
            sys.stderr.write(f'\r{text}: {seconds:.0f} s')
            sys.stderr.flush()
        else:
            logging.info('%s: %.0f s so far', text, seconds)
    if is_shown:
        sys.stderr.write('\r' + ' ' * (len(text) + 12) + '\r')
        sys.stderr.flush()


def show_items(items: Iterable[_Item], text: str) -> Iterable[_Item]:
    """Returns the items, which show a bar on a terminal while they are walked through."""
    is_shown = sys.stderr.isatty() and logging.vlog_is_on(0)
    return tqdm.tqdm(items, desc=text, leave=False, disable=not is_shown)


def format_duration(seconds: float) -> str:
    """Formats seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


class Throughput:
    """Lines with the number of items done and their rate, every ten seconds and at the end.

    The rate leaves the first item out, which waits for compilation.

    Args:
      unit: plural of what is counted, such as 'frames'.
      total: number of items, about; 0 if it is not known.
      say: called with each line.
    """

    def __init__(self, unit: str, total: int = 0, say: Callable[[str], None] = print) -> None:
        self._unit, self._total, self._say = unit, total, say
        self._start = self._last = time.monotonic()
        self._first: float | None = None
        self.count = 0

    @property
    def rate(self) -> float:
        """Items per second after the first; 0 before the second."""
        seconds = time.monotonic() - (self._first or self._start)
        return (self.count - 1) / seconds if self.count > 1 and seconds > 0 else 0.0

    def add(self) -> None:
        """Counts an item."""
        self.count += 1
        now = time.monotonic()
        if self._first is None:
            self._first = now
        if now - self._last >= _RATE_SECONDS:
            self._last = now
            total = f' of about {self._total}' if self._total >= self.count else ''
            self._say(f'{self.count}{total} {self._unit}, {self.rate:.1f} {self._unit}/s')

    def finish(self) -> None:
        """Says how many items there were."""
        duration = format_duration(time.monotonic() - self._start)
        self._say(
            f'{self.count} {self._unit} in {duration}, {self.rate:.1f} {self._unit}/s after the '
            f'first'
        )
