"""The processes of one run: barriers, agreement, and a common end when one of them fails."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from pdl_jax.ops.platforms import pin_platform_of
from pdl_jax.runtime.last_words import LastWords
from pdl_jax.typing import PyTree

# Compiling for a pod may take this long.
_BARRIER_TIMEOUT_SECONDS = 3600
_MAX_PATH_BYTES = 4096
# Errors whose text says what happened; others are faults of the program.
_EXPECTED = (ImportError, OSError, RuntimeError, ValueError, FloatingPointError, KeyboardInterrupt)


def wait_for_all(name: str) -> None:
    """Waits until all processes call this, by messages between the hosts.

    Args:
      name: name of the barrier, for error messages.

    Raises:
      RuntimeError: another process has failed.
    """
    multihost.sync_global_processes(
        name, timeout=_BARRIER_TIMEOUT_SECONDS, processes=set(range(jax.process_count()))
    )


def compile_together(
    function: jax.stages.Wrapped, *arguments: PyTree, name: str
) -> jax.stages.Compiled:
    """Compiles a jitted function for the shapes of arguments, and waits for all processes.

    Without the barrier, the process that compiles fastest would wait for the others in the
    program's first collective, where Gloo, on CPU, times out after 30 seconds.

    Args:
      function: a jitted function.
      arguments: arrays, or ShapeDtypeStructs with shardings.
      name: name of the function, for error messages.

    Returns:
      The compiled program.

    Raises:
      RuntimeError: another process has failed.
    """
    with pin_platform_of(arguments):
        lowered = function.lower(*arguments)
    compiled = lowered.compile()
    wait_for_all(f'{name} is compiled')
    return compiled


def choose_together(find: Callable[[], os.PathLike]) -> str:
    """Returns process 0's path to all processes.

    Each process finding a path itself could disagree with another: the folder may have changed in
    between.

    Args:
      find: finds the path; called in process 0 only.

    Raises:
      RuntimeError: another process has failed.
    """
    encoded = np.zeros(_MAX_PATH_BYTES, np.uint8)
    if jax.process_index() == 0:
        path = os.fspath(find()).encode()
        encoded[: len(path)] = np.frombuffer(path, np.uint8)
    wait_for_all('a path is chosen')
    if jax.process_count() > 1:
        encoded = np.asarray(multihost_utils.broadcast_one_to_all(encoded))
    return encoded.tobytes().rstrip(b'\0').decode()


def share_array(array: np.ndarray) -> np.ndarray:
    """Returns process 0's array to all processes, bit for bit."""
    if jax.process_count() == 1:
        return array
    # JAX would round 64 bits to 32.
    words = multihost_utils.broadcast_one_to_all(np.frombuffer(array.tobytes(), np.uint8))
    return np.frombuffer(np.asarray(words).tobytes(), array.dtype).reshape(array.shape)


def gather_bytes(text: str) -> list[bytes]:
    """Returns the UTF-8 texts of all processes to all of them, in the order of the processes."""
    data = np.frombuffer(text.encode(), np.uint8)
    if jax.process_count() == 1:
        return [data.tobytes()]
    sizes = np.asarray(multihost_utils.process_allgather(np.array([len(data)], np.int32)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:n].tobytes() for row, n in zip(rows, sizes.ravel().tolist(), strict=True)]


def _silence_libraries() -> None:
    """Drops what C++ code writes to standard error from now on; Python's own messages appear.

    Threads of gRPC report the lost connection at the same time, which would bury the last line.
    """
    sys.stderr.flush()
    own = os.fdopen(os.dup(2), 'w', buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = own


@contextlib.contextmanager
def ending_together(advice: str, *, is_traced: bool = False) -> Iterator[None]:
    """Ends this process at once if an error leaves the block and the run has other processes.

    A regular exit would wait minutes for the others to exit too, while they wait for this one. They
    are told by the coordinator or find this process's heartbeat missing, and JAX aborts them. They
    still print `advice`, see `LastWords`.

    Args:
      advice: the user's next step, for the error message.
      is_traced: print where errors come from.
    """
    index, count = jax.process_index(), jax.process_count()
    if count == 1:
        yield
        return
    last_words = LastWords(
        f'process {index} of {count} was killed, or aborted because another process was lost: the '
        f'output of that one may show the reason. {advice}'
    )
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        try:
            if is_traced or not isinstance(error, _EXPECTED):
                traceback.print_exc()
            else:
                print(f'error: {error}', file=sys.stderr)
            _silence_libraries()
            logging.error(
                'process %d of %d ends with the error above, and the others after it. If that is '
                'a lost connection or a timeout, another process was lost: its own output may '
                'show the reason. %s',
                index,
                count,
                advice,
            )
            logging.flush()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            last_words.take_back()
            # Exit even if the error cannot be printed because the disk is full.
            os._exit(1)
    last_words.take_back()
