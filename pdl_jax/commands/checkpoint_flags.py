"""Flags that choose one checkpoint of a run."""

import argparse
from typing import Any


def add_step_flag(parser: Any) -> None:
    """Adds --step to a parser or a group of one."""
    parser.add_argument(
        '--step',
        type=_parse_step,
        metavar='best|last|N',
        help='step of a workdir; best: highest PQ, or mIoU (default: last, the newest)',
    )


def _parse_step(text: str) -> int | str:
    if text in ('best', 'last'):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text} must be best, last or the number of a step')
    return int(text)
