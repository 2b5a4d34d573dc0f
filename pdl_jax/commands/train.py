"""Trains a configuration, evaluates it and leaves checkpoints, logs, pictures and a report.

The same command runs on one CPU, several GPUs or every host of a TPU pod, and run again it resumes.
Several processes make one run with --distributed, which asks the platform (TPU pods, Slurm, Open
MPI), or with --coordinator_address, --num_processes and --process_id.
"""

import argparse
import sys

from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.config_file import add_config_flag
from pdl_jax.commands.processes import add_process_flags, start_processes

SUMMARY = 'train a configuration, or go on with a run'
EXAMPLES = """\
  pdl_jax train --config=scenes --workdir=runs/scenes
  pdl_jax train --config=configs/coco.py --workdir=runs/coco --config.train.batch_size=16
  pdl_jax train --config=coco --workdir=gs://BUCKET/runs/coco --distributed"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser)
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
        '--checkpoint', default='', help='with --mode=evaluate: a workdir or one step of it'
    )
    add_switch(
        parser, 'write_predictions', help='with --mode=evaluate: write COCO panoptic PNGs and JSON'
    )
    parser.set_defaults(tune=None, tune_metric='pq', tuned=True)
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
        from pdl_jax.commands import evaluate

        evaluate.run(flags)
        return
    with start_processes(flags, f'training {flags.config} in {flags.workdir}'):
        from pdl_jax.commands.config_file import load_experiment
        from pdl_jax.training.loop import train

        report = train(load_experiment(flags), flags.workdir)
    if report is None:
        sys.exit(flags.stopped_status)
