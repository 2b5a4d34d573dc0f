"""Trains a configuration, evaluates it and leaves checkpoints, logs, pictures and a report.

The same command runs on one CPU, several GPUs or every host of a TPU pod, and run again it resumes.
Without --config it resumes with the configuration of the checkpoint, and --config.field=value on
top.
Several processes make one run with --distributed, which asks the platform (TPU pods, Slurm, Open
MPI), or with --coordinator_address, --num_processes and --process_id.
"""

import argparse
import contextlib
import functools
import sys
from typing import TYPE_CHECKING

from pdl_jax.commands import evaluate
from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.config_file import add_config_flag
from pdl_jax.commands.processes import add_process_flags, start_processes

if TYPE_CHECKING:
    from pdl_jax.experiment import Experiment

SUMMARY = 'train a configuration, or go on with a run'
EXAMPLES = """\
  pdl_jax train --config=scenes --workdir=runs/scenes --tensorboard
  pdl_jax train --config=scenes --workdir=runs/scenes --max_minutes=30 --patience=5
  pdl_jax train --config=configs/coco.py --workdir=runs/coco --config.train.batch_size=16
  pdl_jax train --workdir=runs/coco --config.train.num_steps=90000
  pdl_jax train --config=coco --workdir=gs://BUCKET/runs/coco --distributed"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser, is_required=False)
    parser.add_argument(
        '--workdir', required=True, help='directory of checkpoints, logs and reports; or gs://'
    )
    parser.add_argument(
        '--mode',
        choices=('train', 'evaluate'),
        default='train',
        help='evaluate: score a checkpoint',
    )
    parser.add_argument(
        '--max_minutes',
        type=_positive_number,
        help='minutes of training, without compiling and evaluations: a new run fits its number of '
        'steps and the decay of its learning rate to them (config.train.max_minutes)',
    )
    parser.add_argument(
        '--patience',
        type=int,
        help='end after so many evaluations without a better score '
        '(config.train.early_stopping_evals)',
    )
    parser.add_argument(
        '--writers',
        help='services to log to as well: wandb, mlflow or wandb,mlflow (config.train.writers)',
    )
    add_switch(parser, 'tensorboard', help='serve TensorBoard on a free port while it trains')
    evaluate.add_allow_changed_flag(parser)
    evaluate.add_evaluation_flags(parser, 'with --mode=evaluate')
    add_process_flags(parser)
    parser.add_argument(
        '--stopped_status',
        type=int,
        default=0,
        help='exit status of a run that was told to stop (SIGTERM), saved and left',
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if flags.mode == 'evaluate':
        evaluate.run(flags)
        return
    flags.config_overrides += _list_overrides(flags)
    with start_processes(flags, f'training {flags.config or "further"} in {flags.workdir}'):
        from pdl_jax.training.loop import train

        with _serve_tensorboard(flags):
            report = train(
                _find_experiment(flags), flags.workdir, allow_changed=flags.allow_changed
            )
    if report is None:
        sys.exit(flags.stopped_status)


def _list_overrides(flags: argparse.Namespace) -> list[str]:
    """Words the flags that stand for fields of the configuration as such fields."""
    values = {
        'max_minutes': flags.max_minutes,
        'early_stopping_evals': flags.patience,
        'writers': None if flags.writers is None else tuple(filter(None, flags.writers.split(','))),
    }
    return [
        f'--config.train.{name}={value!r}' for name, value in values.items() if value is not None
    ]


def _serve_tensorboard(flags: argparse.Namespace) -> contextlib.AbstractContextManager[object]:
    import jax

    from pdl_jax.training.tensorboard_server import serve_tensorboard

    is_served = flags.tensorboard and jax.process_index() == 0
    return serve_tensorboard(flags.workdir) if is_served else contextlib.nullcontext()


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} must be a positive number')
    return value


def _find_experiment(flags: argparse.Namespace) -> 'Experiment':
    """Makes the experiment of the flags, or that of the checkpoint to go on from."""
    from pdl_jax.commands.config_file import load_experiment, override_experiment

    if flags.config:
        return load_experiment(flags)
    from etils import epath

    from pdl_jax.prediction.trained import read_trained
    from pdl_jax.runtime.own_code import CODE_SECTIONS
    from pdl_jax.runtime.processes import choose_together
    from pdl_jax.storage.checkpoint import find_checkpoint

    try:
        checkpoint = choose_together(functools.partial(find_checkpoint, flags.workdir))
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error}; give --config=FILE to start a run') from error
    code_sections = CODE_SECTIONS if flags.allow_code else ()
    trained = read_trained(epath.Path(checkpoint), code_sections=code_sections)
    return override_experiment(trained.experiment, flags.config_overrides)
