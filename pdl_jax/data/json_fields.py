"""Checks of untrusted JSON values, with errors that name the file, the field and the value.

The module needs only the standard library, so that commands that read files start at once.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any


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
    if not isinstance(values, Mapping):
        raise ValueError(f'{where} must be an object with a field {key!r}, got {repr(values):.80}')
    if key not in values:
        raise ValueError(f'{where} lacks the field {key!r}')
    value = values[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = ' or '.join(k.__name__ for k in kinds)
        raise ValueError(f'{where}: {key} must be {wanted}, got {repr(value):.80}')
    return value


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
