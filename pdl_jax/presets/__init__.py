"""Recipes by name, as data: what each paper and each original program is made of.

A preset is whole: the system, the fields of its network that differ from the defaults, and the
rules for targets, loss and post-processing in which its program differs. `classifiers`,
`deeplab`, `deeplab_v1_v2`, `deeperlab`, `kmax` and `max_deeplab` list them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pdl_jax.models.any_options import AnyNetworkOptions
from pdl_jax.models.deeperlab_options import DEEPERLAB_FIELDS, DeeperLabNetworkOptions
from pdl_jax.models.kmax_options import KMAX_FIELDS, KMaXNetworkOptions
from pdl_jax.models.max_options import MAX_FIELDS, MaXNetworkOptions
from pdl_jax.models.options import BackboneOptions, ModelOptions, make_model_options
from pdl_jax.presets.classifiers import CLASSIFIER_PRESETS
from pdl_jax.presets.deeperlab import DEEPERLAB_PRESETS
from pdl_jax.presets.deeplab import DEEPLAB_PRESETS
from pdl_jax.presets.deeplab_v1_v2 import DEEPLAB_V1_V2_PRESETS
from pdl_jax.presets.kmax import KMAX_PRESETS
from pdl_jax.presets.max_deeplab import MAX_PRESETS
from pdl_jax.presets.preset import (
    DEEPERLAB_SYSTEM,
    KMAX_SYSTEM,
    MAX_SYSTEM,
    SYSTEM_BY_INSTANCES,
    Preset,
)
from pdl_jax.typing import suggest

PRESETS: dict[str, Preset] = {
    **DEEPLAB_PRESETS,
    **CLASSIFIER_PRESETS,
    **DEEPLAB_V1_V2_PRESETS,
    **DEEPERLAB_PRESETS,
    **KMAX_PRESETS,
    **MAX_PRESETS,
}

# Fields that describe the inside of one family of backbones.
_OF_ONE_BACKBONE = (
    'stem',
    'stride_convention',
    'multi_grid',
    'endpoints',
    'backbone_activation',
    'stem_padding',
    'squeeze_excite_gate',
    'upsampling',
    'drop_path_keep_prob',
    'drop_path_schedule',
    'adaptive_computation',
    'min_active_share',
    'architecture',
)


def find_preset(name: str) -> Preset:
    """Looks a preset up.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(
            f'model.preset {name!r} is unknown; {suggest(name, PRESETS)}choose one of '
            f'{", ".join(sorted(PRESETS))}'
        )
    return PRESETS[name]


def find_system(preset: Preset, fields: Mapping[str, Any]) -> str:
    """Names the system of a preset, given the fields of `config.model` that override it.

    `has_instances` adds or removes Panoptic-DeepLab's instance branch, which changes the system.
    """
    has_instances = fields.get('has_instances')
    if has_instances is None or preset.system not in SYSTEM_BY_INSTANCES.values():
        return preset.system
    return SYSTEM_BY_INSTANCES[has_instances]


def make_options(preset: str, **overrides: Any) -> ModelOptions:
    """Makes the network of a DeepLab's preset by its name, see `make_network`.

    Raises:
      ValueError: there is no such preset, or the fields contradict each other.
    """
    return make_network(find_preset(preset), **overrides)


def make_network(preset: Preset, **overrides: Any) -> ModelOptions:
    """Makes the network of a DeepLab's preset.

    Args:
      preset: the recipe.
      **overrides: fields of `config.model`; None leaves one as the preset has it. A backbone other
        than the preset's keeps its own family's attributes: those that the preset sets for its
        backbone are dropped.

    Raises:
      ValueError: a field is unknown, or fields contradict each other.
    """
    return make_model_options(_merge_fields(preset, overrides))


def make_kmax_network(preset: Preset, **overrides: Any) -> KMaXNetworkOptions:
    """Makes the network of a kMaX-DeepLab's preset, see `make_network`."""
    return KMAX_FIELDS.make(_merge_fields(preset, overrides))


def make_max_network(preset: Preset, **overrides: Any) -> MaXNetworkOptions:
    """Makes the network of a MaX-DeepLab's preset, see `make_network`."""
    return MAX_FIELDS.make(_merge_fields(preset, overrides))


def make_deeperlab_network(preset: Preset, **overrides: Any) -> DeeperLabNetworkOptions:
    """Makes the network of a DeeperLab's preset, see `make_network`."""
    return DEEPERLAB_FIELDS.make(_merge_fields(preset, overrides))


def make_any_network(name: str, **overrides: Any) -> AnyNetworkOptions:
    """Makes the network of any preset by its name, see `make_network`."""
    preset = find_preset(name)
    make = _MAKERS.get(preset.system, make_network)
    return make(preset, **overrides)


# What makes the network of systems other than the DeepLabs.
_MAKERS: Mapping[str, Callable[..., AnyNetworkOptions]] = {
    DEEPERLAB_SYSTEM: make_deeperlab_network,
    KMAX_SYSTEM: make_kmax_network,
    MAX_SYSTEM: make_max_network,
}


def _merge_fields(preset: Preset, overrides: Mapping[str, Any]) -> dict[str, Any]:
    overrides = {key: value for key, value in overrides.items() if value is not None}
    fields = {'backbone': BackboneOptions().name, **preset.model}
    if overrides.get('backbone', fields['backbone']) != fields['backbone']:
        for field in _OF_ONE_BACKBONE:
            fields.pop(field, None)
    return {**fields, **overrides}
