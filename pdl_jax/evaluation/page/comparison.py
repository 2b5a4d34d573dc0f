"""The sections of the page that compares two evaluations."""

import collections
import math
from collections.abc import Mapping
from typing import Any

from pdl_jax.evaluation.analysis.causes import CAUSES
from pdl_jax.evaluation.page.charts import histogram_chart
from pdl_jax.evaluation.page.html import (
    Html,
    format_percent,
    make_section,
    make_table,
    name_cell,
    percent_cell,
    tag,
)
from pdl_jax.evaluation.page.scored import Scored
from pdl_jax.evaluation.page.sections import CAUSE_TEXTS
from pdl_jax.evaluation.report import list_tables

_NUM_LISTED = 15
# (metric, key, title) of the scores by class that are compared.
_COLUMNS = (
    ('pq', 'pq', 'PQ'),
    ('iou', 'iou', 'IoU'),
    ('ap', 'ap', 'AP'),
    ('accuracy', 'accuracy', 'top-1'),
)
# (path in the report, title) of the headline scores.
_HEADLINES = (
    (('pq', 'All', 'pq'), 'PQ'),
    (('pq', 'All', 'sq'), 'SQ'),
    (('pq', 'All', 'rq'), 'RQ'),
    (('pq', 'Things', 'pq'), 'PQ things'),
    (('pq', 'Stuff', 'pq'), 'PQ stuff'),
    (('miou',), 'mIoU'),
    (('pixel_accuracy',), 'pixel accuracy'),
    (('top1',), 'top-1'),
    (('top5',), 'top-5'),
    (('ap', 'ap'), 'AP'),
    (('ap', 'ap50'), 'AP50'),
    (('pc', 'All', 'pc'), 'PC'),
)


def make_comparison_sections(first: Scored, second: Scored) -> list[Html | None]:
    """Makes the sections; each difference is the first evaluation minus the second."""
    return [
        _compare_headlines(first, second),
        _compare_classes(first, second),
        _compare_losses(first, second),
        _compare_images(first, second),
    ]


def subtract(first: float | None, second: float | None) -> float | None:
    """Returns the difference of two values, None if one of them is missing."""
    return None if first is None or second is None else first - second


def _make_cells(first: float | None, second: float | None) -> list[Html]:
    difference = percent_cell(subtract(first, second), sign=True)
    return [percent_cell(first), percent_cell(second), difference]


def _compare_headlines(first: Scored, second: Scored) -> Html:
    rows = [
        (name_cell(title), *_make_cells(first.get(*path), second.get(*path)))
        for path, title in _HEADLINES
        if first.get(*path) is not None or second.get(*path) is not None
    ]
    heads = ['score', 'A', 'B', 'A - B']
    table = make_table(heads, rows, caption='Scores in %', is_sortable=False)
    return make_section(
        'difference',
        'Difference of two evaluations',
        tag('p', tag('b', 'A'), f' is {first.title}; ', tag('b', 'B'), f' is {second.title}.'),
        _warn_of_other_images(first, second),
        table,
    )


def _warn_of_other_images(first: Scored, second: Scored) -> Html | None:
    """Warns if the evaluations are not of the same images."""
    names = [(s.analysis or {}).get('images', {}).get('file_name') for s in (first, second)]
    counts = [s.report['num_images'] for s in (first, second)]
    if counts[0] == counts[1] and (None in names or sorted(names[0]) == sorted(names[1])):
        return None
    text = f'A has {counts[0]} images and B {counts[1]}, and they are not the same images.'
    return tag('p', text, class_='warning')


