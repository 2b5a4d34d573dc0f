"""The search: it finds a known optimum, and an interrupted one goes on as if it had not been."""

import dataclasses

import numpy as np
import pytest

from pdl_jax.search.options import SearchOptions
from pdl_jax.search.proposers import PolicyProposer
from pdl_jax.search.search import make_proposer, search
from pdl_jax.search.student import StudentFile
from tests.search.fake import BEST, SPACE, FakeEnvironment

OPTIONS = SearchOptions(num_students=20, students_per_round=8)


def run(path, options=OPTIONS, environment=None):
    environment = environment or FakeEnvironment()
    return search(SPACE, environment, make_proposer(SPACE, options, 3), options, StudentFile(path))


def test_the_controller_reaches_the_optimum(tmp_path):
    options = dataclasses.replace(OPTIONS, num_students=640, students_per_round=16)
    proposer = make_proposer(SPACE, options, 0)
    students = search(
        SPACE, FakeEnvironment(), proposer, options, StudentFile(tmp_path / 'students.jsonl')
    )
    assert isinstance(proposer, PolicyProposer)
    assert proposer.find_probability(BEST) > 0.9
    best = max(students, key=lambda student: student.reward)
    assert best.tokens == BEST and best.accuracy == 1


@pytest.mark.parametrize('method', ['akd', 'random'])
@pytest.mark.parametrize('last', [0, 5, 8, 13])
def test_an_interrupted_search_leaves_the_same_file(method, last, tmp_path):
    options = dataclasses.replace(OPTIONS, method=method, mutation_share=0.5)
    whole, cut = tmp_path / 'whole.jsonl', tmp_path / 'cut.jsonl'
    run(whole, options)
    with pytest.raises(KeyboardInterrupt):
        run(cut, options, FakeEnvironment(last))
    assert len(StudentFile(cut).students) >= last
    with cut.open('ab') as file:
        # A kill within a write.
        file.write(b'{"index": 1')
    environment = FakeEnvironment()
    students = run(cut, options, environment)
    assert cut.read_bytes() == whole.read_bytes()
    assert len(students) == 20 and environment.count <= 20 - last


def test_a_longer_search_begins_like_a_shorter_one(tmp_path):
    path, whole = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
    # The last round of 8 is cut short.
    run(path, dataclasses.replace(OPTIONS, num_students=12))
    run(path)
    run(whole)
    assert path.read_bytes() == whole.read_bytes()


def test_an_architecture_is_measured_once(tmp_path):
    options = dataclasses.replace(OPTIONS, method='random', num_students=40, mutation_share=1.0)
    environment = FakeEnvironment()
    students = run(tmp_path / 'a.jsonl', options, environment)
    assert environment.count == len({s.architecture for s in students}) < 40


def test_mutations_climb(tmp_path):
    options = dataclasses.replace(OPTIONS, method='random', num_students=80, mutation_share=1.0)
    students = run(tmp_path / 'a.jsonl', options)
    rewards = [student.reward for student in students]
    assert np.mean(rewards[-16:]) > np.mean(rewards[:8]) + 0.2


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('[]', 'line 1 must have the fields index, tokens'),
        ('{"index": 0}', 'line 1 must have the fields index, tokens'),
        (
            '{"index": 0, "tokens": [1.5], "architecture": "a", "accuracy": 1, "latency": 1, '
            '"reward": 1}',
            'must be integers',
        ),
        (
            '{"index": 4, "tokens": [1], "architecture": "a", "accuracy": 1, "latency": 1, '
            '"reward": 1}',
            'is not student 0',
        ),
        (
            '{"index": 0, "tokens": [1], "architecture": "a", "accuracy": "x", "latency": 1, '
            '"reward": 1}',
            'must be a number',
        ),
        ('{"index": NaN}', 'NaN'),
    ],
)
def test_damaged_files_are_refused(line, message, tmp_path):
    path = tmp_path / 'students.jsonl'
    path.write_text(line + '\n')
    with pytest.raises(ValueError, match=message):
        StudentFile(path)


def test_students_of_another_space_are_refused(tmp_path):
    path = tmp_path / 'students.jsonl'
    run(path, dataclasses.replace(OPTIONS, num_students=2))
    path.write_text(path.read_text().replace('_s1_', '_s2_'))
    with pytest.raises(ValueError, match='student 0 is not of this search space'):
        run(path)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'method': 'ppo'}, r"search.method \(='ppo'\) must be one of"),
        ({'space': 'large'}, 'search.space'),
        ({'latency': 'pixel'}, 'search.latency'),
        ({'target_latency': 0.0}, 'search.target_latency'),
        ({'holdout_share': 1.5}, 'search.holdout_share'),
        ({'num_final': 2}, 'needs config.search.final_steps'),
    ],
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**fields)
