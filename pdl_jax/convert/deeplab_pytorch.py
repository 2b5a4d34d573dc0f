"""Weights of kazuto1011/deeplab-pytorch: DeepLab v1 and v2 on ResNet-101, born in Caffe."""

from collections.abc import Collection

import numpy as np

from pdl_jax.convert.layers import torch_conv, torch_conv_norm, torch_norm
from pdl_jax.convert.rules import Rule, Target, under
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions


def _from_bgr(x: np.ndarray) -> np.ndarray:
    """Returns the kernel [h, w, I, O] for RGB of [O, I, h, w] for BGR."""
    return x[:, ::-1].transpose(2, 3, 1, 0)


_STEM = (
    Rule(r'layer1\.conv1\.conv\.weight', (Target('params', 'stem/conv/kernel', _from_bgr),)),
    *torch_norm(r'layer1\.conv1\.bn', 'stem/norm'),
)


def _make_resnet() -> tuple[Rule, ...]:
    rules = list(_STEM)
    block = r'layer(\d)\.block(\d+)\.'
    for part, name in (
        ('reduce', 'conv1'),
        ('conv3x3', 'conv2'),
        ('increase', 'conv3'),
        ('shortcut', 'shortcut'),
    ):
        rules += torch_conv_norm(
            rf'{block}{part}\.conv', rf'{block}{part}\.bn', f'stage{{1}}_block{{2}}/{name}'
        )
    return tuple(rules)


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    del options, keys
    # Networks of several input scales have the prefix.
    prefix = r'(?:base\.)?'
    return (
        *under(_make_resnet(), keys=prefix, path='backbone'),
        *torch_conv(rf'{prefix}aspp\.c(\d)', 'semantic_decoder/branch_{1+1}/predict'),
        *torch_conv(rf'{prefix}fc', 'semantic_decoder/branch_1/predict'),
    )


SOURCE = Source(
    name='deeplab_pytorch',
    make_rules=_make_rules,
    presets=(
        'deeplab_pytorch/deeplab_v1_resnet101_os8',
        'deeplab_pytorch/deeplab_v2_resnet101_os8',
    ),
)
