"""Client of a worker process."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile


class Child:
    """A worker that holds one program; a context manager.

    Args:
      name: 'ours', or framework and mode such as 'torch:eager'.
      suite: suite of the case; '' for none.
      device: 'cpu' or 'gpu'.
      num_cores: cores that it may use; None for all.
    """

    def __init__(self, name: str, suite: str, device: str, num_cores: int | None = None):
        self.name = name
        side, _, mode = name.partition(':')
        environment = {**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
        if device == 'cpu':
            environment['JAX_PLATFORMS'] = 'cpu'
        # Compile times are measured, so no program may come from the cache.
        environment['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
        command = [sys.executable, '-m', 'benchmarks.worker', side, suite, mode, device]
        if num_cores is not None:
            cores = sorted(os.sched_getaffinity(0))[:num_cores]
            command = ['taskset', '--cpu-list', ','.join(map(str, cores)), *command]
        self._log = tempfile.TemporaryFile('w+')
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    @property
    def process_id(self) -> int:
        return self._process.pid

    def __enter__(self) -> 'Child':
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def ask(self, command: str, **arguments) -> dict:
        """Calls a method of `worker.Worker` and returns its result.

        Raises:
          ChildError: the method raised an exception, or the worker died.
        """
        try:
            print(json.dumps({'do': command, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            self._log.seek(0)
            raise ChildError(
                f'{self.name} ended with {self._process.wait()}: {self._log.read()[-2000:]}'
            )
        reply = json.loads(line)
        if 'error' in reply:
            raise ChildError(f'{self.name} failed to {command}:\n{reply["error"]}')
        return reply


class ChildError(Exception):
    """A worker raised an exception or died."""
