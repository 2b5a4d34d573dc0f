"""Options of a network as flat fields, as presets and `config.model` have them."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from pdl_jax.models.options import (
    check_fields,
    find_field_types,
    list_backbone_fields,
    list_backbone_types,
    make_backbone_options,
)

_Options = TypeVar('_Options')


class FlatFields(Generic[_Options]):
    """The flat fields of a frozen dataclass of options whose only part is a `backbone`.

    Args:
      kind: the dataclass.

    Attributes:
      types: the type of each field, by name.
    """

    def __init__(self, kind: type[_Options]) -> None:
        hints = typing.get_type_hints(kind)
        self._kind: Any = kind
        self._own = [f.name for f in dataclasses.fields(self._kind) if f.name != 'backbone']
        own = {key: hints[key] for key in self._own}
        self.types: Mapping[str, type] = find_field_types(list_backbone_types() | own)

    def make(self, fields: Mapping[str, Any]) -> _Options:
        """Builds options.

        Args:
          fields: values by the names of `types`; what is left out has the default.

        Raises:
          ValueError: a name is unknown, or see the dataclass.
        """
        check_fields(fields, self.types)
        own = {key: fields[key] for key in self._own if key in fields}
        return self._kind(backbone=make_backbone_options(fields), **own)

    def list(self, options: _Options) -> dict[str, Any]:
        """Lists the fields that `make` makes the same options from."""
        values: Any = options
        own = {key: getattr(values, key) for key in self._own}
        return {**list_backbone_fields(values.backbone), **own}
