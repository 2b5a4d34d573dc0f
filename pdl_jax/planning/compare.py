"""Throughput of saved plans at the rates of every chip, as Markdown tables.

Flops, bytes and memory are those of the topology that a plan was compiled for. The compiler makes a
different program for each chip, so for other chips the times are derived and the memory is a hint.
The times cover arithmetic and main memory, not the interconnect.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

from pdl_jax.planning.chips import CHIPS
from pdl_jax.storage.json_files import read_json

# Suffix of rates that compute bounds.
_MARKS = {'compute': ' c', 'hbm': ''}


def compare_plans(paths: Iterable[str | os.PathLike[str]], *, program: str = 'train') -> str:
    """Reads saved plans and formats their comparison.

    Args:
      paths: JSON files that `pdl_jax plan --json` has written; local or gs://.
      program: 'train', 'eval' or 'postprocess'.

    Returns:
      The tables of `format_comparison`.

    Raises:
      OSError: a file cannot be read.
      ValueError: a file is not a plan, lacks the program, or its program does not fit.
    """
    return format_comparison([_read_plan(path, program) for path in paths], program=program)


def format_comparison(reports: list[dict[str, Any]], *, program: str = 'train') -> str:
    """Formats Markdown tables with one row per plan.

    Args:
      reports: reports of `planning.report.make_report`.
      program: 'train', 'eval' or 'postprocess'. Only training has a schedule, the second table.

    Raises:
      ValueError: a plan lacks the program, or its program does not fit.
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
        'images per chip',
        'GFLOP per image',
        'GB per image',
        'GiB per chip',
        *CHIPS,
    ]
    rows = [_format_plan(report, program) for report in reports]
    lines = ['Images per second per chip, at best:', '', *_format_rows(columns, rows)]
    if program == 'train':
        columns = ['configuration', 'steps', 'batch', *CHIPS]
        rows = [_format_schedule(report) for report in reports]
        lines += ['', 'Chip-hours of the schedule, at best:', '', *_format_rows(columns, rows)]
    return '\n'.join(lines)


def estimate_images_per_second(
    report: dict[str, Any], program: str, chip_name: str
) -> tuple[float, str]:
    """Returns the upper bound of one chip, and whether 'compute' or 'hbm' sets it."""
    chip, plan = CHIPS[chip_name], report['programs'][program]
    seconds = {
        'compute': plan['flops_per_image'] / chip.flops_per_second,
        'hbm': plan['bytes_per_image'] / chip.hbm_bytes_per_second,
    }
    bound = max(seconds, key=lambda key: seconds[key])
    return 1 / seconds[bound], bound


def _read_plan(path: str | os.PathLike[str], program: str) -> dict[str, Any]:
    report = read_json(path)
    if not isinstance(report, dict) or 'programs' not in report:
        raise ValueError(f'{path} is not a plan; make one with pdl_jax plan --json={path}')
    try:
        format_comparison([report], program=program)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f'{path} is not a plan ({type(error).__name__}: {error}); make it again with pdl_jax '
            f'plan --json={path}'
        ) from error
    return report


def _format_plan(report: dict[str, Any], program: str) -> list[str]:
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
        # Parentheses: this many images per chip do not fit in the memory of that chip.
        cells.append(text if plan['bytes_per_chip'] <= chip.hbm_bytes else f'({text})')
    return cells


def _format_schedule(report: dict[str, Any]) -> list[str]:
    plan = report['programs']['train']
    images = plan['num_steps'] * plan['num_images']
    rates = [estimate_images_per_second(report, 'train', name)[0] for name in CHIPS]
    hours = [_format_number(images / rate / 3600) for rate in rates]
    return [_name(report), f'{plan["num_steps"]:,}', str(plan['num_images']), *hours]


def _name(report: dict[str, Any]) -> str:
    # The file without its folder, and the fields set on the command line.
    name = re.sub(r'^\S*/', '', report['config'])
    return f'`{name}`'


def _format_number(value: float) -> str:
    return f'{value:,.0f}' if value >= 10 else f'{value:.2g}'


def _format_rows(columns: list[str], rows: list[list[str]]) -> list[str]:
    rules = ['---' if i < 1 else '---:' for i in range(len(columns))]
    return ['| ' + ' | '.join(cells) + ' |' for cells in (columns, rules, *rows)]
