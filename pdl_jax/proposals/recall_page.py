"""The recall of proposals as an HTML page with a curve per class and threshold."""

import os
from collections.abc import Mapping
from typing import Any

from pdl_jax.evaluation.page.charts import Curve, line_chart
from pdl_jax.evaluation.page.html import (
    Html,
    make_document,
    make_section,
    make_table,
    name_cell,
    percent_cell,
    tag,
)
from pdl_jax.storage.paths import make_path, write_whole

_TITLES = {'space': 'IoU of boxes in space', 'image': 'IoU of boxes in the image'}


def write_recall_page(path: str | os.PathLike, report: Mapping[str, Any]) -> None:
    """Writes the page; an existing file is replaced in one step.

    Args:
      path: HTML file, local or gs://.
      report: see `RecallCounter.summarize`.

    Raises:
      OSError: the file cannot be written.
    """
    sections = [_make_section(report, name, title) for name, title in _TITLES.items()]
    heading = tag('header', tag('h1', 'Recall of proposals'))
    file = make_path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, make_document('Recall of proposals', [heading, *sections]).encode())


def _make_section(report: Mapping[str, Any], name: str, title: str) -> Html:
    counts = report['num_proposals']
    curves, rows = [], []
    for kind, row in report['classes'].items():
        for threshold, recalls in row[name].items():
            label = f'{kind}, IoU {threshold}'
            rows.append([name_cell(label), *(percent_cell(recall) for recall in recalls)])
            if row['num_objects']:
                curves.append(Curve(label, counts, recalls, color=len(curves)))
    chart = None
    if curves:
        chart = line_chart(
            curves,
            title=f'Recall (%), {title}',
            is_percent=True,
            x_title='proposals per image and class',
            is_log_x=True,
        )
    table = make_table(
        ['Objects', *(f'{count:,}' for count in counts)],
        rows,
        caption='Recall in percent by the number of proposals per image and class.',
    )
    return make_section(name, title, chart, table)
