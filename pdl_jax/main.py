"""Trains or evaluates Panoptic-DeepLab.

    python -m pdl_jax.main --config=configs/scenes.py --workdir=runs/scenes
    python -m pdl_jax.main --config=configs/scenes.py --workdir=runs/scenes --mode=evaluate

The same command runs on one CPU, several GPUs or every host of a TPU pod, and run again it resumes. Where several
processes make one run, each joins the others with --distributed, which asks the platform (TPU pods, Slurm, Open MPI), or
by flags, here the first of two:

    python -m pdl_jax.main ... --coordinator_address=10.0.0.1:12345 --num_processes=2 --process_id=0
"""

import functools
import logging as stdlib_logging
import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from pdl_jax.commands.config_flags import parse_flags
from pdl_jax.runtime.host_memory import keep_freed_memory

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    'config', None, 'The configuration, e.g. configs/coco.py; --config.field=value sets a field.'
)
flags.DEFINE_string('workdir', None, 'Directory of checkpoints, logs and reports; local or gs://.')
flags.DEFINE_enum('mode', 'train', ['train', 'evaluate'], 'What to do.')
flags.DEFINE_string(
    'checkpoint',
    '',
    'For --mode=evaluate: a workdir or one step of it; by default the newest of --workdir.',
)
flags.DEFINE_bool(
    'write_predictions',
    False,
    'For --mode=evaluate: also write COCO panoptic PNGs and JSON to the workdir.',
)
flags.DEFINE_bool(
    'distributed',
    False,
    'Join the other processes as the platform tells: TPU pods, Slurm, Open MPI.',
)
flags.DEFINE_string(
    'coordinator_address',
    None,
    'HOST:PORT that process 0 listens on; joins without asking the platform.',
)
flags.DEFINE_integer(
    'num_processes', None, 'With --coordinator_address: of the run.', lower_bound=1
)
flags.DEFINE_integer(
    'process_id', None, 'With --coordinator_address: of this process, from 0.', lower_bound=0
)
flags.DEFINE_integer(
    'heartbeat_timeout_seconds',
    60,
    'With several processes: they end when one is not heard for so long.',
    lower_bound=1,
)
flags.DEFINE_integer(
    'stopped_status',
    0,
    'Exit status of a training run that was told to stop (SIGTERM), saved and left.',
    lower_bound=0,
)


def main(argv: list[str]) -> None:
    """Runs the program with parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}: options start with --')
    if FLAGS.distributed or FLAGS.coordinator_address:
        jax.distributed.initialize(
            FLAGS.coordinator_address,
            FLAGS.num_processes,
            FLAGS.process_id,
            heartbeat_timeout_seconds=FLAGS.heartbeat_timeout_seconds,
        )
    keep_freed_memory()
    # Imported late: --help and a misspelt field answer at once.
    from pdl_jax.evaluation import evaluator as evaluate
    from pdl_jax.runtime import processes
    from pdl_jax.training import loop as train

    keep_compiled_programs(FLAGS.workdir)
    logging.info('%d device(s) of kind %s', jax.device_count(), jax.devices()[0].device_kind)
    with processes.ending_together(
        'The same command on all hosts goes on from the newest checkpoint.'
    ):
        if FLAGS.mode == 'evaluate':
            evaluate.evaluate_checkpoint(
                FLAGS.config,
                FLAGS.workdir,
                checkpoint=FLAGS.checkpoint or FLAGS.workdir,
                is_prediction_written=FLAGS.write_predictions,
            )
        elif train.train(FLAGS.config, FLAGS.workdir) is None:
            sys.exit(FLAGS.stopped_status)


def keep_compiled_programs(workdir: str) -> None:
    """Keeps compiled programs in WORKDIR/compiled, so that the same command compiles once.

    JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if jax.process_count() > 1 and jax.default_backend() == 'cpu':
        # Process 0 alone would find its programs again, and wait for the others longer than gloo does.
        jax.config.update('jax_enable_compilation_cache', False)
    elif not jax.config.jax_compilation_cache_dir:
        jax.config.update(
            'jax_compilation_cache_dir', os.path.join(os.path.expanduser(workdir), 'compiled')
        )


def show_own_messages() -> None:
    """Shows information of this package only; of the libraries below it warnings and errors."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno >= stdlib_logging.WARNING or 'pdl_jax' in record.pathname
    )


def run() -> None:
    """Runs the program with the command line of this process."""
    show_own_messages()
    flags.mark_flags_as_required(['config', 'workdir'])
    app.run(main, flags_parser=functools.partial(parse_flags, command='pdl_jax.main'))


if __name__ == '__main__':
    run()
