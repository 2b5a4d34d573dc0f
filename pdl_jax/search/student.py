"""Students: the architectures that were tried, what they were measured at, and their file."""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from pdl_jax.storage.json_files import describe_value, parse_json
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.paths import append_whole, is_remote, make_path, write_whole

_MAX_BYTES = 2**28


class Measurement(NamedTuple):
    """The result of training an architecture.

    Attributes:
      accuracy: share in [0, 1]; of images for classifiers, mIoU for semantic networks.
      latency: in the unit of the target: multiply-adds, or milliseconds.
    """

    accuracy: float
    latency: float


class Environment(Protocol):
    """Whatever trains and measures architectures."""

    def evaluate(self, architecture: str) -> Measurement:
        """Measures an architecture of the space; the same one always alike, if it can."""
        ...


class Student(NamedTuple):
    """An architecture that was tried.

    Attributes:
      index: its position in the search, from 0.
      tokens: the decisions that made it.
      architecture: see `SearchSpace.decode`.
      accuracy, latency: see `Measurement`.
      reward: see `reward.compute_reward`.
    """

    index: int
    tokens: tuple[int, ...]
    architecture: str
    accuracy: float
    latency: float
    reward: float


class StudentFile:
    """The students of a search, one JSON object per line, appended as they are measured.

    Args:
      path: the file, local or gs://; it may be missing.

    Attributes:
      students: those of the file; a last line that a kill left half written is dropped.

    Raises:
      ValueError: the file is damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = make_path(path)
        self.students: list[Student] = []
        if not self._path.exists():
            return
        data = read_outside_file(self._path, max_bytes=_MAX_BYTES)
        whole = data[: data.rfind(b'\n') + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            self.students.append(self._parse(line, number))
        if whole != data:
            write_whole(self._path, whole)

    def append(self, student: Student) -> None:
        """Adds a student; when this returns it is kept.

        Raises:
          OSError: the disk is full; the file is as it was.
        """
        if is_remote(self._path):
            # An object store cannot append.
            rows = [*self.students, student]
            write_whole(self._path, b''.join(map(_format, rows)))
        else:
            append_whole(self._path, _format(student))
        self.students.append(student)

    def _parse(self, line: bytes, number: int) -> Student:
        source = f'{self._path}, line {number}'
        values = parse_json(line, source=source)
        if not isinstance(values, Mapping) or set(values) != set(Student._fields):
            raise ValueError(f'{source} must have the fields {", ".join(Student._fields)}')
        tokens = values['tokens']
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise ValueError(f'{source}: tokens (={describe_value(tokens)}) must be integers')
        if not isinstance(values['architecture'], str) or values['index'] != number - 1:
            raise ValueError(f'{source} is not student {number - 1} of a search')
        numbers = [_read_number(values, key, source) for key in ('accuracy', 'latency', 'reward')]
        return Student(number - 1, tuple(tokens), values['architecture'], *numbers)


def _format(student: Student) -> bytes:
    return (json.dumps(student._asdict()) + '\n').encode()


def _read_number(values: Mapping[str, Any], key: str, source: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'{source}: {key} (={describe_value(value)}) must be a number')
    return float(value)
