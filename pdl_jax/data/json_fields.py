"""Fields of untrusted JSON, with errors that name the file, the field and the value.

Writers differ in the types of numbers: 1.0 for 1 from pandas, "1" from those that dump with
`default=str`, true for 1. What can mean one thing only is read so, and counted in `Notices`.

The module needs only the standard library, so that commands that read files start at once.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from pdl_jax.data.notices import Notices
from pdl_jax.storage.json_files import describe_value

# The largest 64-bit integer; larger ones belong to no data set.
MAX_INT = 2**63 - 1

_CONVERTED = 'numbers of another type were read as integers, like 1.0, "1" or true for 1'


def get_field(values: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns a field of a JSON object.

    Args:
      values: the object.
      key: name of the field.
      kind: type of the value, or several types. A bool passes only where `bool` is given: in Python
        it is an int, but `true` is no id.
      where: the place of the object, for error messages.

    Raises:
      ValueError: `values` is not an object, lacks the field, or the value has another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = _look_up(values, key, where)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = ' or '.join(k.__name__ for k in kinds)
        raise ValueError(f'{where}: {key} must be {wanted}, got {describe_value(value)}')
    return value


def has_value(values: Any, key: str, where: str) -> bool:
    """Returns whether an object has a field with a value: neither null nor NaN.

    Raises:
      ValueError: `values` is not an object.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f'{where} must be an object with a field {key!r}, got {describe_value(values)}'
        )
    value = values.get(key)
    return not (value is None or (isinstance(value, float) and math.isnan(value)))


def get_integer(
    values: Any,
    key: str,
    where: str,
    *,
    low: int = -MAX_INT - 1,
    high: int = MAX_INT,
    notices: Notices | None = None,
) -> int:
    """Returns an integer field; a whole float and text of digits are converted.

    Args:
      values: the object.
      key: name of the field.
      where: the place of the object, for error messages.
      low, high: bounds, inclusive.
      notices: collection that counts conversions.

    Raises:
      ValueError: the field is missing, no whole number, or out of bounds.
    """
    value = _look_up(values, key, where)
    # This is the case by far: annotation files hold millions of integers.
    if type(value) is int and low <= value <= high:
        return value
    number = to_integer(value)
    if number is None:
        raise ValueError(f'{where}: {key} must be int, got {describe_value(value)}')
    if not low <= number <= high:
        raise ValueError(
            f'{where}: {key} must lie in {low} .. {high}, got {describe_value(number)}'
        )
    if type(value) is not int and notices is not None:
        notices.add(_CONVERTED, f'{key} {describe_value(value)} in {where}')
    return number


def get_flag(values: Any, key: str, where: str, *, notices: Notices | None = None) -> bool:
    """Returns a field that is 0 or 1, or true or false, as a number or as text.

    Args:
      values: the object.
      key: name of the field.
      where: the place of the object, for error messages.
      notices: collection that counts conversions.

    Raises:
      ValueError: the field is missing or something else.
    """
    value = _look_up(values, key, where)
    if isinstance(value, bool):
        return value
    words = {'true': 1, 'false': 0}
    is_word = isinstance(value, str) and value.lower() in words
    number = words[value.lower()] if is_word else to_integer(value)
    if number not in (0, 1):
        raise ValueError(f'{where}: {key} must be 0 or 1, got {describe_value(value)}')
    if type(value) is not int and notices is not None:
        notices.add(_CONVERTED, f'{key} {describe_value(value)} in {where}')
    return bool(number)


def to_integer(value: Any) -> int | None:
    """Converts a JSON value to an integer if it can mean only one: 3, 3.0 and "3", but not true."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and len(value) < 20:
        text = value.strip()
        digits = text.removeprefix('-')
        return int(text) if digits.isascii() and digits.isdecimal() else None
    return None


def refuse_repeated(values: Iterable[Hashable], field: str) -> None:
    """Checks that no value occurs twice.

    Args:
      values: the values.
      field: the field that they belong to, for the error message.

    Raises:
      ValueError: a value occurs twice; the message names the first such value.
    """
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f'{field} holds {value!r} more than once: it must be unique')
        seen.add(value)


def _look_up(values: Any, key: str, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(
            f'{where} must be an object with a field {key!r}, got {describe_value(values)}'
        )
    if key not in values:
        raise ValueError(f'{where} lacks the field {key!r}')
    return values[key]
