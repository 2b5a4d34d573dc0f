"""Weights of DeepLab2: TensorFlow 2 checkpoints of whole networks and of ImageNet backbones."""

import dataclasses
import re
from collections.abc import Collection

from pdl_jax.convert.layers import tensorflow_conv, tensorflow_depthwise, tensorflow_norm
from pdl_jax.convert.rules import Rule, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions
from pdl_jax.presets import PRESETS

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'


def _conv_norm(keys: str, path: str) -> tuple[Rule, ...]:
    return (
        *tensorflow_conv(f'{keys}/_conv', f'{path}/conv'),
        *tensorflow_norm(f'{keys}/_batch_norm', f'{path}/norm'),
    )


def _depthwise_norm(keys: str, path: str) -> tuple[Rule, ...]:
    return (
        *tensorflow_depthwise(f'{keys}/_depthwise_conv', f'{path}/conv'),
        *tensorflow_norm(f'{keys}/_batch_norm', f'{path}/norm'),
    )


def _separable(keys: str, path: str) -> tuple[Rule, ...]:
    return (
        *_depthwise_norm(f'{keys}/_depthwise', f'{path}/depthwise'),
        *_conv_norm(f'{keys}/_pointwise', f'{path}/pointwise'),
    )


def _make_resnet() -> tuple[Rule, ...]:
    """Makes the rules of ResNets and wide ResNets, whose names differ only in the suffix '_act'."""
    block = r'_stage(\d)/_block(\d+)'
    path = 'stage{1}_block{2}'
    conv, conv_path = rf'{block}/_conv(\d)_bn(?:_act)?', f'{path}/conv{{3}}'
    return (
        *_conv_norm('_stem', 'stem'),
        *_conv_norm(r'_stem/_conv(\d)_bn(?:_act)?', 'stem_{1}'),
        *_conv_norm(conv, conv_path),
        *_conv_norm(f'{block}/_shortcut', f'{path}/shortcut'),
        *tensorflow_conv(f'{block}/_squeeze_and_excite/_se_conv', f'{path}/squeeze_excite'),
        *tensorflow_conv(f'{conv}/_conv/_switch', f'{conv_path}/switch'),
        *tensorflow_conv(f'{conv}/_pre_global_context/convolution', f'{conv_path}/context_before'),
        *tensorflow_conv(f'{conv}/_post_global_context/convolution', f'{conv_path}/context_after'),
    )


# The blocks are numbered through; the stem is the first and the last convolution the last.
_MOBILENET_V3 = (
    *_conv_norm('_blocks/0', 'stem'),
    *_conv_norm(r'_blocks/\d+', 'last_conv'),
    *_conv_norm(r'_blocks/(\d+)/_conv1_bn_act', 'block_{1-1}/expand'),
    *_depthwise_norm(r'_blocks/(\d+)/_conv2_bn_act', 'block_{1-1}/depthwise'),
    *tensorflow_conv(
        r'_blocks/(\d+)/_squeeze_excitation/_se_(reduce|expand)', 'block_{1-1}/squeeze_excite/{2}'
    ),
    *_conv_norm(r'_blocks/(\d+)/_conv3_bn', 'block_{1-1}/project'),
)


def _make_decoder(branch: str) -> list[Rule]:
    keys, aspp = f'{branch}_decoder', f'{branch}_decoder/aspp'
    rules: list[Rule] = [
        *_conv_norm(f'{keys}/_aspp/_conv_bn_act', f'{aspp}/branch_0'),
        *_conv_norm(rf'{keys}/_aspp/_aspp_conv(\d)/_conv_bn_act', f'{aspp}/branch_{{1}}'),
        *_conv_norm(f'{keys}/_aspp/_aspp_pool/_conv_bn_act', f'{aspp}/pool'),
        *_conv_norm(f'{keys}/_aspp/_proj_conv_bn_act', f'{aspp}/project'),
    ]
    for i, stride in ((1, 8), (2, 4)):
        rules += [
            *_conv_norm(f'{keys}/_low_level_conv{i}', f'{keys}/project_stride{stride}'),
            *_separable(f'{keys}/_fusion_conv{i}/_conv1_bn_act', f'{keys}/fuse_stride{stride}'),
        ]
    return rules


def _make_head(head: str, last: str, path: str) -> tuple[Rule, ...]:
    return (
        *_separable(f'{head}_without_last_layer/_conv1_bn_act', f'{path}/fuse'),
        *tensorflow_conv(last, f'{path}/predict'),
    )


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    del keys
    backbone = _MOBILENET_V3 if options.backbone.name.startswith('mobilenet_v3') else _make_resnet()
    rules = (
        # The ImageNet files were trained by TensorFlow's Model Garden, which names the encoder
        # differently.
        *under(backbone, keys='(?:encoder|backbone/_encoder)/', path='backbone'),
        *_make_decoder('semantic'),
        *_make_head('semantic_head', 'semantic_last_layer', 'semantic_head'),
        *_make_decoder('instance'),
        *_make_head('instance_center_head', 'instance_center_head_last_layer', 'center_head'),
        *_make_head(
            'instance_regression_head', 'instance_regression_head_last_layer', 'offset_head'
        ),
    )
    suffix = re.escape(_SUFFIX)
    return (
        ignore('.*/.OPTIMIZER_SLOT/.*', 'an optimiser slot of a variable'),
        ignore('optimizer/.*', 'a variable of the optimiser'),
        ignore(f'(global_step|save_counter|epoch|step)({suffix})?', 'a counter of steps or saves'),
        ignore('_CHECKPOINTABLE_OBJECT_GRAPH', "TensorFlow's index of variables"),
        *(dataclasses.replace(rule, pattern=rule.pattern + suffix) for rule in rules),
    )


# Networks whose checkpoints have names that are not known here.
_WITHOUT_RULES = ('deeplab2/deeplab_v3', 'deeplab2/axial_', 'deeplab2/max_')
_DEEPLAB2_OPTIONS = {'norm_epsilon': 1e-3, 'normalization': 'unit'}

SOURCE = Source(
    name='deeplab2',
    make_rules=_make_rules,
    presets=tuple(
        name
        for name in PRESETS
        if name.startswith('deeplab2/') and not name.startswith(_WITHOUT_RULES)
    ),
    backbones={
        **{
            name: ({**_DEEPLAB2_OPTIONS, 'stride_convention': 'deeplab2'},)
            for name in ('resnet50', 'resnet50_beta')
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
                'wide_resnet41',
                'swidernet_sac_1_1_1',
                'swidernet_sac_1_1_3',
                'swidernet_sac_1_1_4.5',
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
