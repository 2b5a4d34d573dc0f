"""The section of classes that are taken for others."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pdl_jax.evaluation.page.html import (
    Html,
    count_cell,
    format_percent,
    make_section,
    make_table,
    name_cell,
    number_cell,
    percent_cell,
    tag,
)
from pdl_jax.evaluation.page.scored import Scored

# A larger matrix is no longer read; then the classes with most confused pixels are shown.
_MAX_SHOWN = 30
_MAX_LISTED = 20
_VOID = 'void'


def make_confusion_section(scored: Scored) -> Html | None:
    """Makes the matrix of classes by pixels, and lists what is confused most."""
    analysis = scored.analysis or {}
    if not analysis.get('confusion') or len(analysis['classes']) < 2:
        return None
    names = [*(c['name'] for c in analysis['classes']), _VOID]
    matrix = _fill(analysis['confusion'], len(names))
    confused = matrix * (1 - np.eye(len(names), dtype=np.int64))
    labelled = matrix.sum(1)
    order = np.argwhere(confused)
    order = order[np.argsort(-confused[tuple(order.T)], kind='stable')][:_MAX_LISTED]
    pixels = make_table(
        ['labelled', 'predicted', 'pixels', ('share', 'of the pixels of the labelled class, in %')],
        [
            (
                name_cell(names[i]),
                tag('td', names[j], class_='text', data_text=names[j].lower()),
                count_cell(int(confused[i, j])),
                percent_cell(float(confused[i, j] / labelled[i])),
            )
            for i, j in order.tolist()
        ],
        caption='Pixels taken for another class, the most first',
    )
    parts = [
        _draw_matrix(matrix, confused, names),
        tag('div', pixels, _list_segments(analysis, names), class_='row'),
    ]
    text = (
        'Share of the pixels of a labelled class (row) by predicted class (column), in %. A pixel '
        'has the class of its highest logit, whatever segment it is in.'
    )
    return make_section('confusion', 'Confusion', tag('p', text, class_='soft'), *parts)


def _fill(triples: list[list[int]], size: int) -> np.ndarray:
    matrix = np.zeros((size, size), np.int64)
    for row, column, count in triples:
        matrix[row, column] = count
    return matrix


def _list_segments(analysis: Mapping[str, Any], names: list[str]) -> Html | None:
    """Lists the segments that were found as another class."""
    rows = [
        (
            name_cell(names[i]),
            tag('td', names[j], class_='text', data_text=names[j].lower()),
            count_cell(count),
        )
        for i, j, count in analysis.get('wrong_classes', ())[:_MAX_LISTED]
    ]
    caption = 'Segments found with IoU > 0.5 as another class, the most first'
    return (
        make_table(['labelled', 'predicted', 'segments'], rows, caption=caption) if rows else None
    )


def _draw_matrix(matrix: np.ndarray, confused: np.ndarray, names: list[str]) -> Html:
    """Draws the matrix as a table; the colour of a cell is its share of the row."""
    is_used = (matrix.sum(0) + matrix.sum(1)) > 0
    used = np.flatnonzero(is_used)
    mistakes = confused.sum(0) + confused.sum(1)
    shown = np.sort(used[np.argsort(-mistakes[used], kind='stable')][:_MAX_SHOWN]).tolist()
    caption = 'Confusion matrix'
    if len(shown) < len(used):
        caption += f' of the {len(shown)} of {len(used)} classes with most confused pixels'
    total = np.maximum(matrix.sum(1), 1)
    rows = []
    for i in shown:
        if not matrix[i].any():
            continue
        cells = [name_cell(names[i])]
        for j in shown:
            share = float(matrix[i, j] / total[i])
            cells.append(
                number_cell(
                    format_percent(share) if matrix[i, j] else '',
                    share,
                    title=f'{names[i]} as {names[j]}: {matrix[i, j]:,} pixels',
                    # Text stays readable on half of the colour.
                    style=f'background: rgba(var(--blue), {0.55 * share**0.5:.3f})',
                )
            )
        rows.append(cells)
    heads = ['', *(names[j] for j in shown)]
    return tag('div', make_table(heads, rows, caption=caption, is_sortable=False), class_='matrix')
