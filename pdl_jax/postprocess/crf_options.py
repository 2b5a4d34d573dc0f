"""The CRF that a configuration asks for."""

import dataclasses

from pdl_jax.postprocess.dense_crf import SETTINGS, DenseCrf
from pdl_jax.typing import suggest


@dataclasses.dataclass(frozen=True)
class CrfOptions:
    """The section `config.evaluate.crf`.

    Attributes:
      setting: a name of `dense_crf.SETTINGS`; '' for no CRF.

    The other fields are those of `DenseCrf`; None keeps the setting's.

    Raises:
      ValueError: there is no such setting, or a field has a value that it cannot have.
    """

    setting: str = ''
    bilateral_weight: float | None = None
    bilateral_px: float | None = None
    bilateral_color: float | None = None
    spatial_weight: float | None = None
    spatial_px: float | None = None
    num_iterations: int | None = None
    normalization: str | None = None
    filter: str | None = None

    def __post_init__(self) -> None:
        if self.setting and self.setting not in SETTINGS:
            raise ValueError(
                f'config.evaluate.crf.setting (={self.setting!r}) is unknown; '
                f'{suggest(self.setting, SETTINGS)}choose one of {", ".join(SETTINGS)}'
            )
        changes = self._list_changes()
        if changes and not self.setting:
            raise ValueError(
                f'config.evaluate.crf has {", ".join(changes)} but no setting: set '
                f"config.evaluate.crf.setting='voc_v2', for example"
            )
        self.resolve()

    def resolve(self) -> DenseCrf | None:
        """Returns the parameters; None for no CRF."""
        if not self.setting:
            return None
        return dataclasses.replace(SETTINGS[self.setting], **self._list_changes())

    def _list_changes(self) -> dict[str, float | int | str]:
        fields = dataclasses.asdict(self)
        del fields['setting']
        return {name: value for name, value in fields.items() if value is not None}
