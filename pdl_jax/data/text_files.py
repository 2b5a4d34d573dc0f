"""Text and JSON files of data sets, which are not trusted."""

import json
import os
from typing import Any

from etils import epath

from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file


def read_names(path: epath.Path, *, remedy: str) -> tuple[str, ...]:
    """Reads a list of plain names, one per line, which is how data sets define their splits.

    Args:
      path: the list.
      remedy: end of the error about a missing or empty list.

    Raises:
      FileNotFoundError: the list is missing.
      ValueError: the list is empty or not UTF-8, repeats a name, or holds other than plain names.
    """
    lines = read_text(path, remedy=remedy).splitlines()
    line_of_name: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        where = f'line {number} of {path.name}'
        check_plain_name(name, where)
        if name in line_of_name:
            first = line_of_name[name]
            raise ValueError(f'{where}: {name!r} is listed twice, first on line {first}')
        line_of_name[name] = number
    if not line_of_name:
        raise ValueError(f'list {os.fspath(path)} is empty: {remedy}')
    return tuple(line_of_name)


def read_text(path: epath.Path, *, remedy: str) -> str:
    """Reads a UTF-8 text file, with or without a byte order mark.

    Args:
      path: the file.
      remedy: end of the error about a missing file.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not UTF-8.
    """
    if not path.exists():
        raise FileNotFoundError(f'file {os.fspath(path)} does not exist: {remedy}')
    try:
        return read_outside_file(path, max_bytes=MAX_JSON_BYTES).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{os.fspath(path)} is no UTF-8 text: {error}') from error


def read_json(path: epath.Path, *, remedy: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      remedy: end of the error about a missing file.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not valid JSON.
    """
    try:
        return json.loads(read_text(path, remedy=remedy))
    except json.JSONDecodeError as error:
        raise ValueError(f'{os.fspath(path)} is not valid JSON: {error}') from error


def check_plain_name(name: str, where: str) -> None:
    """Checks that a file name from a list or an annotation cannot lead out of its folder.

    Args:
      name: the file name.
      where: the place of the name, for error messages.

    Raises:
      ValueError: the name is empty or has a folder.
    """
    if not name or name in ('.', '..') or any(c in name for c in '/\\\0'):
        raise ValueError(
            f'{where}: file_name {name!r} must be a plain name without folders, so that nothing '
            f'outside the given folder is read'
        )
