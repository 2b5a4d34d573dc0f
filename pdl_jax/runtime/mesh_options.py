"""The options of the mesh of devices."""

import dataclasses

from pdl_jax.typing import check_regex

PARAM_RULES = ('replicated', 'largest')


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """The mesh of devices; see configs/common.py for the fields."""

    data: int = -1
    space: int = 1
    param_rules: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        field = 'config.mesh.param_rules'
        for entry in self.param_rules:
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise ValueError(
                    f'{field} (={self.param_rules!r}) must hold pairs of a regex and a rule, such '
                    f"as ('opt_state/', 'largest')"
                )
            check_regex(field, self.param_rules, entry[0])
            if entry[1] not in PARAM_RULES:
                raise ValueError(
                    f'{field} (={self.param_rules!r}): the rule {entry[1]!r} must be one of '
                    f'{list(PARAM_RULES)}'
                )
