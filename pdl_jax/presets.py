"""Recipes by name, as data: what each paper and each original program is made of.

A preset is whole: the system, the fields of its network that differ from the defaults (DeepLab2's),
and the rules for targets, loss and post-processing in which its program differs. The families are
'deeplab2' (google-research/deeplab2), 'bowenc0221' (bowenc0221/panoptic-deeplab), 'detectron2' (its
projects/Panoptic-DeepLab), 'paper' (the parameters and multiply-adds that Cheng et al. print),
'tensorflow' (tensorflow/models' research/deeplab), 'torchvision', and 'imagenet' (the classifiers
that backbones are pretrained as).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pdl_jax.models.backbones import BACKBONES
from pdl_jax.models.options import ModelOptions, make_model_options
from pdl_jax.typing import suggest

# Fields that describe the inside of one family of backbones.
_OF_ONE_BACKBONE = (
    'stem',
    'stride_convention',
    'multi_grid',
    'endpoints',
    'squeeze_excite_gate',
    'upsampling',
    'drop_path_keep_prob',
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
      system: a name of `systems.SYSTEMS`; '' for a classifier of whole images, which labels no
        pixels.
      model: fields of the network, by their names in `config.model`.
      targets, loss, postprocess: rules, by the names of the fields in those sections of the
        configuration.
    """

    system: str
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    postprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_OS16 = {'output_stride': 16, 'aspp_rates': (6, 12, 18)}
_SEMANTIC = {'has_instances': False}
_THREE_SKIPS = {
    'skip_strides': (16, 8, 4),
    'semantic_low_level_features': (128, 64, 32),
    'instance_low_level_features': (64, 32, 16),
}
_DEEPLAB_V3 = {**_SEMANTIC, 'skip_strides': (), 'semantic_low_level_features': ()}
_DEEPLAB_V3PLUS = {
    **_SEMANTIC,
    'skip_strides': (4,),
    'semantic_low_level_features': (48,),
    'fusion': 'two_separable3x3',
    'semantic_head': 'none',
}
_LR_ASPP = {**_SEMANTIC, 'decoder': 'lr_aspp', 'semantic_aspp_features': 128}

# The defaults of ModelOptions are DeepLab2's.
_DEEPLAB2 = {
    'resnet50_os32': {},
    'resnet50_os16': _OS16,
    'resnet50_beta_os32': {'backbone': 'resnet50_beta'},
    'resnet50_beta_os16': {**_OS16, 'backbone': 'resnet50_beta'},
    **{
        f'mobilenet_v3_{size}_{stride}': {
            **fields,
            'backbone': f'mobilenet_v3_{size}',
            'squeeze_excite_gate': 'sigmoid',
        }
        for size in ('small', 'large')
        for stride, fields in (('os32', {}), ('os16', {**_OS16, 'norm_epsilon': 1e-5}))
    },
    'resnet50_os32_semantic': _SEMANTIC,
    'deeplab_v3_resnet50_os32': {**_DEEPLAB_V3, 'semantic_head': 'conv3x3'},
    'deeplab_v3_mobilenet_v3_large_os32': {
        **_DEEPLAB_V3,
        'backbone': 'mobilenet_v3_large',
        'squeeze_excite_gate': 'sigmoid',
        'semantic_head': 'conv3x3',
    },
    'deeplab_v3plus_resnet50_os32': _DEEPLAB_V3PLUS,
    **{
        f'{name}_os16': {**_OS16, 'backbone': name, 'drop_path_keep_prob': 0.8}
        for name in (
            'wide_resnet41',
            'swidernet_sac_1_1_1',
            'swidernet_sac_1_1_3',
            'swidernet_sac_1_1_4.5',
        )
    },
}

# align_corners, three skips at output stride 32, dropout 0.5, no BatchNorm behind the image
# pooling.
_BOWENC0221_BASE = {
    'normalization': 'imagenet',
    'norm_epsilon': 1e-5,
    'norm_momentum': 0.99,
    'stride_convention': 'torchvision',
    'aspp_pool_layer': 'plain',
    'dropout_rate': 0.5,
}
_BOWENC0221_MOBILE = {**_BOWENC0221_BASE, 'stride_convention': None}
_BOWENC0221 = {
    'resnet50_os32': {**_BOWENC0221_BASE, **_THREE_SKIPS},
    'resnet50_os16': {**_BOWENC0221_BASE, **_OS16, 'instance_head_features': 128},
    'resnet101_os32': {**_BOWENC0221_BASE, **_THREE_SKIPS, 'backbone': 'resnet101'},
    'mobilenet_v2_os32': {**_BOWENC0221_MOBILE, **_THREE_SKIPS, 'backbone': 'mobilenet_v2'},
    'hrnet_w48': {**_BOWENC0221_MOBILE, **_THREE_SKIPS, 'backbone': 'hrnet_w48'},
    'xception65_os32': {
        **_BOWENC0221_MOBILE,
        **_THREE_SKIPS,
        'backbone': 'xception65',
        'endpoints': 'middle_flow',
        'normalization': 'unit',
        'norm_momentum': 0.999,
    },
}

