"""A line that is printed when this process is killed or aborted and cannot print it itself."""

import contextlib
import subprocess
import sys

# Runs without site packages, in a few milliseconds and megabytes. Its standard input ends when the
# process that holds the other end does, however that happens.
_WAIT_AND_PRINT = """
import signal, sys
for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
if not sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr, flush=True)
"""


class LastWords:
    """A process that waits for the end of this one, and then prints a line to standard error.

    Args:
      words: the line.
    """

    def __init__(self, words: str):
        self._process: subprocess.Popen[bytes] | None = None
        # A host without another process to spare runs on without.
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, '-I', '-S', '-c', _WAIT_AND_PRINT, words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # Signals to the group of this process are not meant for it.
                start_new_session=True,
            )

    def take_back(self) -> None:
        """Ends the waiting process; nothing is printed."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.communicate(b'.')
            self._process = None
