"""Weights of DeepLab2: TensorFlow 2 checkpoints of whole networks and of ImageNet backbones."""

from collections.abc import Collection

import numpy as np

from pdl_jax.convert.checkpoint_keys import make_checkpoint_rules
from pdl_jax.convert.deeplab2_layers import (
    branch_decoder,
    branch_head,
    conv_norm,
    depthwise_norm,
    residual_unit,
)
from pdl_jax.convert.kmax_deeplab2 import make_kmax_rules
from pdl_jax.convert.layers import tensorflow_conv, tensorflow_norm
from pdl_jax.convert.max_deeplab2 import make_max_rules
from pdl_jax.convert.rules import Rule, Target, under
from pdl_jax.convert.source import Source
from pdl_jax.models.any_options import AnyNetworkOptions
from pdl_jax.models.kmax_options import KMaXNetworkOptions
from pdl_jax.models.max_options import MaXNetworkOptions
from pdl_jax.presets import PRESETS


def _make_resnet() -> tuple[Rule, ...]:
    """Makes the rules of ResNets, Axial-ResNets and wide ResNets.

    Names of the last differ from the others' only in the suffix '_act'.
    """
    block = r'_stage(\d)/_block(\d+)'
    path = 'stage{1}_block{2}'
    conv, conv_path = rf'{block}/_conv(\d)_bn(?:_act)?', f'{path}/conv{{3}}'
    return (
        *conv_norm('_stem', 'stem'),
        *conv_norm(r'_stem/_conv(\d)_bn(?:_act)?', 'stem_{1}'),
        *residual_unit(block, path),
        *tensorflow_conv(f'{block}/_squeeze_and_excite/_se_conv', f'{path}/squeeze_excite'),
        *tensorflow_conv(f'{conv}/_conv/_switch', f'{conv_path}/switch'),
        *tensorflow_conv(f'{conv}/_pre_global_context/convolution', f'{conv_path}/context_before'),
        *tensorflow_conv(f'{conv}/_post_global_context/convolution', f'{conv_path}/context_after'),
    )


def _make_convnext() -> tuple[Rule, ...]:
    layers = r'downsample_layers/([1-3])/layer_with_weights'
    block, path = r'stages/(\d)/layer_with_weights-(\d+)', 'stage{1+1}_block{2+1}'
    return (
        *tensorflow_conv('downsample_layers/0/layer_with_weights-0', 'stem'),
        *tensorflow_norm('downsample_layers/0/layer_with_weights-1', 'stem_norm'),
        *tensorflow_norm(f'{layers}-0', 'stage{1+1}_downsampling/norm'),
        *tensorflow_conv(f'{layers}-1', 'stage{1+1}_downsampling/conv'),
        *tensorflow_conv(f'{block}/depthwise_conv', f'{path}/depthwise'),
        *tensorflow_norm(f'{block}/norm', f'{path}/norm'),
        *tensorflow_conv(f'{block}/pointwise_conv1', f'{path}/expand'),
        *tensorflow_conv(f'{block}/pointwise_conv2', f'{path}/project'),
        Rule(f'{block}/layer_scale', (Target('params', f'{path}/layer_scale', np.ravel),)),
    )


# The blocks are numbered through; the stem is the first and the last convolution the last.
_MOBILENET_V3 = (
    *conv_norm('_blocks/0', 'stem'),
    *conv_norm(r'_blocks/\d+', 'last_conv'),
    *conv_norm(r'_blocks/(\d+)/_conv1_bn_act', 'block_{1-1}/expand'),
    *depthwise_norm(r'_blocks/(\d+)/_conv2_bn_act', 'block_{1-1}/depthwise'),
    *tensorflow_conv(
        r'_blocks/(\d+)/_squeeze_excitation/_se_(reduce|expand)', 'block_{1-1}/squeeze_excite/{2}'
    ),
    *conv_norm(r'_blocks/(\d+)/_conv3_bn', 'block_{1-1}/project'),
)


def _make_backbone(name: str) -> tuple[Rule, ...]:
    if name.startswith('mobilenet_v3'):
        return _MOBILENET_V3
    return _make_convnext() if name.startswith('convnext') else _make_resnet()


def _make_panoptic_deeplab() -> tuple[Rule, ...]:
    heads = {'center': 'center', 'regression': 'offset'}
    rules: list[Rule] = [
        *branch_decoder('semantic'),
        *branch_head('semantic_head', 'semantic_last_layer', 'semantic_head'),
        *branch_decoder('instance'),
    ]
    for name, ours in heads.items():
        head = f'instance_{name}_head'
        rules += branch_head(head, f'{head}_last_layer', f'{ours}_head')
    return tuple(rules)


def _make_decoders(options: AnyNetworkOptions) -> tuple[Rule, ...]:
    if isinstance(options, KMaXNetworkOptions):
        return make_kmax_rules(options)
    if isinstance(options, MaXNetworkOptions):
        return make_max_rules()
    return _make_panoptic_deeplab()


def _make_rules(options: AnyNetworkOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    del keys
    encoder = under(
        _make_backbone(options.backbone.name),
        # The ImageNet files were trained by TensorFlow's Model Garden, which names the encoder
        # differently.
        keys='(?:encoder|backbone/_encoder)/',
        path='backbone',
    )
    return make_checkpoint_rules((*encoder, *_make_decoders(options)))


_DEEPLAB2_OPTIONS = {'norm_epsilon': 1e-3, 'normalization': 'unit'}

SOURCE = Source(
    name='deeplab2',
    make_rules=_make_rules,
    presets=tuple(
        name
        for name in PRESETS
        if name.startswith(('deeplab2/', 'kmax_deeplab2/')) and '/deeplab_v3' not in name
    ),
    has_things_first=True,
    backbones={
        **{
            name: ({**_DEEPLAB2_OPTIONS, 'stride_convention': 'deeplab2'},)
            for name in ('resnet50', 'resnet50_beta')
        },
        # As in Axial-DeepLab, and as classifiers.
        **{
            f'axial_resnet_{size}': ({**_DEEPLAB2_OPTIONS, 'stem': 'beta'}, _DEEPLAB2_OPTIONS)
            for size in ('s', 'm', 'l')
        },
        **{
            f'mobilenet_v3_{size}': (
                {
                    **_DEEPLAB2_OPTIONS,
                    'stride_convention': 'deeplab2',
                    'squeeze_excite_gate': 'sigmoid',
                },
            )
            for size in ('small', 'large')
        },
        **{
            name: (_DEEPLAB2_OPTIONS,)
            for name in (
                'max_s',
                'max_s_gelu',
                'wide_resnet41',
                'swidernet_sac_1_1_1',
                'swidernet_sac_1_1_3',
                'swidernet_sac_1_1_4.5',
                'axial_swidernet_1_1_1',
                'axial_swidernet_1_1_3',
                'axial_swidernet_1_1_4.5',
            )
        },
    },
    config_fields={
        'cityscapes': {'postprocess.nms_kernel_px': 13, 'postprocess.max_centers': 400},
        'coco': {'postprocess.nms_kernel_px': 41, 'postprocess.max_centers': 400},
        'kitti_step': {
            'augment.crop_height_px': 385,
            'augment.crop_width_px': 1249,
            'postprocess.nms_kernel_px': 13,
            'postprocess.max_centers': 400,
            'postprocess.stuff_area_limit_px': 0,
        },
    },
    network_fields={
        ('cityscapes', f'deeplab2/mobilenet_v3_{size}_os16'): {'postprocess.nms_kernel_px': 7}
        for size in ('small', 'large')
    },
)
