"""The sections of the page of one evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

from pdl_jax.evaluation.analysis.causes import CAUSES
from pdl_jax.evaluation.page.charts import (
    histogram_chart,
    make_legend,
    reliability_chart,
    stacked_bar,
)
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
from pdl_jax.evaluation.report import CLASS_COLUMNS, CLASS_TITLES, COUNTS, list_tables

GROUPS = ('All', 'Things', 'Stuff')
_EXPLANATIONS = {
    'pq': 'panoptic quality, SQ x RQ, in %',
    'sq': 'segmentation quality: mean IoU of matched segments, in %',
    'rq': 'recognition quality: F1 score of segments, in %',
    'tp': 'matched segments',
    'fp': 'predicted segments without a match',
    'fn': 'labelled segments without a match',
    'ap': 'average precision of masks, in %',
    'pc': 'parsing covering, in %',
    'iou': 'intersection over union of the pixels of the class, in %',
    'accuracy': 'share of the images of the class that are classified right, in %',
}
CAUSE_TEXTS = {
    'inexact': ('inexact', 'matched, but the outline differs: 1 - IoU'),
    'wrong_class': ('wrong class', 'found with IoU > 0.5, but as another class'),
    'merged': ('merged', 'several objects of the class in one prediction'),
    'split': ('split', 'one object in several predictions of the class'),
    'poor_outline': ('poor outline', 'right class, but 0.1 < IoU <= 0.5'),
    'missed': ('missed', 'labelled, and nothing of the class is there'),
    'false': ('false', 'predicted, and nothing of the class is labelled there'),
}
_MAX_LISTED_IMAGES = 20


def make_cards(scored: Scored) -> Html:
    """Makes the headline numbers."""
    numbers = [(key.upper(), scored.get('pq', 'All', key)) for key in ('pq', 'sq', 'rq')]
    numbers += [(f'PQ {g.lower()}', scored.get('pq', g, 'pq')) for g in ('Things', 'Stuff')]
    numbers += [('mIoU', scored.get('miou')), ('pixel accuracy', scored.get('pixel_accuracy'))]
    numbers += [('top-1', scored.get('top1')), ('top-5', scored.get('top5'))]
    numbers += [(key.upper(), scored.get('ap', key)) for key in ('ap', 'ap50')]
    numbers += [('PC', scored.get('pc', 'All', 'pc'))]
    cards = [
        tag('li', tag('b', format_percent(value), data_value=repr(value)), tag('span', name))
        for name, value in numbers
        if value is not None
    ]
    return tag('ul', *cards, class_='cards')


def make_class_section(scored: Scored) -> Html:
    """Makes the table of all scores by class."""
    tables = list_tables(scored.report)
    columns = [c for group in CLASS_COLUMNS for c in group if c[0] in tables]
    heads = [(CLASS_TITLES.get(key, key.upper()), _EXPLANATIONS[key]) for _, key in columns]

    def cells(find: Callable[[str, str], Any]) -> list[Html]:
        return [
            count_cell(find(metric, key)) if key in COUNTS else percent_cell(find(metric, key))
            for metric, key in columns
        ]

    def find_average(group: str) -> Callable[[str, str], Any]:
        def find(metric: str, key: str) -> Any:
            if metric in ('iou', 'accuracy'):
                mean = 'miou' if metric == 'iou' else 'top1'
                return scored.get(mean) if group == 'All' else None
            if metric == 'ap':
                return scored.get('ap', key) if group == 'All' else None
            return None if key in COUNTS else scored.get(metric, group, key)

        return find

    averages = [
        (name_cell(f'mean of {"all" if group == "All" else group.lower()}'), *row)
        for group in (GROUPS if 'pq' in tables else GROUPS[:1])
        for row in [cells(find_average(group))]
    ]
    keys = dict.fromkeys(key for rows in tables.values() for key in rows)
    rows = [
        (
            name_cell(scored.name_class(key)),
            *cells(lambda metric, name, key=key: tables[metric].get(key, {}).get(name)),
        )
        for key in keys
    ]
    caption = 'Scores in %, and numbers of segments. A click on a title sorts.'
    table = make_table(['class', *heads], rows, caption=caption, averages=averages)
    return make_section('classes', 'Classes', table)


def make_loss_section(scored: Scored) -> Html | None:
    """Makes the division of the lost panoptic quality among its causes."""
    loss = (scored.analysis or {}).get('loss')
    if not loss or loss['All'] is None:
        return None
    heads = [CAUSE_TEXTS[cause] for cause in CAUSES]

    def make_row(name: str, row: Mapping[str, float], quality: float | None) -> list[Html]:
        bar = tag('td', stacked_bar([(c, row[c]) for c in CAUSES]))
        return [
            name_cell(name),
            percent_cell(quality),
            percent_cell(sum(row.values())),
            *(percent_cell(row[cause]) for cause in CAUSES),
            bar,
        ]

    averages = [
        make_row(f'mean of {g.lower()}', loss[g], scored.get('pq', g, 'pq'))
        for g in GROUPS
        if loss[g] is not None
    ]
    rows = [
        make_row(scored.name_class(key), row, scored.get('pq', 'per_class', key, 'pq'))
        for key, row in sorted(loss['per_class'].items(), key=lambda x: -sum(x[1].values()))
    ]
    text = (
        'PQ + lost = 100, and lost is the sum of the columns behind it. Every predicted segment '
        'without a match and every labelled one costs half a segment, for the first cause that '
        'applies, from left to right. The bar is 100 long.'
    )
    legend = make_legend([(f'{a}: {b}', f'var(--{c})') for c, (a, b) in CAUSE_TEXTS.items()])
    heads = ['class', ('PQ', _EXPLANATIONS['pq']), ('lost', '100 - PQ'), *heads, '']
    table = make_table(heads, rows, caption='Points of PQ lost, in %', averages=averages)
    return make_section('loss', 'What PQ loses', tag('p', text, class_='soft'), legend, table)


def make_size_section(scored: Scored) -> Html | None:
    """Makes the scores of objects by size."""
    sizes = (scored.analysis or {}).get('sizes')
    if not sizes or not (sizes['quantiles'] or any(row['tp'] for row in sizes['coco'])):
        return None
    tables = []
    for key, caption in (
        ('coco', "COCO's sizes"),
        ('quantiles', 'Equal parts of the labelled objects'),
    ):
        rows = [
            (
                name_cell(row['name']),
                number_cell(_format_range(row['min_px'], row['max_px']), row['min_px']),
                *(percent_cell(row[k]) for k in ('pq', 'sq', 'rq')),
                *(count_cell(row[k]) for k in COUNTS),
            )
            for row in sizes[key]
        ]
        heads = ['size', 'area (px)', *(k.upper() for k in ('pq', 'sq', 'rq', *COUNTS))]
        if rows:
            tables.append(make_table(heads, rows, caption=caption, is_sortable=False))
    text = (
        'Things only, areas in pixels of the image. A match and a missed object count for the size '
        'of the label, a false prediction for its own.'
    )
    inner = tag('div', *tables, class_='row')
    return make_section('sizes', 'Size of objects', tag('p', text, class_='soft'), inner)


def make_calibration_section(scored: Scored) -> Html | None:
    """Makes the comparison of scores with the share of objects that are right."""
    analysis = scored.analysis or {}
    calibration = analysis.get('calibration')
    if not calibration:
        if not analysis.get('loss'):
            return None
        text = (
            'The predicted objects have no scores in [0, 1]. Evaluations within a training leave '
            'them out unless AP is among the metrics; pdl_jax evaluate computes them.'
        )
        return make_section('calibration', 'Calibration of scores', tag('p', text, class_='soft'))
    mean, precision = calibration['mean_score'], calibration['precision']
    word = 'too high' if mean > precision else 'too low'
    text = (
        f'Expected calibration error {format_percent(calibration["ece"])} %. The mean score is '
        f'{format_percent(mean)} %, and {format_percent(precision)} % of the predicted objects '
        f'match a labelled one with IoU > 0.5: scores are {word} on average.'
    )
    rows = [
        (
            name_cell(f'{format_percent(b["low"])} to {format_percent(b["high"])}'),
            count_cell(b['count']),
            percent_cell(b['score']),
            percent_cell(b['precision']),
        )
        for b in calibration['bins']
    ]
    heads = ['score', 'objects', 'mean score', 'right']
    table = make_table(heads, rows, caption='Bins of the score, in %', is_sortable=False)
    inner = tag('div', reliability_chart(calibration['bins']), table, class_='row')
    return make_section(
        'calibration', 'Calibration of scores', tag('p', text, class_='soft'), inner
    )


def make_image_section(scored: Scored) -> Html | None:
    """Makes the scores of single images, and the best and the worst of them as pictures."""
    images = (scored.analysis or {}).get('images')
    if not images:
        return None
    rows = [dict(zip(images, values, strict=True)) for values in zip(*images.values(), strict=True)]
    rows = sorted((r for r in rows if r['score'] is not None), key=lambda row: row['score'])
    if not rows:
        return None
    is_panoptic = scored.report.get('pq') is not None
    score = 'PQ' if is_panoptic else 'pixel accuracy'
    chart = histogram_chart(
        [row['score'] for row in rows],
        low=0.0,
        high=1.0,
        num_bins=20,
        title=f'Number of images by their {score}',
        x_title=f'{score} of the image (%)',
    )
    counts = COUNTS if is_panoptic else ()
    table = make_table(
        ['image', score, *(key.upper() for key in counts)],
        [
            (
                name_cell(row['file_name']),
                percent_cell(row['score']),
                *(count_cell(row[key]) for key in counts),
            )
            for row in rows[:_MAX_LISTED_IMAGES]
        ],
        caption=f'The {min(len(rows), _MAX_LISTED_IMAGES)} lowest of {len(rows)} images',
    )
    text = (
        'The score of an image is the mean over the classes that are labelled or predicted in it.'
    )
    return make_section(
        'images',
        'Images',
        tag('p', text, class_='soft') if is_panoptic else None,
        tag('div', chart, table, class_='row'),
        *_show_pictures(scored.analysis or {}, score),
    )


def _show_pictures(analysis: Mapping[str, Any], score: str) -> list[Html]:
    """Shows the panels of pictures, by kind, and what the colours of errors mean."""
    pictures = analysis.get('pictures') or ()
    colors = analysis.get('error_colors') or {}
    entries = [(name.replace('_', ' '), color) for name, color in colors.items()]
    parts = []
    if pictures:
        parts += [tag('h3', 'Colours of errors'), make_legend(entries)]
    for kind in ('worst', 'best'):
        chosen = [picture for picture in pictures if picture['kind'] == kind]
        if chosen:
            parts.append(tag('h3', f'The {kind} images'))
        for picture in chosen:
            name = picture['file_name']
            panels = [
                tag(
                    'button',
                    tag('img', src=f'data:image/jpeg;base64,{data}', alt=f'{panel} of {name}'),
                    panel,
                    type='button',
                    title='larger or smaller',
                )
                for panel, data in picture['panels'].items()
            ]
            caption = (tag('b', name), f' {score} {format_percent(picture["score"])}')
            parts.append(
                tag('figure', tag('figcaption', *caption), tag('div', *panels, class_='panels'))
            )
    return parts


def _format_range(low: int, high: int | None) -> str:
    return f'from {low:,}' if high is None else f'{low:,} to {high - 1:,}'
