"""Recipes of DeepLab v1 and v2, on VGG-16 and ResNet-101.

The families are 'caffe' (the networks of the papers, on VGG-16) and 'deeplab_pytorch'
(kazuto1011/deeplab-pytorch, the papers' ResNet-101 from Caffe).
"""

from typing import Any

from pdl_jax.presets.preset import SYSTEM_BY_INSTANCES, Preset

# Pixels of ImageNet's mean colour are zero, in RGB here.
_BASE = {
    'has_instances': False,
    'decoder': 'sum_aspp',
    'skip_strides': (),
    'semantic_low_level_features': (),
    'output_stride': 8,
    'stride_convention': 'caffe',
    'normalization': 'given',
    'pixel_mean': (122.675, 116.669, 104.008),
    'pixel_deviation': (1.0, 1.0, 1.0),
    'resize': 'half_pixel',
    'dropout_rate': 0.5,
}
_VGG = {**_BASE, 'backbone': 'vgg16', 'semantic_aspp_features': 1024}
_VGG_FULL = {**_VGG, 'semantic_aspp_features': 4096, 'aspp_rates': (4,)}
_RESNET = {
    **_BASE,
    'backbone': 'resnet101',
    'norm_epsilon': 1e-5,
    'norm_momentum': 0.999,
    'semantic_aspp_features': 0,
}
_V2_RATES = (6, 12, 18, 24)

_NETWORKS: dict[str, dict[str, Any]] = {
    'caffe/deeplab_v1_vgg16_7x7_os8': {**_VGG_FULL, 'sum_aspp_kernel_px': 7},
    'caffe/deeplab_v1_vgg16_4x4_os8': {**_VGG_FULL, 'sum_aspp_kernel_px': 4},
    'caffe/deeplab_v1_vgg16_largefov_os8': {
        **_VGG,
        'aspp_rates': (12,),
        'is_sum_aspp_pooled': True,
    },
    'caffe/deeplab_v2_vgg16_aspp_s_os8': {**_VGG, 'aspp_rates': (2, 4, 8, 12)},
    'caffe/deeplab_v2_vgg16_aspp_l_os8': {**_VGG, 'aspp_rates': _V2_RATES},
    'deeplab_pytorch/deeplab_v1_resnet101_os8': {
        **_RESNET,
        'aspp_rates': (1,),
        'sum_aspp_kernel_px': 1,
    },
    'deeplab_pytorch/deeplab_v2_resnet101_os8': {
        **_RESNET,
        'aspp_rates': _V2_RATES,
        'input_scales': (1.0, 0.5, 0.75),
    },
}

DEEPLAB_V1_V2_PRESETS = {
    name: Preset(SYSTEM_BY_INSTANCES[False], model, loss={'semantic_size': 'logits'})
    for name, model in _NETWORKS.items()
}
