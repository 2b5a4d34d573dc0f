"""Fields of a section of the configuration, before they become options."""

from collections.abc import Mapping
from typing import Any

from pdl_jax.typing import suggest


class UnknownFieldError(ValueError):
    """A section of the configuration has a field that the system does not read."""


def set_fields(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a section of the configuration that are set."""
    return {key: value for key, value in section.items() if value is not None}


def refuse_unknown(section: str, fields: Mapping[str, Any], known: set[str]) -> None:
    """Checks the names of fields.

    Raises:
      UnknownFieldError: names the first unknown one, and the one that it resembles.
    """
    for name in fields:
        if name not in known:
            raise UnknownFieldError(
                f'config.{section}.{name} is unknown; {suggest(name, known)}it may hold '
                f'{", ".join(sorted(known))}'
            )
