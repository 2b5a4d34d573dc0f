"""Flags and start of commands that may run as several processes, and what they all begin with."""

import argparse
import contextlib
import logging as stdlib_logging
import os
import sys
from collections.abc import Iterator


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which processes find each other."""
    from pdl_jax.commands.command_line import add_switch

    group = parser.add_argument_group('several processes')
    add_switch(group, 'distributed', help='join the others as TPU pods, Slurm or Open MPI tell')
    group.add_argument(
        '--coordinator_address', help='HOST:PORT of process 0; joins without asking the platform'
    )
    group.add_argument('--num_processes', type=_positive, help='with --coordinator_address')
    group.add_argument('--process_id', type=int, help='with --coordinator_address: from 0')
    group.add_argument(
        '--heartbeat_timeout_seconds',
        type=_positive,
        default=60,
        help='end when another process is not heard for so long',
    )


@contextlib.contextmanager
def start_processes(flags: argparse.Namespace, task: str) -> Iterator[None]:
    """Starts JAX, joins the other processes, and ends with them.

    Args:
      flags: those of `add_process_flags` and the workdir, which keeps compiled programs.
      task: what the command does, for its first line.
    """
    announce(task)
    import jax
    from absl import logging

    from pdl_jax.runtime.compiler_options import cache_programs

    if flags.distributed or flags.coordinator_address:
        jax.distributed.initialize(
            flags.coordinator_address,
            flags.num_processes,
            flags.process_id,
            heartbeat_timeout_seconds=flags.heartbeat_timeout_seconds,
        )
    set_up_memory()
    show_own_messages()
    cache_programs(os.path.join(flags.workdir, 'compiled'))
    device = jax.devices()[0]
    logging.info('%d device(s) of kind %s', jax.device_count(), device.device_kind)

    from pdl_jax.runtime.processes import ending_together

    advice = 'The same command on all hosts goes on from the newest checkpoint.'
    with ending_together(advice, is_traced=flags.debug):
        yield


def set_up_memory(*, keeps_freed: bool = True) -> None:
    """Sets how this process, which compiles and runs networks, frees memory.

    Call it before anything asks for devices, but after `jax.distributed.initialize`.

    Args:
      keeps_freed: whether freed memory is kept, which trades memory for time.
    """
    from pdl_jax.runtime.garbage import collect_garbage_rarely
    from pdl_jax.runtime.host_memory import keep_freed_memory

    collect_garbage_rarely()
    if keeps_freed:
        keep_freed_memory()


def set_up_prediction(*, keeps_freed: bool = True) -> None:
    """Sets up memory, see `set_up_memory`, and the user's cache of compiled programs."""
    from pdl_jax.runtime.compiler_options import cache_user_programs

    set_up_memory(keeps_freed=keeps_freed)
    cache_user_programs()


def announce(task: str) -> None:
    """Says what a command does before anything takes time."""
    print(f'pdl_jax: {task}; starting JAX ...', file=sys.stderr, flush=True)


def show_own_messages() -> None:
    """Shows messages of this package at level info; of other libraries, warnings and errors."""
    from absl import logging

    logging.set_verbosity(logging.INFO)
    handler = _StderrHandler()
    handler.setFormatter(stdlib_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    handler.addFilter(
        lambda record: record.levelno >= stdlib_logging.WARNING or 'pdl_jax' in record.pathname
    )
    # The handler of absl would warn that no flags of absl were parsed, and there are none.
    logger = logging.get_absl_logger()
    logger.handlers = [handler]
    logger.propagate = False


class _StderrHandler(stdlib_logging.StreamHandler):
    """Writes to what standard error is at the moment, as progress bars do."""

    def emit(self, record: stdlib_logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} must be positive')
    return value
