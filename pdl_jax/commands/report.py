"""Writes the HTML page of an evaluation: one file that needs no server, network or other file.

It shows what `pdl_jax evaluate`, or the end of a training, has stored in the workdir, with the
learning curves of the run. With --compare it shows the difference from another evaluation too.
"""

import argparse

SUMMARY = 'write the HTML report of an evaluation, or of two and their difference'
EXAMPLES = """\
  pdl_jax report --workdir=runs/scenes
  pdl_jax report --workdir=runs/scenes --step=350 --output=report.html
  pdl_jax report --workdir=runs/scenes --compare=runs/other"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument('--workdir', required=True, help='directory of the reports; or gs://')
    parser.add_argument(
        '--step',
        type=int,
        help='take report_STEP.json (default: the newest step, first those of `evaluate`)',
    )
    parser.add_argument('--compare', metavar='DIR', help='directory of the reports to compare with')
    parser.add_argument(
        '--compare_step', type=int, metavar='STEP', help='the same as --step, of --compare'
    )
    parser.add_argument(
        '--output',
        help='HTML file to write, local or gs:// (default: the name of the report with .html, or '
        'comparison.html with --compare, in --workdir)',
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
      FileNotFoundError: there is no such report.
      OSError: the page cannot be written.
      ValueError: a file is damaged.
    """
    from pdl_jax.evaluation.page.page import write_page
    from pdl_jax.evaluation.report_files import read_evaluation

    if flags.compare_step is not None and flags.compare is None and flags.step is None:
        raise ValueError('--compare_step needs --compare or --step: compare with which evaluation?')
    scored, path = read_evaluation(flags.workdir, flags.step)
    other, output = None, path.with_suffix('.html')
    if flags.compare is not None or flags.compare_step is not None:
        other, _ = read_evaluation(flags.compare or flags.workdir, flags.compare_step)
        output = path.with_name('comparison.html')
    output = flags.output or output
    write_page(output, scored, other)
    print(f'wrote {output}')
    for evaluation, folder in ((scored, flags.workdir), (other, flags.compare or flags.workdir)):
        if evaluation is not None and evaluation.analysis is None:
            step = evaluation.report.get('step')
            option = '' if step is None else f' --step={step}'
            print(
                f'note: no analysis is stored beside that report: pdl_jax evaluate '
                f'--workdir={folder}{option} adds it'
            )
