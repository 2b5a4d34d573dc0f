"""Tables and pictures of searches: order, Pareto front, harmless names."""

import re

from pdl_jax.search.results import find_front, format_table, rank, write_results
from pdl_jax.search.student import Student


def make_students(*pairs):
    return [
        Student(i, (i,), f'ir_{accuracy}_{latency}', accuracy, latency, accuracy / latency)
        for i, (accuracy, latency) in enumerate(pairs)
    ]


def test_the_front_has_those_that_nobody_beats():
    students = make_students((0.5, 2.0), (0.6, 3.0), (0.4, 1.0), (0.6, 4.0), (0.3, 2.5), (0.5, 2.0))
    assert find_front(students) == [2, 0, 1]
    assert find_front([]) == []


def test_every_student_is_behind_the_front():
    students = make_students(*((0.1 * (i * 7 % 10), 1.0 + i * 3 % 10) for i in range(10)))
    front = [students[i] for i in find_front(students)]
    for student in students:
        assert any(s.accuracy >= student.accuracy and s.latency <= student.latency for s in front)
    assert all(a.accuracy < b.accuracy for a, b in zip(front, front[1:], strict=False))


def test_the_best_comes_first_and_once():
    students = make_students((0.5, 2.0), (0.9, 1.0), (0.5, 2.0))
    assert [student.index for student in rank(students)] == [1, 0]
    lines = format_table(students).splitlines()
    assert len(lines) == 3 and '90.00%' in lines[1] and 'ir_0.9_1.0' in lines[1]


def test_page_and_picture(tmp_path):
    searches = {'akd': make_students((0.5, 2e6), (0.9, 1e6)), '<b>': make_students((0.4, 3e6))}
    finals = {'akd': [], '<b>': []}
    write_results(tmp_path, searches, finals, unit='multiply-adds')
    page = (tmp_path / 'search.html').read_text()
    assert '&lt;b&gt;' in page and '<b>' not in page
    assert 'ir_0.9_1000000.0' in page
    picture = (tmp_path / 'search.svg').read_text()
    # No style sheet stands beside a picture.
    assert 'var(' not in picture and picture.count('<circle') == 3 + 2
    corners = re.search(r'polyline points="([^"]*)"', picture)
    assert corners is not None and len(corners[1].split()) == 1
    finals['akd'] = make_students((0.95, 1e6))
    write_results(tmp_path, searches, finals, unit='multiply-adds')
    assert (tmp_path / 'search.svg').read_text().count('<circle') == 4 + 3
    assert 'akd, final' in (tmp_path / 'search.html').read_text()
