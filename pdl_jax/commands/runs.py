"""Lists the runs in a folder: how far they came, their best scores, and how they differ.

Reads logs and checkpoints without starting JAX. A run whose files are damaged is listed as such.
"""

import argparse
import json

from pdl_jax.commands.command_line import add_switch

SUMMARY = 'the runs in a folder and their scores'
EXAMPLES = """\
  pdl_jax runs runs
  pdl_jax runs gs://BUCKET/runs --json"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        'folder', nargs='?', default='runs', help='the folder that holds the runs (default: runs)'
    )
    add_switch(parser, 'json', help='print JSON')


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    from pdl_jax.training.past_runs import format_runs, list_runs, to_json

    runs = list_runs(flags.folder)
    print(json.dumps(to_json(runs), indent=2) if flags.json else format_runs(runs))
