"""Text and JSON files of data sets, which are not trusted."""

import codecs
import os
from typing import Any

from etils import epath

from pdl_jax.storage.json_files import parse_json
from pdl_jax.storage.outside_files import MAX_JSON_BYTES, read_outside_file

# A list of a million names has some 30 MB.
_MAX_TEXT_BYTES = 2**28
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


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
    """Reads a UTF-8 text file, with or without a byte order mark, or UTF-16 with one.

    Args:
      path: the file.
      remedy: end of the error about a missing file.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not UTF-8, or no regular file of reasonable size.
    """
    data = _read_file(path, remedy=remedy, max_bytes=_MAX_TEXT_BYTES)
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), 'utf-8')
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{os.fspath(path)} is no UTF-8 text: {error}: save it as UTF-8'
        ) from error


def read_json(path: epath.Path, *, remedy: str) -> Any:
    """Reads a JSON file; see `json_files.parse_json`.

    Args:
      path: the file.
      remedy: end of the error about a missing file.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not valid JSON.
    """
    data = _read_file(path, remedy=remedy, max_bytes=MAX_JSON_BYTES)
    return parse_json(data, source=os.fspath(path))


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


def _read_file(path: epath.Path, *, remedy: str, max_bytes: int) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f'file {os.fspath(path)} does not exist: {remedy}')
    return read_outside_file(path, max_bytes=max_bytes)
