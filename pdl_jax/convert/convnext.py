"""Weights of facebookresearch/ConvNeXt: ImageNet classifiers, as backbones."""

from collections.abc import Collection
from typing import Any

from pdl_jax.convert.layers import torch_conv, torch_dense, torch_norm
from pdl_jax.convert.rules import Rule, Target, ignore, under
from pdl_jax.convert.source import Source

SIZES = ('tiny', 'small', 'base', 'large')
_BLOCK, _PATH = r'stages\.(\d)\.(\d+)', 'stage{1+1}_block{2+1}'

# kMaX-DeepLab's PyTorch program has the same names.
CONVNEXT = (
    *torch_conv(r'downsample_layers\.0\.0', 'stem'),
    *torch_norm(r'downsample_layers\.0\.1', 'stem_norm'),
    *torch_norm(r'downsample_layers\.(\d)\.0', 'stage{1+1}_downsampling/norm'),
    *torch_conv(r'downsample_layers\.(\d)\.1', 'stage{1+1}_downsampling/conv'),
    *torch_conv(rf'{_BLOCK}\.dwconv', f'{_PATH}/depthwise'),
    *torch_norm(rf'{_BLOCK}\.norm', f'{_PATH}/norm'),
    *torch_dense(rf'{_BLOCK}\.pwconv1', f'{_PATH}/expand'),
    *torch_dense(rf'{_BLOCK}\.pwconv2', f'{_PATH}/project'),
    Rule(rf'{_BLOCK}\.gamma', (Target('params', f'{_PATH}/layer_scale'),)),
)


def _make_rules(options: Any, keys: Collection[str]) -> tuple[Rule, ...]:
    del options, keys
    return (
        *under(CONVNEXT, path='backbone'),
        ignore(
            r'(norm|head)\..*',
            'belongs to the classifier, which a segmentation network does not have',
        ),
    )


SOURCE = Source(
    name='convnext',
    make_rules=_make_rules,
    backbones={f'convnext_{size}': ({'normalization': 'imagenet'},) for size in SIZES},
)
