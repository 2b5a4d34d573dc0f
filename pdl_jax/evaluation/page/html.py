"""HTML elements as text; every string from outside is escaped unless it is HTML already."""

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pdl_jax.evaluation.page.style import SCRIPT, STYLE

_VOID_ELEMENTS = ('img', 'meta')


class Html(str):
    """Text that is HTML already, made by `tag` and `join`."""

    __slots__ = ()


def tag(element: str, *children: str | None, **attributes: Any) -> Html:
    """Makes an element.

    Args:
      element: its name.
      children: text, which is escaped, or `Html`; None is left out.
      attributes: by name, an underscore for each hyphen and one at the end of Python's own words;
        None leaves an attribute out.
    """
    pairs = (
        (key.rstrip('_').replace('_', '-'), value)
        for key, value in attributes.items()
        if value is not None
    )
    words = ''.join(f' {key}="{html.escape(str(value))}"' for key, value in pairs)
    if element in _VOID_ELEMENTS:
        return Html(f'<{element}{words}>')
    return Html(f'<{element}{words}>{join(children)}</{element}>')


def join(parts: Iterable[str | None]) -> Html:
    """Joins text, which is escaped, and `Html`; None is left out."""
    return Html(''.join(p if isinstance(p, Html) else html.escape(p) for p in parts if p))


def format_percent(value: float | None, *, sign: bool = False) -> str:
    """Formats a fraction in percent as papers print it, with a dash for None."""
    if value is None:
        return '–'
    # A difference of nothing has no sign.
    rounded = round(100 * value, 1) + 0.0
    return f'{rounded:+.1f}' if sign and rounded else f'{rounded:.1f}'


def percent_cell(value: float | None, *, sign: bool = False, **attributes: Any) -> Html:
    """Makes a table cell of a fraction; its exact value is in `data-value`, which sorting uses."""
    color = None
    if sign and value is not None and abs(value) >= 5e-4:
        color = 'better' if value > 0 else 'worse'
    return number_cell(format_percent(value, sign=sign), value, class_=color, **attributes)


def count_cell(value: int | None) -> Html:
    """Makes a table cell of a count."""
    return number_cell('–' if value is None else f'{value:,}', value)


def number_cell(text: str, value: float | None, **attributes: Any) -> Html:
    """Makes a table cell of a number that is shown as `text`."""
    shown = None if value is None or not math.isfinite(value) else repr(value)
    return tag('td', text, data_value=shown, **attributes)


def make_table(
    heads: Sequence[str | tuple[str, str]],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    averages: Iterable[Sequence[str]] = (),
    is_sortable: bool = True,
) -> Html:
    """Makes a table.

    Args:
      heads: titles of the columns, or (title, explanation).
      rows: cells `td` or `th` of each row.
      caption: what the table shows, for readers who cannot see it at a glance.
      averages: rows that stay on top when the others are sorted.
      is_sortable: whether a click on a title sorts the rows.
    """
    cells = []
    for head in heads:
        text, explanation = head if isinstance(head, tuple) else (head, None)
        inner = tag('button', text, type='button') if is_sortable and text else text
        cells.append(tag('th', inner, scope='col', title=explanation))
    tops = [tag('tr', *row) for row in averages]
    return tag(
        'div',
        tag(
            'table',
            tag('caption', caption),
            tag('thead', tag('tr', *cells)),
            tag('tbody', *tops, class_='averages') if tops else None,
            tag('tbody', *(tag('tr', *row) for row in rows)),
            class_='sortable' if is_sortable else None,
        ),
        class_='scroll',
    )


def name_cell(name: str) -> Html:
    """Makes the cell that names a row."""
    return tag('th', name, scope='row', data_text=name.lower())


def make_section(identifier: str, title: str, *children: str | None) -> Html:
    """Makes a section with a title, to which the page's list of contents leads."""
    return tag('section', tag('h2', title), *children, id=identifier)


def make_document(title: str, body: Sequence[str | None]) -> str:
    """Makes the whole file.

    Its policy lets no request leave the page, and no script run but the one that sorts tables.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    head = tag(
        'head',
        tag('meta', charset='utf-8'),
        tag('meta', http_equiv='Content-Security-Policy', content=policy),
        tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
        tag('title', title),
        tag('style', Html(STYLE)),
    )
    content = tag('body', tag('main', *body), tag('script', Html(SCRIPT)))
    return f'<!doctype html>\n{tag("html", head, content, lang="en")}\n'
