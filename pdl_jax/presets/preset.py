"""The recipe of one program or paper."""

import dataclasses
from collections.abc import Mapping
from typing import Any

# The systems that differ in Panoptic-DeepLab's instance branch.
SYSTEM_BY_INSTANCES = {True: 'panoptic_deeplab', False: 'semantic_deeplab'}
KMAX_SYSTEM = 'kmax_deeplab'
DEEPERLAB_SYSTEM = 'deeperlab'
CLASSIFICATION_SYSTEM = 'classification'


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
      system: a name of `systems.SYSTEMS`.
      model: fields of the network, by their names in `config.model`.
      targets, loss, postprocess: rules, by the names of the fields in those sections of the
        configuration.
    """

    system: str
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    postprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
