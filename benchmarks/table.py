"""Results as a table of text."""

from collections.abc import Mapping
from typing import Any

_TITLES = (
    'case',
    'program',
    'median s',
    'min',
    'max',
    'ratio',
    'spread',
    'target',
    'peak MiB',
    'compile s',
    'of peak',
    'found',
)
_WIDTHS = (52, 18, 9, 9, 9, 7, 13, 6, 8, 9, 7, 0)


def format_title() -> str:
    return _join(_TITLES)


def format_rows(result: Mapping[str, Any]) -> list[str]:
    """Formats one row for our program and one per rival; the ratio is rival / ours."""
    rows = [_format_row(result['case'], 'ours', result['ours'])]
    rows += [
        _format_row('', name, rival)
        for name, rival in result['rivals'].items()
        if 'error' not in rival
    ]
    return rows


def _format_row(case, name, program):
    ratio, fraction = program.get('ratio'), program.get('peak_fraction')
    spread = program['seconds']
    return _join(
        (
            case,
            name,
            *(f'{spread[key]:.4g}' for key in ('median', 'min', 'max')),
            f'{ratio["median"]:.2f}' if ratio else '',
            f'{ratio["min"]:.2f}-{ratio["max"]:.2f}' if ratio else '',
            f'{program["target"]:g}' if program.get('target') else '',
            f'{program["peak_bytes"] / 2**20:.0f}',
            f'{program["compile_seconds"]:.1f}',
            f'{100 * fraction:.0f} %' if fraction else '',
            format_findings(program),
        )
    )


def format_findings(program: Mapping[str, Any]) -> str:
    """Formats the difference of a rival's results from ours, or another measurement."""
    findings = {**(program.get('agreement') or {}), **program.get('facts', {})}
    # Only the first fits; it is the decisive one.
    return ''.join(
        f'{key.replace("_", " ")} {value:.2g}' for key, value in list(findings.items())[:1]
    )


def _join(cells):
    return ' '.join(
        f'{cell:{"<" if i < 2 else ">"}{width}}'
        for i, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
