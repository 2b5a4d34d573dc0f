"""Weights of timm (huggingface/pytorch-image-models): its ConvNeXts, as backbones."""

from collections.abc import Collection
from typing import Any

from pdl_jax.convert.convnext import SIZES
from pdl_jax.convert.layers import torch_conv, torch_dense, torch_norm
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


def _make_rules(options: Any, keys: Collection[str]) -> tuple[Rule, ...]:
    del options, keys
    return (
        *under(_CONVNEXT, path='backbone'),
        ignore(
            r'(norm_pre|head)\..*',
            'belongs to the classifier, which a segmentation network does not have',
        ),
    )


SOURCE = Source(
    name='timm',
    make_rules=_make_rules,
    backbones={f'convnext_{size}': ({'normalization': 'imagenet'},) for size in SIZES},
)
