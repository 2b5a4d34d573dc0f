"""Scores a checkpoint on the eval split: prints the table and writes WORKDIR/report.json.

Without --config the checkpoint's own configuration counts.
"""

import argparse

from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.config_file import add_config_flag
from pdl_jax.commands.processes import add_process_flags, start_processes

SUMMARY = 'score a checkpoint: PQ, mIoU, AP, Parsing Covering'
EXAMPLES = """\
  pdl_jax evaluate --workdir=runs/scenes
  pdl_jax evaluate --workdir=runs/scenes --write_predictions
  pdl_jax evaluate --workdir=runs/scenes --tune=center_threshold,min_score
  pdl_jax evaluate --config=coco --checkpoint=runs/bowenc0221_r50 --workdir=runs/scores"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser, is_required=False)
    parser.add_argument(
        '--workdir', required=True, help='where the report and the predictions go; or gs://'
    )
    parser.add_argument(
        '--checkpoint', default='', help='a workdir or one step of it (default: --workdir)'
    )
    add_switch(parser, 'write_predictions', help='write COCO panoptic PNGs and JSON to --workdir')
    parser.add_argument(
        '--tune',
        nargs='?',
        const='',
        metavar='OPTIONS',
        help='search the best center_threshold, nms_kernel_px, min_score, min_area_px and '
        'stuff_area_limit_px on the eval split, or those given, separated by commas; predict and '
        'evaluate use them from then on',
    )
    parser.add_argument(
        '--tune_metric', default='pq', help='what to raise: pq (default), pq_things or pq_stuff'
    )
    add_switch(parser, 'tuned', default=True, help='use what --tune found for the checkpoint')
    add_process_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    checkpoint = flags.checkpoint or flags.workdir
    if flags.config_overrides and not flags.config:
        raise ValueError(f'{flags.config_overrides[0]} needs --config')
    with start_processes(flags, f'evaluating {checkpoint}'):
        from pdl_jax.commands.config_file import load_experiment
        from pdl_jax.evaluation.checkpoint import evaluate_checkpoint

        evaluate_checkpoint(
            load_experiment(flags) if flags.config else None,
            flags.workdir,
            checkpoint=checkpoint,
            write_predictions=flags.write_predictions,
            tune_names=None if flags.tune is None else [n for n in flags.tune.split(',') if n],
            tune_metric=flags.tune_metric,
            is_tuned=flags.tuned,
        )
