"""Charts as inline SVG."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pdl_jax.evaluation.page.html import Html, format_percent, tag

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 40
_NUM_COLORS = 6
_NUM_TICKS = 5


class Curve(NamedTuple):
    """A line of a chart.

    Attributes:
      name: text of the legend.
      x, y: the points; values are finite.
      color: number of the colour.
      is_dashed: whether the line is that of the run to compare with.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    is_dashed: bool = False


class Points(NamedTuple):
    """Marks of a scatter chart.

    Attributes:
      name: text of the legend.
      x, y: the points; values are finite, y a share of 1.
      texts: one for each point, for the pointer.
      front: the points that a line joins as steps, by their indices, ascending in x.
      color: number of the colour.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str]
    front: Sequence[int] = ()
    color: int = 0


class _Frame(NamedTuple):
    """Maps values to the pixels of a chart; (low, high) of each axis, by their logs if told to."""

    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = False
    is_log_x: bool = False

    def place(self, x: float, y: float) -> tuple[float, float]:
        u = _share(x, *self.x, is_log=self.is_log_x)
        v = _share(y, *self.y, is_log=self.is_log)
        return (
            round(_LEFT + u * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - v * (_HEIGHT - _TOP - _BOTTOM), 1),
        )


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    is_percent: bool = False,
    is_loss: bool = False,
    x_title: str = 'step',
    is_log_x: bool = False,
) -> Html:
    """Draws curves; losses that span more than a decade get a logarithmic axis."""
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    low, high = min(ys), max(ys)
    is_log = is_loss and low > 0 and high > 10 * low
    if is_percent:
        low, high = 0.0, max(high, 0.01)
    elif not is_log:
        low = min(low, 0.0)
    frame = _Frame((min(xs), max(max(xs), min(xs) + 1)), (low, high if high > low else low + 1))
    frame = frame._replace(is_log=is_log, is_log_x=is_log_x)
    show = _format_share if is_percent else _format_number
    ticks = _log_ticks(low, high) if is_log else _ticks(*frame.y)
    lines = []
    for curve in curves:
        points = ' '.join(
            '{},{}'.format(*frame.place(x, y)) for x, y in zip(curve.x, curve.y, strict=True)
        )
        style = f'stroke: var(--s{curve.color % _NUM_COLORS})'
        kind = 'curve other' if curve.is_dashed else 'curve'
        if len(curve.x) > 1:
            lines.append(tag('polyline', points=points, class_=kind, style=style))
            continue
        cx, cy = points.split(',')
        fill = f'fill: var(--s{curve.color % _NUM_COLORS})'
        lines.append(tag('circle', cx=cx, cy=cy, r=3, style=fill))
    x_ticks = (_log_ticks if is_log_x else _ticks)(*frame.x)
    axes = _draw_axes(frame, x_ticks, ticks, _format_number, show, x_title)
    legend = [(c.name, f'var(--s{c.color % _NUM_COLORS})', c.is_dashed) for c in curves]
    return tag('figure', tag('figcaption', title), _draw_svg(title, [*axes, *lines]), _list(legend))


def scatter_chart(groups: Sequence[Points], *, title: str, x_title: str) -> Html:
    """Draws costs (x) and shares (y) in groups, the front of each as steps.

    The legend is part of the drawing, which can so be a file of its own.
    """
    xs = [x for group in groups for x in group.x]
    ys = [y for group in groups for y in group.y]
    margin = 0.05 * ((max(ys) - min(ys)) or 0.2)
    low = max(min(ys) - margin, 0.0)
    frame = _Frame((0.0, 1.05 * max(xs)), (low, max(min(max(ys) + margin, 1.0), low + 0.01)))
    parts = _draw_axes(
        frame, _ticks(*frame.x), _ticks(*frame.y), _format_short, _format_share, x_title
    )
    for row, group in enumerate(groups):
        color = f'var(--s{group.color % _NUM_COLORS})'
        places = [frame.place(x, y) for x, y in zip(group.x, group.y, strict=True)]
        steps = [f'{places[a][0]},{places[b][1]}' for a, b in _join_steps(group.front)]
        parts.append(
            tag('polyline', points=' '.join(steps), class_='curve', style=f'stroke: {color}')
        )
        for (x, y), text in zip(places, group.texts, strict=True):
            style = f'fill: {color}; opacity: 0.75'
            parts.append(tag('circle', tag('title', text), cx=x, cy=y, r=4, style=style))
        # At the left, where only networks without any cost would be.
        x, y = _LEFT + 12, _HEIGHT - _BOTTOM - 18 * (len(groups) - row) + 4
        parts.append(tag('circle', cx=x, cy=y - 4, r=4, style=f'fill: {color}'))
        parts.append(tag('text', group.name, x=x + 10, y=y))
    return tag('figure', tag('figcaption', title), _draw_svg(title, parts))


def _join_steps(front: Sequence[int]) -> list[tuple[int, int]]:
    """Lists (point of x, point of y) of the corners: along each point to the x of the next."""
    corners = [(index, index) for index in front]
    turns = [(after, before) for before, after in itertools.pairwise(front)]
    return [c for pair in itertools.zip_longest(corners, turns) for c in pair if c is not None]


def reliability_chart(bins: Sequence[dict[str, Any]]) -> Html:
    """Draws the precision of each bin of scores; the ideal is the diagonal."""
    frame = _Frame((0.0, 1.0), (0.0, 1.0))
    ticks = [i / 5 for i in range(6)]
    parts = _draw_axes(frame, ticks, ticks, _format_share, _format_share, 'score (%)')
    for item in bins:
        if item['precision'] is None:
            continue
        (x0, y0), (x1, y1) = (
            frame.place(item['low'], item['precision']),
            frame.place(item['high'], 0),
        )
        text = (
            f'score {format_percent(item["score"])}: {format_percent(item["precision"])} of '
            f'{item["count"]} right'
        )
        parts.append(
            _bar(text, x0, x1, y0, max(y1 - y0, 0.5), style='fill: var(--s0); opacity: 0.75')
        )
    (x0, y0), (x1, y1) = frame.place(0, 0), frame.place(1, 1)
    parts.append(tag('line', x1=x0, y1=y0, x2=x1, y2=y1, class_='ideal'))
    title = 'Share of predicted objects that are right, by score; dashed: the ideal'
    return tag('figure', tag('figcaption', title), _draw_svg(title, parts))


def histogram_chart(
    values: Sequence[float], *, low: float, high: float, num_bins: int, title: str, x_title: str
) -> Html:
    """Draws the number of values, in [low, high], in each of some bins of equal width."""
    counts = [0] * num_bins
    for value in values:
        index = int((value - low) / (high - low) * num_bins)
        counts[min(max(index, 0), num_bins - 1)] += 1
    frame = _Frame((low, high), (0.0, float(max(*counts, 1))))
    parts = _draw_axes(
        frame,
        [low + (high - low) * i / 5 for i in range(6)],
        _ticks(*frame.y),
        _format_share,
        _format_number,
        x_title,
    )
    for i, count in enumerate(counts):
        start, stop = (low + (high - low) * (i + k) / num_bins for k in (0, 1))
        (x0, y0), (x1, y1) = frame.place(start, count), frame.place(stop, 0)
        text = f'{format_percent(start)} to {format_percent(stop)}: {count} images'
        parts.append(_bar(text, x0, x1, y0, y1 - y0, style='fill: var(--s0)'))
    return tag('figure', tag('figcaption', title), _draw_svg(title, parts))


def stacked_bar(parts: Sequence[tuple[str, float]]) -> Html:
    """Draws parts (name, share of the whole) side by side; a part has the colour of its name."""
    pieces = [
        tag(
            'i',
            style=f'width: {100 * share:.3f}%; background: var(--{name})',
            title=f'{name.replace("_", " ")} {format_percent(share)}',
        )
        for name, share in parts
        if share > 0
    ]
    return tag('div', *pieces, class_='bar')


def make_legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Lists (text, CSS colour) beside samples of the colours."""
    return _list([(text, color, False) for text, color in entries])


