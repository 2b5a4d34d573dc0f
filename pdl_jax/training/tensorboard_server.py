"""TensorBoard beside a training: started with it, and ended with it."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from absl import logging

from pdl_jax.storage.paths import make_path

_HOST = '127.0.0.1'
_GRACE_SECONDS = 5.0
# Ends when its standard input does, which is when the training ends, however that happens.
_SERVE = """
import os, sys, threading
def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
from tensorboard import main
main.run_main()
"""


@contextlib.contextmanager
def serve_tensorboard(workdir: str | os.PathLike) -> Iterator[str]:
    """Serves the event files of a run on a free port of this machine, inside the context.

    Without the package, or where it does not start, a line says so and nothing else happens.

    Args:
      workdir: the directory of the run, local or gs://.

    Yields:
      The address; '' where nothing is served.
    """
    if importlib.util.find_spec('tensorboard') is None:
        logging.warning('--tensorboard needs a package: pip install tensorboard')
        yield ''
        return
    port = _find_port()
    folder = os.fspath(make_path(workdir) / 'tensorboard')
    flags = [f'--logdir={folder}', f'--host={_HOST}', f'--port={port}', '--reload_interval=15']
    try:
        process = subprocess.Popen(
            [sys.executable, '-c', _SERVE, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is meant for the training, which saves first.
            start_new_session=True,
        )
    except OSError as error:
        logging.warning('TensorBoard does not start: %s', error)
        yield ''
        return
    address = f'http://{_HOST}:{port}/'
    logging.info('TensorBoard: %s (until the run ends)', address)
    try:
        yield address
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        # Closes its standard input and waits.
        process.communicate(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]