# Half-pixel resizing, the skip before the decoder's own features, wider instance projections.
_DETECTRON2_BASE = {
    **_OS16,
    'backbone': 'resnet50_beta',
    'stride_convention': 'detectron2',
    'multi_grid': (1, 2, 4),
    'normalization': 'imagenet',
    'norm_epsilon': 1e-5,
    'norm_momentum': 0.9,
    'resize': 'half_pixel',
    'aspp_pool_layer': 'bias',
    'is_skip_first': True,
    'instance_low_level_features': (64, 32),
    'center_head': 'two_conv3x3',
}
_DETECTRON2_PLAIN = {
    **_DETECTRON2_BASE,
    'fusion': 'two_conv3x3',
    'semantic_head': 'two_conv3x3',
    'offset_head': 'two_conv3x3',
}
_DETECTRON2 = {
    'resnet52_os16_dsconv': {**_DETECTRON2_BASE, 'is_aspp_separable': True},
    'resnet52_os16': _DETECTRON2_PLAIN,
    'resnet50_os16': {**_DETECTRON2_PLAIN, 'backbone': 'resnet50'},
}

_TENSORFLOW_BASE = {
    **_OS16,
    'norm_epsilon': 1e-5,
    'norm_momentum': 0.9997,
    'is_aspp_separable': True,
    'dropout_rate': 0.1,
}
_SLIM_RESNET = {
    'stride_convention': 'slim',
    'endpoints': 'inner',
    'backbone_norm_momentum': 0.95,
}
_SLIM_XCEPTION = {'backbone_norm_epsilon': 1e-3}
_SLIM_MOBILENET = {
    'endpoints': 'inner',
    'backbone_padding': 'same',
    'backbone_norm_epsilon': 1e-3,
    'backbone_norm_momentum': 0.997,
}
_PAPER = {
    'resnet50': {**_TENSORFLOW_BASE, **_SLIM_RESNET, 'backbone': 'resnet50_beta'},
    'xception71': {**_TENSORFLOW_BASE, **_SLIM_XCEPTION, 'backbone': 'xception71'},
    'mobilenet_v3': {**_TENSORFLOW_BASE, **_SLIM_MOBILENET, 'backbone': 'mobilenet_v3_large_seg'},
}
_TENSORFLOW_V3PLUS = {**_TENSORFLOW_BASE, **_DEEPLAB_V3PLUS}
_TENSORFLOW_LR_ASPP = {**_TENSORFLOW_BASE, **_SLIM_MOBILENET, **_LR_ASPP}
_TENSORFLOW = {
    'deeplab_v3_resnet101_beta_os16': {
        **_TENSORFLOW_BASE,
        **_SLIM_RESNET,
        **_DEEPLAB_V3,
        'backbone': 'resnet101_beta',
        'multi_grid': (1, 2, 4),
        'is_aspp_separable': False,
        'semantic_head': 'none',
    },
    'deeplab_v3plus_xception65_os16': {
        **_TENSORFLOW_V3PLUS,
        **_SLIM_XCEPTION,
        'backbone': 'xception65',
    },
    'deeplab_v3plus_xception71_os16': {
        **_TENSORFLOW_V3PLUS,
        **_SLIM_XCEPTION,
        'backbone': 'xception71',
    },
    'deeplab_v3plus_xception71_dpc_os16': {
        **_TENSORFLOW_V3PLUS,
        **_SLIM_XCEPTION,
        'backbone': 'xception71',
        'context': 'dense_prediction_cell',
    },
    'deeplab_v3_mobilenet_v2_os16': {
        **_TENSORFLOW_BASE,
        **_SLIM_MOBILENET,
        **_DEEPLAB_V3,
        'backbone': 'mobilenet_v2',
        'aspp_rates': (),
        'semantic_head': 'none',
    },
    **{
        f'lr_aspp_mobilenet_v3_{size}_os{stride}': {
            **_TENSORFLOW_LR_ASPP,
            'backbone': f'mobilenet_v3_{size}_seg',
            'output_stride': stride,
        }
        for size in ('small', 'large')
        for stride in (16, 32)
    },
}

