"""Several processes that make one run: how they wait for each other, agree, and end when one of them fails."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from pdl_jax.typing import PyTree

# Compiling for a pod may take so long.
_PATIENCE_SECONDS = 3600
_MAX_PATH_BYTES = 4096


def wait_for_all(name: str) -> None:
    """Waits until all processes are here, by messages between the hosts.

    Args:
      name: of this place.

    Raises:
      RuntimeError: another process has failed.
    """
    multihost.sync_global_processes(
        name, timeout=_PATIENCE_SECONDS, processes=set(range(jax.process_count()))
    )


def compile_together(
    function: Callable[..., Any], *arguments: PyTree, name: str
) -> jax.stages.Compiled:
    """Compiles a jitted function for arguments like these; returns when all processes have done so.

    Otherwise the first that is ready waits for the others inside of a collective, and on CPUs only for 30 seconds.

    Args:
      function: jitted.
      arguments: arrays, or shapes with shardings.
      name: of the function.
    """
    compiled = function.lower(*arguments).compile()
    wait_for_all(f'{name} is compiled')
    return compiled


def choose_together(find: Callable[[], os.PathLike]) -> str:
    """Returns what `find` returns in process 0, a path, to all processes; a folder may change between two looks at it."""
    encoded = np.zeros(_MAX_PATH_BYTES, np.uint8)
    if jax.process_index() == 0:
        path = os.fspath(find()).encode()
        encoded[: len(path)] = np.frombuffer(path, np.uint8)
    wait_for_all('a path is chosen')
    if jax.process_count() > 1:
        encoded = np.asarray(multihost_utils.broadcast_one_to_all(encoded))
    return encoded.tobytes().rstrip(b'\0').decode()


@contextlib.contextmanager
def ending_together(advice: str) -> Iterator[None]:
    """Ends this process at once where an error leaves the block and others take part in the run.

    A regular exit would wait minutes for the others to exit too, while they wait for this one. They learn of its end from the
    coordinator, or by its silence, and end as well.

    Args:
      advice: what the user may do next.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if jax.process_count() == 1:
            raise
        try:
            traceback.print_exc()
            logging.error(
                'process %d of %d ends by the error above, and the others after it. Where that is a lost connection or a '
                'timeout, another process was lost: its own output may tell why. %s',
                jax.process_index(),
                jax.process_count(),
                advice,
            )
            logging.flush()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # Also where the disk is full and that is what cannot be written.
            os._exit(1)
