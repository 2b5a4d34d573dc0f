"""Runs `pdl_jax prepare` without the front door of the commands."""

import argparse
from collections.abc import Sequence

from pdl_jax.commands import prepare


def run_prepare(arguments: Sequence[str]) -> None:
    """Parses the arguments and runs the command."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    prepare.add_flags(parser)
    prepare.run(parser.parse_args(arguments))
