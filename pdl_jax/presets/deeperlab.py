"""Recipes of DeeperLab (Yang et al., arXiv 1902.05093)."""

from typing import Any

from pdl_jax.presets.preset import DEEPERLAB_SYSTEM, Preset

# The paper names no factor of the channels of its "wider" MobileNetV2: 1.5 is a choice.
_WIDE_MULTIPLIER = 1.5
_MODELS: dict[str, dict[str, Any]] = {
    'xception71': {'backbone': 'xception71', 'endpoints': 'first'},
    'wide_mobilenet_v2': {
        'backbone': 'mobilenet_v2_5x5',
        'width_multiplier': _WIDE_MULTIPLIER,
        'backbone_padding': 'same',
    },
    'light_wide_mobilenet_v2': {
        'backbone': 'mobilenet_v2',
        'width_multiplier': _WIDE_MULTIPLIER,
        'backbone_padding': 'same',
    },
}

DEEPERLAB_PRESETS: dict[str, Preset] = {
    f'deeperlab/{name}': Preset(
        DEEPERLAB_SYSTEM, {'output_stride': 16, 'norm_momentum': 0.9997, **model}
    )
    for name, model in _MODELS.items()
}
