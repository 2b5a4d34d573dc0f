"""Holds plans against the rates of every chip, as Markdown: what else would the same compiled step run on, and how fast at best?

    python -m pdl_jax.commands.plan --config=configs/coco.py --topology=v5e:4x4 --programs=train --json=plans/coco.json
    python -m pdl_jax.planning.compare plans/*.json

Flops, bytes and memory are those of the topology that a plan was compiled for; the compiler makes a different program for each
chip, so that for the others the times are derived and the memory is a hint. Of time only arithmetic and main memory count.
"""

import argparse
import json
import re
from typing import Any

from etils import epath

from pdl_jax.planning.chips import CHIPS
from pdl_jax.planning.programs import PROGRAMS

# Behind the rate of what is bound by compute.
_MARKS = {'compute': ' c', 'hbm': ''}


def format_comparison(reports: list[dict[str, Any]], *, program: str = 'train') -> str:
    """One row for each plan, as two tables of Markdown.

    Args:
      reports: of `planning.report.make_report`, each with the program.
      program: 'train', 'eval' or 'postprocess'; only training has a schedule, the second table.

    Raises:
      ValueError: a plan lacks the program or does not say what it takes.
    """
    for report in reports:
        if program not in report['programs']:
            raise ValueError(
                f'the plan of {report["config"]} on {report["topology"]} has no program {program!r}'
            )
        if report['programs'][program]['flops'] is None:
            raise ValueError(
                f'{report["config"]} does not fit on {report["topology"]}: plan it on more chips'
            )
    columns = [
        'configuration',
        'compiled for',
        'input',
        'images a chip',
        'GFLOP an image',
        'GB an image',
        'GiB a chip',
        *CHIPS,
    ]
    lines = [
        'Images a second and chip, at best:',
        '',
        *_format_rows(columns, [_compare(r, program) for r in reports]),
    ]
    if program == 'train':
        columns = ['configuration', 'steps', 'batch', *CHIPS]
        rows = [_schedule(report) for report in reports]
        lines += ['', 'Chip-hours of the schedule, at best:', '', *_format_rows(columns, rows)]
    return '\n'.join(lines)


def estimate_images_per_second(
    report: dict[str, Any], program: str, chip_name: str
) -> tuple[float, str]:
    """Of one chip at best, and whether 'compute' or 'hbm' bounds it."""
    chip, plan = CHIPS[chip_name], report['programs'][program]
    seconds = {
        'compute': plan['flops_per_image'] / chip.flops_per_second,
        'hbm': plan['bytes_per_image'] / chip.hbm_bytes_per_second,
    }
    bound = max(seconds, key=seconds.get)
    return 1 / seconds[bound], bound


def _compare(report, program):
    plan = report['programs'][program]
    cells = [
        _name(report),
        report['topology'],
        'x'.join(map(str, plan['size'])),
        f'{plan["num_images"] / report["num_chips"]:g}',
        f'{plan["flops_per_image"] / 1e9:,.0f}',
        f'{plan["bytes_per_image"] / 1e9:.2f}',
        f'{plan["bytes_per_chip"] / 2**30:.1f}',
    ]
    for name, chip in CHIPS.items():
        rate, bound = estimate_images_per_second(report, program, name)
        text = _format_number(rate) + _MARKS[bound]
        # What needs more memory than the chip has does not run there with so many images.
        cells.append(text if plan['bytes_per_chip'] <= chip.hbm_bytes else f'({text})')
    return cells


def _schedule(report):
    plan = report['programs']['train']
    images = plan['num_steps'] * plan['num_images']
    rates = [estimate_images_per_second(report, 'train', name)[0] for name in CHIPS]
    hours = [_format_number(images / rate / 3600) for rate in rates]
    return [_name(report), f'{plan["num_steps"]:,}', str(plan['num_images']), *hours]


def _name(report):
    # The file without its folder, and the fields set on the command line.
    name = re.sub(r'^\S*/', '', report['config'])
    return f'`{name}`'


def _format_number(value):
    return f'{value:,.0f}' if value >= 10 else f'{value:.2g}'


def _format_rows(columns, rows):
    rules = ['---' if i < 1 else '---:' for i in range(len(columns))]
    return ['| ' + ' | '.join(cells) + ' |' for cells in (columns, rules, *rows)]


def main() -> None:
    """Prints the tables of the plans named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'plans', nargs='+', help='JSON files of pdl_jax.commands.plan; local or gs://'
    )
    parser.add_argument('--program', default='train', choices=PROGRAMS)
    options = parser.parse_args()
    try:
        reports = [json.loads(epath.Path(path).read_text()) for path in options.plans]
        print(format_comparison(reports, program=options.program))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
