"""Scores a checkpoint on the eval split: prints the table, writes report_STEP.json and its page.

The checkpoint's own configuration counts, with --config.field=value on top; --config takes another
one instead. Each difference is printed, and one that changes the meaning of the network is refused.
"""

import argparse
import functools

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.command_line import ALLOW_CODE_HELP, add_switch
from pdl_jax.commands.config_file import add_config_flag
from pdl_jax.commands.predictor_flags import add_crf_flag
from pdl_jax.commands.processes import add_process_flags, start_processes

SUMMARY = 'score a checkpoint: PQ, mIoU, AP, Parsing Covering'
EXAMPLES = """\
  pdl_jax evaluate --workdir=runs/scenes --step=best
  pdl_jax evaluate --workdir=runs/scenes --write_predictions
  pdl_jax evaluate --workdir=runs/scenes --tune=center_threshold,min_score
  pdl_jax evaluate --workdir=runs/voc --crf=voc_v2
  pdl_jax evaluate --checkpoint=runs/coco --workdir=runs/scores --config.evaluate.is_flipped
  pdl_jax evaluate --checkpoint runs/a runs/b --workdir=runs/ensemble"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser, is_required=False)
    parser.add_argument(
        '--workdir', required=True, help='where the report and the predictions go; or gs://'
    )
    add_evaluation_flags(parser)
    add_allow_changed_flag(parser)
    add_process_flags(parser)


def add_evaluation_flags(parser: argparse.ArgumentParser, title: str = 'evaluation') -> None:
    """Adds the flags that the training command shares."""
    group = parser.add_argument_group(title)
    group.add_argument(
        '--checkpoint',
        nargs='+',
        action='extend',
        default=[],
        help='a workdir or one step of it (default: --workdir); best: that of --workdir; the '
        'outputs of several of the same classes are averaged',
    )
    add_step_flag(group)
    add_switch(group, 'write_predictions', help='write COCO panoptic PNGs and JSON to --workdir')
    group.add_argument(
        '--tune',
        nargs='?',
        const='',
        metavar='OPTIONS',
        help='search the best center_threshold, nms_kernel_px, min_score, min_area_px and '
        'stuff_area_limit_px on the eval split, or those given, separated by commas; predict and '
        'evaluate use them from then on',
    )
    group.add_argument(
        '--tune_metric', default='pq', help='what to raise: pq (default), pq_things or pq_stuff'
    )
    add_crf_flag(group)
    add_switch(group, 'tuned', default=True, help='use what --tune found for the checkpoint')
    add_switch(group, 'page', default=True, help='write report_STEP.html beside the JSON')
    add_switch(group, 'allow_code', help=ALLOW_CODE_HELP)


def add_allow_changed_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --allow_changed."""
    add_switch(
        parser,
        'allow_changed',
        help="accept fields that change what the checkpoint's network means",
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    checkpoints, step = flags.checkpoint or [flags.workdir], flags.step
    if checkpoints[0] in ('best', 'last') and not checkpoints[1:]:
        if step is not None:
            raise ValueError(f'--checkpoint={checkpoints[0]} and --step={step}: give one of them')
        checkpoints, step = [flags.workdir], checkpoints[0]
    if flags.crf is not None:
        flags.config_overrides = [
            *flags.config_overrides,
            f'--config.evaluate.crf.setting={flags.crf}',
        ]
    with start_processes(flags, f'evaluating {" and ".join(checkpoints)}'):
        from pdl_jax.commands.config_file import load_experiment, override_experiment
        from pdl_jax.evaluation.checkpoint import evaluate_checkpoint

        override = functools.partial(override_experiment, overrides=flags.config_overrides)
        evaluate_checkpoint(
            load_experiment(flags) if flags.config else override,
            flags.workdir,
            checkpoint=checkpoints,
            step=step,
            allow_changed=flags.allow_changed,
            write_predictions=flags.write_predictions,
            tune_names=None if flags.tune is None else [n for n in flags.tune.split(',') if n],
            tune_metric=flags.tune_metric,
            is_tuned=flags.tuned,
            allow_code=flags.allow_code,
            has_page=flags.page,
        )
