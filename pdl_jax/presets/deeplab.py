"""Recipes of Panoptic-DeepLab and of the semantic DeepLabs.

The families are 'deeplab2' (google-research/deeplab2), 'bowenc0221' (bowenc0221/panoptic-deeplab),
'detectron2' (its projects/Panoptic-DeepLab), 'model_garden' (tensorflow/models'
official/projects/panoptic), 'paper' (the parameters and multiply-adds that Cheng et al. print),
'tensorflow' (tensorflow/models' research/deeplab), 'torchvision', and 'spgnet' (Cheng et al., ICCV
2019).
"""

from collections.abc import Mapping
from typing import Any

from pdl_jax.presets.preset import SYSTEM_BY_INSTANCES, Preset

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
    **{
        f'axial_deeplab_{size}_os16': {
            **_OS16,
            'backbone': f'axial_resnet_{size}',
            'stem': 'beta',
        }
        for size in ('s', 'm', 'l')
    },
    **{
        f'{name}_os16': {
            'output_stride': 16,
            'backbone': backbone,
            'context': 'projection',
            'drop_path_keep_prob': 0.8,
        }
        for name, backbone in (
            ('max_deeplab_s_backbone', 'max_s'),
            *((f'axial_swidernet_1_1_{depth}',) * 2 for depth in ('1', '3', '4.5')),
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
    'resnext101_32x8d_os32': {**_BOWENC0221_BASE, **_THREE_SKIPS, 'backbone': 'resnext101_32x8d'},
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
_DETECTRON2_DSCONV = {**_DETECTRON2_BASE, 'is_aspp_separable': True}
# The backbones of bowenc0221/panoptic-deeplab's tools_d2.
_DETECTRON2_XCEPTION = {
    'backbone': 'xception65',
    'stride_convention': None,
    'multi_grid': None,
    'normalization': 'given',
    'pixel_mean': (128.0, 128.0, 128.0),
    'pixel_deviation': (128.0, 128.0, 128.0),
}
_DETECTRON2_HRNET = {
    'backbone': 'hrnet_w48',
    'stride_convention': None,
    'multi_grid': None,
    'output_stride': 32,
    'aspp_rates': (3, 6, 9),
    'skip_strides': (16, 8, 4),
    'semantic_low_level_features': (128, 64, 32),
    'instance_low_level_features': (128, 64, 32),
}
# Its projects/DeepLab.
_DETECTRON2_V3 = {
    **_DETECTRON2_BASE,
    **_DEEPLAB_V3,
    'backbone': 'resnet101_beta',
    'semantic_head': 'none',
}
_DETECTRON2_V3PLUS = {
    **_DETECTRON2_V3,
    'skip_strides': (4,),
    'semantic_low_level_features': (48,),
    'fusion': 'two_conv3x3',
}
_DETECTRON2 = {
    'resnet52_os16_dsconv': _DETECTRON2_DSCONV,
    'resnet52_os16': _DETECTRON2_PLAIN,
    'resnet50_os16': {**_DETECTRON2_PLAIN, 'backbone': 'resnet50'},
    'xception65_os16_dsconv': {**_DETECTRON2_DSCONV, **_DETECTRON2_XCEPTION},
    'xception65_os16': {**_DETECTRON2_PLAIN, **_DETECTRON2_XCEPTION},
    'hrnet_w48_dsconv': {**_DETECTRON2_DSCONV, **_DETECTRON2_HRNET},
    'hrnet_w48': {**_DETECTRON2_PLAIN, **_DETECTRON2_HRNET},
    'deeplab_v3_resnet103_os16': _DETECTRON2_V3,
    'deeplab_v3plus_resnet103_os16': _DETECTRON2_V3PLUS,
    'deeplab_v3plus_xception65_os16': {**_DETECTRON2_V3PLUS, **_DETECTRON2_XCEPTION},
    'deeplab_v3plus_hrnet_w48': {
        **_DETECTRON2_V3PLUS,
        **_DETECTRON2_HRNET,
        'semantic_low_level_features': (192, 96, 48),
    },
}

# Even input sizes, separable branches without BatchNorm between their convolutions, biases before
# BatchNorm, one head of the instance branch, offsets in pixels of the image.
_MODEL_GARDEN_BASE = {
    **_OS16,
    'backbone_padding': 'same',
    'normalization': 'imagenet',
    'norm_epsilon': 1e-3,
    'norm_momentum': 0.99,
    'resize': 'half_pixel',
    'is_aspp_separable': True,
    'has_aspp_depthwise_norm': False,
    'aspp_pooling': 'train_grid',
    'fusion': 'linear_separable5x5',
    'has_norm_bias': True,
    'offset_unit': 'image',
    'instance_shared_head': 'separable5x5',
    'center_head': 'none',
    'offset_head': 'none',
}
_MODEL_GARDEN = {
    **{
        f'resnet{depth}_os16': {
            **_MODEL_GARDEN_BASE,
            'backbone': f'resnet{depth}_beta',
            'stride_convention': 'detectron2',
            'multi_grid': (1, 2, 4),
            'squeeze_excite_gate': 'sigmoid',
            'drop_path_keep_prob': 0.8,
            'drop_path_schedule': 'stage',
        }
        for depth in (50, 101)
    },
    **{
        f'mobilenet_v3_{size}_os16': {
            **_MODEL_GARDEN_BASE,
            'backbone': f'mobilenet_v3_{size}',
            'stride_convention': 'torchvision',
            'squeeze_excite_gate': 'rounded_hard_sigmoid',
            'endpoints': 'last_outputs',
        }
        for size in ('small', 'large')
    },
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
_TORCHVISION_V3 = {
    **_TORCHVISION_BASE,
    **_DEEPLAB_V3,
    'stride_convention': 'torchvision',
    'output_stride': 8,
    'aspp_rates': (12, 24, 36),
    'semantic_head': 'conv3x3',
}
_TORCHVISION_MOBILENET = {
    'backbone': 'mobilenet_v3_large',
    'endpoints': 'outputs',
    'stride_convention': 'torchvision',
    'output_stride': 16,
    'backbone_norm_epsilon': 1e-3,
    'backbone_norm_momentum': 0.99,
}
_TORCHVISION = {
    'deeplab_v3_resnet50_os8': _TORCHVISION_V3,
    'deeplab_v3_resnet101_os8': {**_TORCHVISION_V3, 'backbone': 'resnet101'},
    'deeplab_v3_mobilenet_v3_large_os16': {**_TORCHVISION_V3, **_TORCHVISION_MOBILENET},
    'lr_aspp_mobilenet_v3_large_os16': {
        **_TORCHVISION_BASE,
        **_LR_ASPP,
        **_TORCHVISION_MOBILENET,
        'lr_aspp_gate': 'sigmoid',
    },
}

_SPGNET = {
    name: {
        **_SEMANTIC,
        'decoder': 'spgnet',
        'backbone': name,
        'stride_convention': 'torchvision',
        'normalization': 'imagenet',
        'norm_epsilon': 1e-5,
    }
    for name in ('resnet18', 'resnet50')
}

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
    'model_garden': {
        'targets': {'is_crowd_instance': True},
        'loss': {'scope': 'all_pixels'},
        'postprocess': {'is_at_original_size': True},
    },
}


def _make_preset(family: str, model: Mapping[str, Any]) -> Preset:
    system = SYSTEM_BY_INSTANCES[model.get('has_instances', True)]
    return Preset(system, model, **_RULES.get(family, {}))


DEEPLAB_PRESETS: dict[str, Preset] = {
    f'{family}/{name}': _make_preset(family, model)
    for family, members in (
        ('deeplab2', _DEEPLAB2),
        ('bowenc0221', _BOWENC0221),
        ('detectron2', _DETECTRON2),
        ('model_garden', _MODEL_GARDEN),
        ('paper', _PAPER),
        ('tensorflow', _TENSORFLOW),
        ('torchvision', _TORCHVISION),
        ('spgnet', _SPGNET),
    )
    for name, model in members.items()
}
