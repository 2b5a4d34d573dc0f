"""Results of searches: the table of students, the Pareto front, a page and a picture."""

import os
from collections.abc import Mapping, Sequence

from pdl_jax.evaluation.page.charts import Points, scatter_chart
from pdl_jax.evaluation.page.html import (
    Html,
    count_cell,
    make_document,
    make_section,
    make_table,
    name_cell,
    number_cell,
    percent_cell,
    tag,
)
from pdl_jax.search.student import Student
from pdl_jax.storage.paths import make_path, write_whole

_NUM_ROWS = 10
_NAMESPACE = 'http://www.w3.org/2000/svg'
# The colours of the page; a picture has no style sheet beside it.
_COLORS = ('#0072b2', '#d55e00', '#008f68', '#b0588a', '#b58900', '#3d9bd6')
_STYLE = (
    'svg { background: #ffffff; } '
    'text { fill: #5c6675; font: 12px sans-serif; } '
    '.grid { stroke: #d9dee6; } .axis { stroke: #5c6675; } '
    '.curve { fill: none; stroke-width: 2; }'
)


def rank(students: Sequence[Student]) -> list[Student]:
    """Orders students by reward, the best first; the first of an architecture stands for all."""
    first = {student.architecture: student for student in reversed(students)}
    return sorted(first.values(), key=lambda student: (-student.reward, student.index))


def find_front(students: Sequence[Student]) -> list[int]:
    """Finds the Pareto front: no other student is at least as good in both and better in one.

    Returns:
      Indices of `students`, ascending in latency; of equal ones the first.
    """
    order = sorted(
        range(len(students)), key=lambda i: (students[i].latency, -students[i].accuracy, i)
    )
    front: list[int] = []
    for i in order:
        if not front or students[i].accuracy > students[front[-1]].accuracy:
            front.append(i)
    return front


def format_table(students: Sequence[Student], num_rows: int = _NUM_ROWS) -> str:
    """Lists the best students as text."""
    lines = [f'{"reward":>8} {"accuracy":>9} {"latency":>12}  architecture']
    lines += [
        f'{s.reward:8.4f} {100 * s.accuracy:8.2f}% {s.latency:12,.6g}  {s.architecture}'
        for s in rank(students)[:num_rows]
    ]
    return '\n'.join(lines)


def write_results(
    workdir: str | os.PathLike,
    searches: Mapping[str, Sequence[Student]],
    finals: Mapping[str, Sequence[Student]],
    *,
    unit: str,
) -> None:
    """Writes `search.html`, a page without other files, and `search.svg`, its picture.

    Args:
      workdir: a folder, local or gs://.
      searches: the students of each search by its name.
      finals: those that were trained again, likewise.
      unit: of latencies, the title of an axis.
    """
    groups = {**searches, **{f'{name}, final': s for name, s in finals.items() if s}}
    chart = _draw(groups, unit)
    sections = [
        make_section(f'search-{i}', name, _make_table(students))
        for i, (name, students) in enumerate(groups.items())
    ]
    page = make_document('Search', [tag('h1', f'Search: {", ".join(searches)}'), chart, *sections])
    folder = make_path(workdir)
    write_whole(folder / 'search.html', page.encode())
    write_whole(folder / 'search.svg', _make_picture(chart).encode())


def _draw(groups: Mapping[str, Sequence[Student]], unit: str) -> Html:
    points = [
        Points(
            name,
            [s.latency for s in students],
            [s.accuracy for s in students],
            [f'{100 * s.accuracy:.2f} %, {s.latency:,.6g}: {s.architecture}' for s in students],
            find_front(students),
            color,
        )
        for color, (name, students) in enumerate(groups.items())
        if students
    ]
    return scatter_chart(points, title='Accuracy (%) by latency', x_title=unit)


def _make_table(students: Sequence[Student]) -> Html:
    front = {students[i].architecture for i in find_front(students)}
    rows = [
        [
            name_cell(student.architecture),
            number_cell(f'{student.reward:.4f}', student.reward),
            percent_cell(student.accuracy),
            number_cell(f'{student.latency:,.6g}', student.latency),
            count_cell(student.index),
            tag('td', 'yes' if student.architecture in front else '', class_='text'),
        ]
        for student in rank(students)
    ]
    heads = ('architecture', 'reward', 'accuracy (%)', 'latency', 'student', 'Pareto front')
    return make_table(heads, rows, caption='Students by reward')


def _make_picture(figure: Html) -> str:
    """Takes the drawing out of a figure, as a file of its own."""
    drawing = figure[figure.index('<svg') : figure.index('</svg>') + len('</svg>')]
    for number, color in enumerate(_COLORS):
        drawing = drawing.replace(f'var(--s{number})', color)
    style = tag('style', Html(_STYLE))
    return drawing.replace('<svg', f'<svg xmlns="{_NAMESPACE}"', 1).replace('>', f'>{style}', 1)
