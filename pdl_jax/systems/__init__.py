"""Systems: ways to label images, each with network, targets, losses and the way back to labels.

A new one is a file here with a `SystemOptions` and a `System`, and a line in `SYSTEMS`; presets
name it.
"""

import importlib

from pdl_jax.systems.system import SystemOptions
from pdl_jax.typing import suggest

# The options class of each system as 'module:class', imported on first use.
SYSTEMS = {
    'classification': 'pdl_jax.systems.classification:ClassificationOptions',
    'deeperlab': 'pdl_jax.systems.deeperlab:DeeperLabOptions',
    'kmax_deeplab': 'pdl_jax.systems.kmax_deeplab:KMaXDeepLabOptions',
    'panoptic_deeplab': 'pdl_jax.systems.panoptic_deeplab:PanopticDeepLabOptions',
    'semantic_deeplab': 'pdl_jax.systems.semantic_deeplab:SemanticDeepLabOptions',
}


def find_options_class(name: str) -> type[SystemOptions]:
    """Finds the options class of a system.

    Raises:
      ValueError: there is no such system.
    """
    if name not in SYSTEMS:
        raise ValueError(
            f'system {name!r} is unknown; {suggest(name, SYSTEMS)}choose one of '
            f'{", ".join(sorted(SYSTEMS))}'
        )
    module, _, options = SYSTEMS[name].partition(':')
    return getattr(importlib.import_module(module), options)