def _list(entries: Sequence[tuple[str, str, bool]]) -> Html:
    items = []
    for text, color, is_dashed in entries:
        background = color
        if is_dashed:
            background = f'repeating-linear-gradient(90deg, {color} 0 4px, transparent 4px 6px)'
        items.append(tag('li', tag('i', style=f'background: {background}'), text))
    return tag('ul', *items, class_='legend')


def _draw_svg(title: str, parts: Sequence[Html]) -> Html:
    return tag(
        'svg',
        *parts,
        viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
        width=_WIDTH,
        height=_HEIGHT,
        role='img',
        aria_label=title,
    )


def _draw_axes(
    frame: _Frame,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
    x_title: str,
) -> list[Html]:
    (x0, y0), (x1, y1) = frame.place(frame.x[0], frame.y[0]), frame.place(frame.x[1], frame.y[1])
    parts = []
    for value in y_ticks:
        _, y = frame.place(frame.x[0], value)
        parts.append(tag('line', x1=x0, x2=x1, y1=y, y2=y, class_='grid'))
        parts.append(tag('text', show_y(value), x=x0 - 6, y=y + 4, text_anchor='end'))
    for value in x_ticks:
        x, _ = frame.place(value, frame.y[0])
        parts.append(tag('text', show_x(value), x=x, y=y0 + 16, text_anchor='middle'))
    parts.append(tag('line', x1=x0, x2=x1, y1=y0, y2=y0, class_='axis'))
    parts.append(tag('text', x_title, x=(x0 + x1) / 2, y=y0 + 34, text_anchor='middle'))
    del y1
    return parts


def _share(value: float, low: float, high: float, *, is_log: bool) -> float:
    """Returns the place of a value between two others, 0 to 1."""
    if is_log:
        value, low, high = math.log10(value), math.log10(low), math.log10(high)
    return (value - low) / ((high - low) or 1)


def _ticks(low: float, high: float) -> list[float]:
    """Lists round values within [low, high]."""
    rough = (high - low) / _NUM_TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Lists round values within [low, high], which span more than a decade."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [f * 10.0**p for p in powers for f in factors]
    return [t for t in ticks if low <= t <= high]


def _format_share(value: float) -> str:
    return f'{100 * value:.4g}'


def _format_number(value: float) -> str:
    return f'{value:,.0f}' if float(value).is_integer() and abs(value) >= 1 else f'{value:.4g}'


def _format_short(value: float) -> str:
    """Formats a number that may have many digits: 1.5M."""
    for unit, power in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if abs(value) >= power:
            return f'{value / power:.4g}{unit}'
    return f'{value:.4g}'


def _bar(text: str, x0: float, x1: float, y: float, height: float, *, style: str) -> Html:
    """Draws a column between two places of the x axis, with a text for the pointer."""
    width = max(x1 - x0 - 2, 1)
    return tag('rect', tag('title', text), x=x0 + 1, y=y, width=width, height=height, style=style)
