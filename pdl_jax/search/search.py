"""The search: propose architectures, measure them, learn from the rewards; restartable.

The file of the students is the whole state. A search that is started again replays the rounds of
the file, which costs an update of the controller each, and goes on behind its last student.
"""

import math

from absl import logging

from pdl_jax.search.options import SearchOptions
from pdl_jax.search.proposers import PolicyProposer, Proposer, RandomProposer
from pdl_jax.search.reward import compute_reward
from pdl_jax.search.space import SearchSpace
from pdl_jax.search.student import Environment, Measurement, Student, StudentFile


def make_proposer(space: SearchSpace, options: SearchOptions, seed: int) -> Proposer:
    """Makes what `options.method` proposes architectures with."""
    if options.method == 'random':
        return RandomProposer(space, options.mutation_share, seed)
    return PolicyProposer(space, options.controller, seed)


def search(
    space: SearchSpace,
    environment: Environment,
    proposer: Proposer,
    options: SearchOptions,
    file: StudentFile,
) -> list[Student]:
    """Searches until the file has `options.num_students` students.

    An architecture that was measured before is not trained again.

    Args:
      space: the architectures.
      environment: measures them.
      proposer: a new one, see `make_proposer`.
      options: sizes of the search and the reward.
      file: the students of an earlier start, if any.

    Returns:
      All students in the order of the search.

    Raises:
      ValueError: the file's students are not of this space.
    """
    size = options.students_per_round
    known: dict[str, Measurement] = {}
    for round_index in range(math.ceil(options.num_students / size)):
        first = round_index * size
        students = file.students[first : first + size]
        for student in students:
            _check(student, space)
            known[student.architecture] = Measurement(student.accuracy, student.latency)
        if len(students) < size:
            # The whole round is drawn, so that a longer search begins like a shorter one.
            proposals = proposer.draw(round_index, size)
            last = min(size, options.num_students - first)
            for tokens in proposals[len(students) : last]:
                architecture = space.decode(tokens)
                if architecture not in known:
                    known[architecture] = environment.evaluate(architecture)
                student = _make_student(
                    len(file.students), tokens, architecture, known[architecture], options
                )
                file.append(student)
                students.append(student)
                _log(student, options)
        if len(students) == size:
            numbers = proposer.update(students)
            words = ', '.join(f'{key} {value:.4g}' for key, value in numbers.items())
            logging.info('round %d: %s', round_index, words)
    return list(file.students)


def _make_student(
    index: int,
    tokens: tuple[int, ...],
    architecture: str,
    measurement: Measurement,
    options: SearchOptions,
) -> Student:
    accuracy, latency = measurement
    reward = compute_reward(accuracy, latency, options.target_latency, options.latency_exponent)
    return Student(index, tokens, architecture, accuracy, latency, float(reward))


def _check(student: Student, space: SearchSpace) -> None:
    if space.decode(student.tokens) != student.architecture:
        raise ValueError(
            f'student {student.index} is not of this search space: start anew in another --workdir'
        )


def _log(student: Student, options: SearchOptions) -> None:
    logging.info(
        'student %d of %d: accuracy %.4f, latency %.4g, reward %.4f: %s',
        student.index + 1,
        options.num_students,
        student.accuracy,
        student.latency,
        student.reward,
        student.architecture,
    )
