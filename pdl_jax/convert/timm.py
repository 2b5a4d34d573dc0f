"""Weights of timm (huggingface/pytorch-image-models): ImageNet classifiers, as backbones."""

from collections.abc import Collection
from typing import Any

from pdl_jax.convert import torchvision
from pdl_jax.convert.bowenc0221_backbones import CLASSIFIERS, HRNET
from pdl_jax.convert.convnext import SIZES
from pdl_jax.convert.layers import torch_conv, torch_conv_norm, torch_dense, torch_norm
from pdl_jax.convert.rules import Rule, Target, ignore, under
from pdl_jax.convert.source import Source

_STAGE = r'stages\.(\d)'
_BLOCK, _PATH = rf'{_STAGE}\.blocks\.(\d+)', 'stage{1+1}_block{2+1}'

_CONVNEXT = (
    *torch_conv(r'stem\.0', 'stem'),
    *torch_norm(r'stem\.1', 'stem_norm'),
    *torch_norm(rf'{_STAGE}\.downsample\.0', 'stage{1+1}_downsampling/norm'),
    *torch_conv(rf'{_STAGE}\.downsample\.1', 'stage{1+1}_downsampling/conv'),
    *torch_conv(rf'{_BLOCK}\.conv_dw', f'{_PATH}/depthwise'),
    *torch_norm(rf'{_BLOCK}\.norm', f'{_PATH}/norm'),
    *torch_dense(rf'{_BLOCK}\.mlp\.fc1', f'{_PATH}/expand'),
    *torch_dense(rf'{_BLOCK}\.mlp\.fc2', f'{_PATH}/project'),
    Rule(rf'{_BLOCK}\.gamma', (Target('params', f'{_PATH}/layer_scale'),)),
)


_RESNET_D = (
    # The stem's three convolutions; the BatchNorm of the last is the network's first.
    *torch_conv_norm(r'conv1\.0', r'conv1\.1', 'stem_1'),
    *torch_conv_norm(r'conv1\.3', r'conv1\.4', 'stem_2'),
    *torch_conv_norm(r'conv1\.6', 'bn1', 'stem_3'),
    # The average of a shortcut is its layer 0.
    *torch_conv_norm(
        r'layer(\d)\.(\d+)\.downsample\.1',
        r'layer(\d)\.(\d+)\.downsample\.2',
        'stage{1+1}_block{2+1}/shortcut',
    ),
    *torchvision.RESNET_UNITS,
)

# Numbers of the blocks that begin timm's stages.
_MOBILENET_STAGES = {'large': (0, 1, 3, 6, 10, 12), 'small': (0, 1, 3, 6, 8)}


def _make_mobilenet_v3(size: str) -> tuple[Rule, ...]:
    rules = [
        *torch_conv_norm('conv_stem', 'bn1', 'stem'),
        # The first block has no expansion.
        *torch_conv_norm(r'blocks\.0\.0\.conv_dw', r'blocks\.0\.0\.bn1', 'block_0/depthwise'),
        *torch_conv_norm(r'blocks\.0\.0\.conv_pw', r'blocks\.0\.0\.bn2', 'block_0/project'),
    ]
    starts = _MOBILENET_STAGES[size]
    for stage, start in enumerate(starts):
        block, path = rf'blocks\.{stage}\.(\d)', f'block_{{1+{start}}}'
        rules += [
            *torch_conv_norm(rf'{block}\.conv_pw', rf'{block}\.bn1', f'{path}/expand'),
            *torch_conv_norm(rf'{block}\.conv_dw', rf'{block}\.bn2', f'{path}/depthwise'),
            *torch_conv(rf'{block}\.se\.conv_(reduce|expand)', f'{path}/squeeze_excite/{{2}}'),
            *torch_conv_norm(rf'{block}\.conv_pwl', rf'{block}\.bn3', f'{path}/project'),
        ]
    last = rf'blocks\.{len(starts)}\.0'
    return (*rules, *torch_conv_norm(rf'{last}\.conv', rf'{last}\.bn1', 'last_conv'))


def _make_backbone(name: str) -> tuple[Rule, ...]:
    if name.startswith('convnext'):
        return _CONVNEXT
    if name.startswith('hrnet'):
        return HRNET
    if name.startswith('mobilenet_v3'):
        return _make_mobilenet_v3(name.removeprefix('mobilenet_v3_'))
    return _RESNET_D


def _make_rules(options: Any, keys: Collection[str]) -> tuple[Rule, ...]:
    del keys
    return (
        *under(_make_backbone(options.backbone.name), path='backbone'),
        CLASSIFIERS,
        ignore(
            r'(norm_pre|head|conv_head)\..*',
            'belongs to the classifier, which a segmentation network does not have',
        ),
    )


_PYTORCH = {'norm_epsilon': 1e-5, 'normalization': 'imagenet'}

SOURCE = Source(
    name='timm',
    make_rules=_make_rules,
    backbones={
        **{f'convnext_{size}': ({'normalization': 'imagenet'},) for size in SIZES},
        **{
            f'resnet{depth}d': ({**_PYTORCH, 'stride_convention': 'torchvision'},)
            for depth in (50, 101)
        },
        **{
            f'mobilenet_v3_{size}': (
                {
                    **_PYTORCH,
                    'stride_convention': 'torchvision',
                    'squeeze_excite_gate': 'hard_sigmoid',
                },
            )
            for size in _MOBILENET_STAGES
        },
        **{f'hrnet_w{width}': (_PYTORCH,) for width in (18, 32, 48)},
    },
)
