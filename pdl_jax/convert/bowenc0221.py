"""Weights of bowenc0221/panoptic-deeplab, and the ImageNet weights of its Xception and HRNet."""

from collections.abc import Collection, Sequence

from pdl_jax.convert.bowenc0221_backbones import CLASSIFIERS, make_backbone_rules
from pdl_jax.convert.layers import torch_conv, torch_conv_norm
from pdl_jax.convert.rules import Rule
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions


def _make_decoder(branch: str, skip_strides: Sequence[int]) -> list[Rule]:
    keys, aspp = rf'decoder\.{branch}_decoder', f'{branch}_decoder/aspp'
    rules: list[Rule] = [
        *torch_conv_norm(
            rf'{keys}\.aspp\.convs\.([0-3])\.0',
            rf'{keys}\.aspp\.convs\.([0-3])\.1',
            f'{aspp}/branch_{{1}}',
        ),
        *torch_conv(rf'{keys}\.aspp\.convs\.4\.aspp_pooling\.1', f'{aspp}/pool'),
        *torch_conv_norm(
            rf'{keys}\.aspp\.project\.0', rf'{keys}\.aspp\.project\.1', f'{aspp}/project'
        ),
    ]
    for i, stride in enumerate(skip_strides):
        project, fuse = rf'{keys}\.project\.{i}', rf'{keys}\.fuse\.{i}\.0'
        rules += [
            *torch_conv_norm(
                rf'{project}\.0', rf'{project}\.1', f'{branch}_decoder/project_stride{stride}'
            ),
            *_separable(fuse, f'{branch}_decoder/fuse_stride{stride}'),
        ]
    return rules


def _make_head(branch: str, name: str) -> list[Rule]:
    keys = rf'decoder\.{branch}_head\.classifier\.{name}'
    return [
        *_separable(rf'{keys}\.0\.0', f'{name}_head/fuse'),
        *torch_conv(rf'{keys}\.1', f'{name}_head/predict'),
    ]


def _separable(keys: str, path: str) -> tuple[Rule, ...]:
    return (
        *torch_conv_norm(rf'{keys}\.0\.0', rf'{keys}\.0\.1', f'{path}/depthwise'),
        *torch_conv_norm(rf'{keys}\.1', rf'{keys}\.2', f'{path}/pointwise'),
    )


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    del keys
    return (
        # Backbone-only files lack the prefix.
        *make_backbone_rules(options.backbone.name, r'(?:backbone\.)?'),
        *_make_decoder('semantic', options.skip_strides),
        *_make_decoder('instance', options.skip_strides),
        *_make_head('semantic', 'semantic'),
        *_make_head('instance', 'center'),
        *_make_head('instance', 'offset'),
        CLASSIFIERS,
    )


_POSTPROCESS = {
    'postprocess.nms_kernel_px': 7,
    'postprocess.max_centers': 200,
    'postprocess.stuff_area_limit_px': 2048,
}

SOURCE = Source(
    name='bowenc0221',
    make_rules=_make_rules,
    presets=tuple(
        f'bowenc0221/{name}'
        for name in (
            'resnet50_os32',
            'resnet50_os16',
            'resnet101_os32',
            'resnext101_32x8d_os32',
            'mobilenet_v2_os32',
            'xception65_os32',
            'hrnet_w48',
        )
    ),
    backbones={
        'xception65': ({'norm_epsilon': 1e-5, 'normalization': 'unit'},),
        **{
            f'hrnet_w{width}': ({'norm_epsilon': 1e-5, 'normalization': 'imagenet'},)
            for width in (18, 32, 48)
        },
    },
    config_fields={'cityscapes': _POSTPROCESS, 'coco': _POSTPROCESS},
)