def _compare_classes(first: Scored, second: Scored) -> Html:
    tables = [list_tables(scored.report) for scored in (first, second)]
    columns = [c for c in _COLUMNS if all(c[0] in table for table in tables)]
    # Keys may be ids in one report and names in the other: names decide.
    rows_by_name = [
        {
            metric: {scored.name_class(key): row for key, row in table.get(metric, {}).items()}
            for metric, *_ in columns
        }
        for scored, table in zip((first, second), tables, strict=True)
    ]
    names = dict.fromkeys(n for rows in rows_by_name for table in rows.values() for n in table)
    rows = []
    for name in names:
        cells = [name_cell(name)]
        for metric, key, _ in columns:
            cells += _make_cells(*(rows[metric].get(name, {}).get(key) for rows in rows_by_name))
        rows.append(cells)
    heads = ['class', *(f'{title} {kind}' for *_, title in columns for kind in ('A', 'B', 'A - B'))]
    table = make_table(heads, rows, caption='Scores in %. A click on a title sorts.')
    return make_section('class-difference', 'Classes of both', table)


def _compare_losses(first: Scored, second: Scored) -> Html | None:
    losses = [(s.analysis or {}).get('loss', {}).get('All') for s in (first, second)]
    if None in losses:
        return None
    rows = []
    for cause in CAUSES:
        values = [loss[cause] for loss in losses]
        # A smaller loss is better.
        difference = percent_cell(values[1] - values[0], sign=True)
        cells = (*map(percent_cell, values), difference)
        rows.append((name_cell(CAUSE_TEXTS[cause][0]), *cells))
    totals = [sum(loss.values()) for loss in losses]
    rows.append(
        (
            name_cell('lost in all'),
            *map(percent_cell, totals),
            percent_cell(totals[1] - totals[0], sign=True),
        )
    )
    heads = ['cause', 'A', 'B', ('gain of A', 'B - A: what A loses less')]
    table = make_table(heads, rows, caption='Points of PQ lost, in %', is_sortable=False)
    return make_section('loss-difference', 'What PQ loses in both', table)


def _compare_images(first: Scored, second: Scored) -> Html | None:
    scores = [_list_scores(s.analysis or {}) for s in (first, second)]
    pairs = []
    for key, score in scores[0].items():
        other = scores[1].get(key)
        if score is not None and other is not None:
            pairs.append((score - other, key[0], score, other))
    if not pairs:
        return None
    differences = sorted(pairs, key=lambda pair: pair[0])
    # Tens of points on both sides of the middle.
    bound = max(0.1, math.ceil(10 * max(abs(pair[0]) for pair in pairs)) / 10)
    chart = histogram_chart(
        [pair[0] for pair in pairs],
        low=-bound,
        high=bound,
        num_bins=40,
        title='Number of images by the difference of their scores',
        x_title='A - B (points)',
    )
    gained = [pair for pair in differences[::-1] if pair[0] > 0][:_NUM_LISTED]
    lost = [pair for pair in differences if pair[0] < 0][:_NUM_LISTED]
    tables = [
        make_table(
            ['image', 'A', 'B', 'A - B'],
            [(name_cell(name), *_make_cells(a, b)) for _, name, a, b in chosen],
            caption=caption,
        )
        for chosen, caption in ((gained, 'A is better by most'), (lost, 'B is better by most'))
        if chosen
    ]
    better, worse = (sum(1 for pair in pairs if sign * pair[0] > 0) for sign in (1, -1))
    mean = sum(pair[0] for pair in pairs) / len(pairs)
    text = (
        f'Of {len(pairs)} images A is better on {better} and B on {worse}; the mean difference is '
        f'{format_percent(mean, sign=True)} points.'
    )
    inner = tag('div', chart, *tables, class_='row')
    return make_section('image-difference', 'Images of both', tag('p', text, class_='soft'), inner)


def _list_scores(analysis: Mapping[str, Any]) -> dict[tuple[str, int], float | None]:
    """Lists the score of each image by its name and, where names repeat, by a number."""
    images = analysis.get('images', {'file_name': (), 'score': ()})
    seen: collections.Counter[str] = collections.Counter()
    scores = {}
    for name, score in zip(images['file_name'], images['score'], strict=True):
        scores[name, seen[name]] = score
        seen[name] += 1
    return scores