_TORCHVISION_BASE = {
    'normalization': 'imagenet',
    'norm_epsilon': 1e-5,
    'norm_momentum': 0.9,
    'resize': 'half_pixel',
    'aspp_pooling': 'global',
    'dropout_rate': 0.5,
}
_TORCHVISION = {
    'deeplab_v3_resnet50_os8': {
        **_TORCHVISION_BASE,
        **_DEEPLAB_V3,
        'stride_convention': 'torchvision',
        'output_stride': 8,
        'aspp_rates': (12, 24, 36),
        'semantic_head': 'conv3x3',
    },
    'lr_aspp_mobilenet_v3_large_os16': {
        **_TORCHVISION_BASE,
        **_LR_ASPP,
        'backbone': 'mobilenet_v3_large',
        'endpoints': 'outputs',
        'stride_convention': 'torchvision',
        'output_stride': 16,
        'backbone_norm_epsilon': 1e-3,
        'backbone_norm_momentum': 0.99,
        'lr_aspp_gate': 'sigmoid',
    },
}

_CLASSIFIER = {
    **_SEMANTIC,
    'decoder': 'classifier',
    'output_stride': 32,
    'normalization': 'imagenet',
}


def _make_classifier(backbone: str) -> dict[str, Any]:
    """The arrangement of torchvision, where it has this backbone, and of the authors elsewhere."""
    fields = {**_CLASSIFIER, 'backbone': backbone}
    if backbone.startswith('resnet'):
        fields |= {'stride_convention': 'torchvision', 'norm_epsilon': 1e-5}
    if backbone.startswith('hrnet'):
        fields |= {'upsampling': 'nearest', 'norm_epsilon': 1e-5}
    return fields


_PYTORCH_TARGETS = {
    'is_crowd_ignored': False,
    'is_offset_to_pixel': False,
    'is_crowd_drawn': True,
}
_PYTORCH_POSTPROCESS = {'top_k_rule': 'above_kth', 'score_rule': 'centroid'}
# A rule that is not listed has the default: the well-defined one, which is DeepLab2's except for
# its choice of the highest centres (arbitrary if more than K pass) and the merge of its custom op,
# whose rules `postprocess.merge` has too. Not reproduced: detectron2 resizes offsets without
# rescaling them if an image is not shown at its own size, and uses void id -1.
_RULES = {
    'bowenc0221': {
        'targets': {**_PYTORCH_TARGETS, 'center_rounding': 'down'},
        'loss': {'scope': 'batch'},
        'postprocess': _PYTORCH_POSTPROCESS,
    },
    'detectron2': {
        'targets': _PYTORCH_TARGETS,
        'loss': {'scope': 'batch', 'offset_weight': 0.02},
        'postprocess': {**_PYTORCH_POSTPROCESS, 'is_padding_cut': True},
    },
}


_BY_INSTANCES = {True: 'panoptic_deeplab', False: 'semantic_deeplab'}


def _make_preset(family: str, model: Mapping[str, Any]) -> Preset:
    system = _BY_INSTANCES[model.get('has_instances', True)]
    if model.get('decoder') == 'classifier':
        system = ''
    return Preset(system, model, **_RULES.get(family, {}))


PRESETS: dict[str, Preset] = {
    f'{family}/{name}': _make_preset(family, model)
    for family, members in (
        ('deeplab2', _DEEPLAB2),
        ('bowenc0221', _BOWENC0221),
        ('detectron2', _DETECTRON2),
        ('paper', _PAPER),
        ('tensorflow', _TENSORFLOW),
        ('torchvision', _TORCHVISION),
        ('imagenet', {name: _make_classifier(name) for name in BACKBONES}),
    )
    for name, model in members.items()
}


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
    if has_instances is None or preset.system not in _BY_INSTANCES.values():
        return preset.system
    return _BY_INSTANCES[has_instances]


def make_options(preset: str, **overrides: Any) -> ModelOptions:
    """Makes the network of a preset by its name, see `make_network`.

    Raises:
      ValueError: there is no such preset, or the fields contradict each other.
    """
    return make_network(find_preset(preset), **overrides)


def make_network(preset: Preset, **overrides: Any) -> ModelOptions:
    """Makes the network of a preset.

    Args:
      preset: the recipe.
      **overrides: fields of `config.model`; None leaves one as the preset has it. A backbone other
        than the preset's keeps its own family's attributes: those that the preset sets for its
        backbone are dropped.

    Raises:
      ValueError: a field is unknown, or fields contradict each other.
    """
    overrides = {key: value for key, value in overrides.items() if value is not None}
    fields = {'backbone': ModelOptions().backbone.name, **preset.model}
    if overrides.get('backbone', fields['backbone']) != fields['backbone']:
        for field in _OF_ONE_BACKBONE:
            fields.pop(field, None)
    return make_model_options({**fields, **overrides})
