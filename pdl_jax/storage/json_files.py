"""Strict reading of JSON that may come from anywhere: bounded size, errors that name the field.

The module needs only the standard library, so that commands that read files start at once.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

# Descriptions of checkpoints and of prepared data have a few kilobytes.
MAX_DESCRIPTION_BYTES = 2**26


def read_json(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, allow_nan: bool = False
) -> Any:
    """Reads a JSON file; see `read_outside_file` and `parse_json`.

    Args:
      path: the file, local or in a bucket.
      max_bytes: larger files are refused unread; None: `outside_files.MAX_JSON_BYTES`.
      allow_nan: see `parse_json`.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is no regular file, too large, or not strict JSON.
    """
    # Here, so that what describes JSON values needs no packages.
    from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file

    data = read_outside_file(path, max_bytes=MAX_JSON_BYTES if max_bytes is None else max_bytes)
    return parse_json(data, source=os.fspath(path), allow_nan=allow_nan)


def parse_json(data: bytes, *, source: str, allow_nan: bool = False) -> Any:
    """Parses JSON strictly: no repeated keys, no NaN, no endless numbers or nesting.

    Args:
      data: UTF-8, with or without a byte order mark, or UTF-16 or UTF-32, which Windows writes.
      source: name of the file, for error messages.
      allow_nan: whether NaN and Infinity are read as floats, which the caller must expect. Python's
        and pandas' writers put NaN where a value is missing.

    Raises:
      ValueError: names the file, and the field or the position.
    """
    text = _decode(data, source)
    if not text.strip():
        raise ValueError(f'{source} is empty: export it again')
    try:
        return _Parser(allow_nan=allow_nan).parse(text, source)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{source} is not valid JSON: {error}: repair it, or export it again'
        ) from error
    except RecursionError as error:
        raise ValueError(
            f'{source} is not valid JSON of any known format: objects and lists are nested too '
            f'deep: export it again'
        ) from error


def describe_value(value: Any) -> str:
    """Returns a short description of a JSON value for error messages, however large the value."""
    if isinstance(value, int) and not -(10**70) < value < 10**70:
        return 'an integer of more than 70 digits'
    if isinstance(value, str):
        return repr(value) if len(value) < 80 else f'{value[:76]!r}...'
    if isinstance(value, Mapping):
        if not value:
            return '{}'
        keys = [describe_value(key) for _, key in zip(range(5), value, strict=False)]
        return f'an object with the fields {", ".join(keys)}' + ', ...' * (len(value) > 5)
    if isinstance(value, list):
        return f'a list of {len(value)} values' if len(value) > 4 else _describe_list(value)
    return repr(value)[:80]


def _describe_list(values: list[Any]) -> str:
    cells = ('[...]' if isinstance(v, list) else describe_value(v) for v in values)
    return f'[{", ".join(cells)}]'


def _decode(data: bytes, source: str) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{source} is not valid JSON: no {encoding.upper()} text at byte {error.start}: save '
            f'it as UTF-8'
        ) from error


class _Parser:
    """One parse; values that are refused are remembered and found in the tree afterwards.

    The hooks of Python's parser do not know where they are.
    """

    def __init__(self, *, allow_nan: bool) -> None:
        self._allow_nan = allow_nan
        self._fault: tuple[Any, str] | None = None

    def parse(self, text: str, source: str) -> Any:
        try:
            tree = self._load(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            # Python refuses to convert numbers of thousands of digits, which takes quadratic time.
            tree = self._load(text, parse_int=self._make_integer)
        if self._fault is None:
            return tree
        value, problem = self._fault
        raise ValueError(f'{source}: {_find_place(tree, value)} {problem}')

    def _load(self, text: str, **hooks: Any) -> Any:
        return json.loads(
            text,
            object_pairs_hook=self._make_object,
            parse_constant=self._make_constant,
            **hooks,
        )

    def _make_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            seen: set[str] = set()
            key = next(key for key, _ in pairs if key in seen or seen.add(key))
            self._refuse(values, f'has the field {describe_value(key)} twice: remove one of them')
        return values

    def _make_constant(self, name: str) -> float:
        value = float(name)
        if not self._allow_nan:
            self._refuse(value, f'is {name}, which JSON does not have: give a number or null')
        return value

    def _make_integer(self, digits: str) -> int | float:
        try:
            return int(digits)
        except ValueError:
            value = math.copysign(math.inf, -1 if digits[0] == '-' else 1)
            self._refuse(value, f'is an integer of {len(digits)} digits: repair it')
            return value

    def _refuse(self, value: Any, problem: str) -> None:
        if self._fault is None:
            self._fault = (value, problem)


def _find_place(tree: Any, value: Any) -> str:
    """Returns the place of an object in a tree by its identity, e.g. annotations[3].area."""
    stack: list[tuple[Any, tuple[Any, ...]]] = [(tree, ())]
    while stack:
        node, path = stack.pop()
        if node is value:
            parts = []
            while path:
                path, key = path
                parts.append(f'[{key}]' if isinstance(key, int) else f'.{key}')
            return ''.join(reversed(parts)).lstrip('.')[:200] or 'the whole'
        if isinstance(node, dict):
            stack += [(child, (path, key)) for key, child in node.items()]
        elif isinstance(node, list):
            stack += [(child, (path, i)) for i, child in enumerate(node)]
    # The second of two equal keys replaced the object that held it.
    return 'an object of a repeated field'
