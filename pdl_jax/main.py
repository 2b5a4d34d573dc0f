"""Trains or evaluates Panoptic-DeepLab.

    python -m pdl_jax.main --config=configs/scenes.py --workdir=runs/scenes
    python -m pdl_jax.main --config=configs/scenes.py --workdir=runs/scenes --mode=evaluate

The same command runs on one CPU, several GPUs or every host of a TPU pod, and run again it resumes. Where several
processes make one run, each joins the others with --distributed, which asks the platform (TPU pods, Slurm, Open MPI), or
by flags, here the first of two:

    python -m pdl_jax.main ... --coordinator_address=10.0.0.1:12345 --num_processes=2 --process_id=0
"""

import logging as stdlib_logging
import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    'config', None, 'The configuration, e.g. configs/coco.py; --config.field=value sets a field.'
)
flags.DEFINE_string('workdir', None, 'Directory of checkpoints, logs and reports; local or gs://.')
flags.DEFINE_enum('mode', 'train', ['train', 'evaluate'], 'What to do.')
flags.DEFINE_string(
    'checkpoint', '', 'For --mode=evaluate: a workdir or one step of it; by default the newest of --workdir.'
)
flags.DEFINE_bool(
    'write_predictions', False, 'For --mode=evaluate: also write COCO panoptic PNGs and JSON to the workdir.'
)
flags.DEFINE_bool('distributed', False, 'Join the other processes as the platform tells: TPU pods, Slurm, Open MPI.')
flags.DEFINE_string('coordinator_address', None, 'HOST:PORT that process 0 listens on; joins without asking the platform.')
flags.DEFINE_integer('num_processes', None, 'With --coordinator_address: of the run.', lower_bound=1)
flags.DEFINE_integer('process_id', None, 'With --coordinator_address: of this process, from 0.', lower_bound=0)
flags.DEFINE_integer(
    'stopped_status', 0, 'Exit status of a training run that was told to stop (SIGTERM), saved and left.', lower_bound=0
)


def main(argv: list[str]) -> None:
    """Runs the program with parsed flags."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}: options start with --')
    if FLAGS.distributed or FLAGS.coordinator_address:
        jax.distributed.initialize(FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    # Imported late: --help and a misspelt field answer at once.
    from pdl_jax import evaluate, train

    keep_compiled_programs(FLAGS.workdir)
    logging.info('%d device(s) of kind %s', jax.device_count(), jax.devices()[0].device_kind)
    if FLAGS.mode == 'train':
        if train.train(FLAGS.config, FLAGS.workdir) is None:
            sys.exit(FLAGS.stopped_status)
        return
    evaluate.evaluate_checkpoint(
        FLAGS.config,
        FLAGS.workdir,
        checkpoint=FLAGS.checkpoint or FLAGS.workdir,
        is_prediction_written=FLAGS.write_predictions,
    )


def keep_compiled_programs(workdir: str) -> None:
    """Keeps compiled programs in WORKDIR/compiled, so that the same command compiles once.

    JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.join(workdir, 'compiled'))


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a misspelt field of the configuration becomes one line that suggests the right one."""
    flags.mark_flags_as_required(['config', 'workdir'])
    try:
        return FLAGS(argv)
    except flags.Error as error:
        message = str(error)
    except (AttributeError, KeyError) as error:
        # ml_collections words it: 'batch_siz' Did you mean "batch_size" instead of "batch_siz"?
        if 'Did you mean' not in str(error) and not any('--config.' in a for a in argv):
            raise
        # AttributeError wraps it in another repr.
        words = str(error.args[0]).replace('\\n', ' ').replace('\n', ' ').replace('\\', '')
        message = f'unknown field of the configuration: {words}'
    sys.exit(f'{message}\nSee `python -m pdl_jax.main --help`; configs/common.py lists all fields.')


def show_own_messages() -> None:
    """Shows information of this package only; of the libraries below it warnings and errors."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno >= stdlib_logging.WARNING or 'pdl_jax' in record.pathname
    )


if __name__ == '__main__':
    show_own_messages()
    app.run(main, flags_parser=parse_flags)
