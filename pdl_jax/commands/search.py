"""Searches architectures: students are proposed, trained for a short time, and rewarded.

The section `search` of the configuration says what is searched and how; the other sections are the
training of a student. The workdir gets students.jsonl, to which every finished student is appended,
finals.jsonl, a page and a picture of the results. Run again, the same command goes on.
"""

import argparse

from pdl_jax.commands.config_file import add_config_flag

SUMMARY = 'search architectures for a reward of accuracy and latency'
EXAMPLES = """\
  pdl_jax search --config=search_akd --workdir=runs/akd --config.distill.teacher=runs/teacher
  pdl_jax search --config=search_akd --workdir=runs/nas --config.search.method=nas
  pdl_jax search --config=search_dpc --workdir=runs/dpc"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser)
    parser.add_argument(
        '--workdir', required=True, help='directory of the students and results; or gs://'
    )
    parser.add_argument(
        '--compare',
        nargs='+',
        default=[],
        metavar='DIR',
        help='workdirs of other searches to show beside this one',
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    from pdl_jax.commands.config_file import load_config
    from pdl_jax.commands.processes import announce, set_up_memory, show_own_messages

    config = load_config(flags.config, flags.config_overrides).to_dict()
    if 'search' not in config:
        raise ValueError(
            f'--config={flags.config} has no section `search`: begin with configs/search.py'
        )
    announce(f'searching in {flags.workdir}')
    from pdl_jax.experiment import Experiment
    from pdl_jax.runtime.compiler_options import cache_programs
    from pdl_jax.search.options import SearchOptions
    from pdl_jax.search.run import run_search

    options = SearchOptions.from_dict(config['search'])
    experiment = Experiment.from_dict(config)
    set_up_memory()
    show_own_messages()
    cache_programs(flags.workdir)
    run_search(experiment, options, flags.workdir, others=flags.compare)
