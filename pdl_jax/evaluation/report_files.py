"""The files of an evaluation: report.json, analysis.json and the page report.html.

WORKDIR/report.json, analysis.json, report.html                  of a whole run
WORKDIR/report_STEP.json, analysis_STEP.json, report_STEP.html   of a checkpoint
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from pdl_jax.evaluation.page.curves import read_curves
from pdl_jax.evaluation.page.page import write_page
from pdl_jax.evaluation.page.schema import check_analysis, check_report
from pdl_jax.evaluation.page.scored import Scored
from pdl_jax.evaluation.report import write_report
from pdl_jax.storage.json_files import read_json
from pdl_jax.storage.paths import make_path


def write_evaluation(
    report: Mapping[str, Any],
    analysis: Mapping[str, Any] | None,
    workdir: str | os.PathLike,
    *,
    step: int | str | None = None,
) -> list[epath.Path]:
    """Writes the report, and beside it the analysis and the page.

    Args:
      report: see `report.make_report`.
      analysis: see `RunAnalysis.describe`; None writes neither analysis nor page.
      workdir: local or gs://; made if it is missing.
      step: the step in the names of the files; None for those of the whole run.

    Returns:
      The paths of the report and of the page, if there is one.

    Raises:
      OSError: a file cannot be written.
    """
    folder = make_path(workdir)
    file = folder / f'{_name("report", step)}.json'
    write_report(report, os.fspath(file))
    if analysis is not None:
        write_report(analysis, os.fspath(folder / f'{_name("analysis", step)}.json'), indent=None)
        scored = Scored(_describe(folder), report, analysis, read_curves(folder))
        page = file.with_suffix('.html')
        write_page(page, scored)
        return [file, page]
    return [file]


def read_evaluation(
    workdir: str | os.PathLike, step: int | None = None
) -> tuple[Scored, epath.Path]:
    """Reads what an evaluation has written.

    Args:
      workdir: local or gs://.
      step: that of report_STEP.json. None takes report.json, or the report of the highest step if
        that is at least as high: `evaluate` wrote it later, as with tuned thresholds.

    Returns:
      The evaluation, and the path of its report.

    Raises:
      FileNotFoundError: there is no report.
      ValueError: a file is damaged.
    """
    folder = make_path(workdir)
    steps = _list_steps(folder)
    path = folder / f'{_name("report", step)}.json'
    report = _read_report(path) if path.exists() else None
    if step is None and steps and max(steps) >= ((report or {}).get('step') or 0):
        step = max(steps)
        path = folder / f'{_name("report", step)}.json'
        report = _read_report(path)
    if report is None:
        found = f'there are reports of the steps {sorted(steps)}' if steps else 'there is none'
        option = '' if step is None else f' --step={step}'
        raise FileNotFoundError(
            f'{path} does not exist, {found}: write it with pdl_jax evaluate '
            f'--workdir={os.fspath(workdir)}{option}'
        )
    analysis_path = folder / f'{_name("analysis", step)}.json'
    analysis = None
    if analysis_path.exists():
        analysis = check_analysis(read_json(analysis_path), source=os.fspath(analysis_path))
    return Scored(_describe(folder), report, analysis, read_curves(folder)), path


def _read_report(path: epath.Path) -> dict[str, Any]:
    return check_report(read_json(path), source=os.fspath(path))


def _list_steps(folder: epath.Path) -> list[int]:
    if not folder.is_dir():
        raise FileNotFoundError(f'{os.fspath(folder)} does not exist: give the workdir of a run')
    found = (re.fullmatch(r'report_(\d+)\.json', path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def _name(kind: str, step: int | str | None) -> str:
    return kind if step is None else f'{kind}_{step}'


def _describe(folder: epath.Path) -> str:
    """Names a workdir by its last two folders."""
    return '/'.join(part for part in folder.parts[-2:] if part != '/')
