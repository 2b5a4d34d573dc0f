"""Several processes of this machine that make one run, started and ended by a test."""

import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Callable

from tests import quick_compiler, tiny, toy_backbone

# Networks that compile in seconds: with Panoptic-DeepLab's decoders, and with the least that runs.
NETWORK = {'model.backbone': toy_backbone.NAME}
BARE_NETWORK = {
    **NETWORK,
    'model.output_stride': 4,
    'model.aspp_rates': (),
    'model.skip_strides': (),
    'model.semantic_low_level_features': (),
    'model.instance_low_level_features': (),
    'model.semantic_head': 'none',
    'model.center_head': 'none',
    'model.offset_head': 'none',
}
# One process compiles for all, which saves time and keeps them together: Gloo waits 30 seconds for
# the slowest. Runs at the same time must not share a cache: one process might find there what
# another one waits for.
_ENVIRONMENT = {
    'JAX_COMPILATION_CACHE_DIR': (
        os.environ.get('PDL_JAX_TEST_CACHE', '/tmp/pdl_jax_test_cache')
        + os.environ.get('PYTEST_XDIST_WORKER', '')
    ),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
    'JAX_SHARE_BINARY_BETWEEN_HOSTS': 'true',
    'XLA_FLAGS': quick_compiler.XLA_FLAGS,
}


class ProcessGroup:
    """`pdl_jax train` on the tiny configuration in several processes.

    Processes that still run at the end of the context are killed.

    Args:
      data: the dataset, see `tiny.prepare_scenes`.
      workdir: directory of the run; the output of the processes goes to files beside it.
      flags: flags of every process.
      num_processes: number of processes; a single one needs no coordinator.
      num_devices: simulated devices of each process.
    """

    def __init__(
        self,
        data: pathlib.Path,
        workdir: pathlib.Path,
        *flags: str,
        num_processes: int = 1,
        num_devices: int = 1,
    ):
        if num_processes > 1:
            flags = (
                *flags,
                f'--coordinator_address=127.0.0.1:{_find_port()}',
                f'--num_processes={num_processes}',
            )
        self._paths = [workdir.parent / f'{workdir.name}_{i}.log' for i in range(num_processes)]
        environment = {**_ENVIRONMENT, 'JAX_NUM_CPU_DEVICES': str(num_devices)}
        flags = (*(f'--config.{key}={value}' for key, value in BARE_NETWORK.items()), *flags)
        self.processes = []
        for i, path in enumerate(self._paths):
            own = (f'--process_id={i}',) if num_processes > 1 else ()
            with path.open('w') as output:
                process = tiny.start_main(
                    data,
                    workdir,
                    *flags,
                    *own,
                    program='tests.cached_main',
                    environment=environment,
                    output=output,
                )
                self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def read(self, index: int = 0) -> str:
        """Returns the output of a process so far."""
        return self._paths[index].read_text(errors='replace')

    def wait_for(self, text: str, *, timeout: float = 240) -> None:
        """Waits until process 0 has printed `text`."""
        self.wait_until(lambda: text in self.read(), name=f'printed {text!r}', timeout=timeout)

    def wait_until(self, is_done: Callable[[], bool], *, name: str, timeout: float = 240) -> None:
        """Waits until process 0 has done something."""
        end = time.monotonic() + timeout
        while not is_done():
            if self.processes[0].poll() is not None or time.monotonic() > end:
                raise AssertionError(f'process 0 has not {name}:\n{self.read()}')
            time.sleep(0.02)

    def wait(self, *, timeout: float = 240) -> list[int]:
        """Waits for all processes; returns their exit statuses."""
        end = time.monotonic() + timeout
        try:
            return [process.wait(max(end - time.monotonic(), 0.1)) for process in self.processes]
        except subprocess.TimeoutExpired as error:
            printed = '\n'.join(
                f'process {i}:\n{self.read(i)[-3000:]}' for i in range(len(self._paths))
            )
            raise AssertionError(f'not over after {timeout} s\n{printed}') from error

    def finish(self, *, timeout: float = 240) -> str:
        """Waits until all processes have succeeded; returns the output of process 0."""
        statuses = self.wait(timeout=timeout)
        assert not any(statuses), f'{statuses}:\n' + '\n'.join(
            self.read(i)[-3000:] for i in range(len(self._paths))
        )
        return self.read()


def _find_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
