"""Networks of tensorflow/models' research/deeplab, from checkpoints or folded graphs.

Graphs have BatchNorm folded into the kernels. They are read from an .npz with the layers of
MobileNetV2 and DeepLabv3 numbered in the order of the graph: `07.dw.kernel`, `07.dw.bias`.
"""

import re
from collections.abc import Collection

import numpy as np

from pdl_jax.convert import tensorflow_slim
from pdl_jax.convert.layers import folded_conv_norm
from pdl_jax.convert.rules import Rule, Target, ignore
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions


def _list_backbone() -> list[str]:
    """Lists the layers in order: the stem, then (expand,) depthwise and project of every block."""
    layers = ['backbone/stem']
    for block in range(17):
        parts = ('depthwise', 'project') if block == 0 else ('expand', 'depthwise', 'project')
        layers += [f'backbone/block_{block}/{part}' for part in parts]
    return layers


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    if any('/BatchNorm/' in key for key in keys):
        return tensorflow_slim.make_rules(options)
    if not options.backbone.name.startswith('mobilenet_v2'):
        return ()
    return _make_folded(options, keys)


def _make_folded(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    names = sorted({match[1] for key in keys if (match := re.fullmatch(r'(\d+\.\w+)\.\w+', key))})
    backbone = _list_backbone()
    backbone_epsilon = options.backbone.norm_epsilon
    rules: list[Rule] = []
    for name, path in zip(names, backbone, strict=False):
        rules += folded_conv_norm(re.escape(name), path, backbone_epsilon)
    behind = [re.escape(name) for name in names[len(backbone) :]]
    if options.decoder == 'classifier':
        reason = 'belongs to the classifier or decoder after the backbone'
        return (*rules, *(ignore(rf'{name}\..*', reason) for name in behind))
    aspp = 'semantic_decoder/aspp'
    for name, layer in zip(behind, ('branch_0', 'pool', 'project'), strict=False):
        rules += folded_conv_norm(name, f'{aspp}/{layer}', options.norm_epsilon)
    # TensorFlow concatenates the pooled features first.
    swapped = Target('params', f'{aspp}/project/conv/kernel', _swap_halves)
    rules = [
        Rule(rule.pattern, (swapped,)) if rule.targets[0].path == swapped.path else rule
        for rule in rules
    ]
    for name in behind[3:4]:
        rules += [
            Rule(rf'{name}\.{field}', (Target('params', f'semantic_head/predict/{field}'),))
            for field in ('kernel', 'bias')
        ]
    return tuple(rules)


def _swap_halves(kernel: np.ndarray) -> np.ndarray:
    pooled, near = np.split(kernel, 2, axis=2)
    return np.concatenate([near, pooled], axis=2)


SOURCE = Source(
    name='tensorflow',
    make_rules=_make_rules,
    presets=(
        'tensorflow/deeplab_v3_mobilenet_v2_os16',
        'tensorflow/deeplab_v3plus_xception65_os16',
        'tensorflow/deeplab_v3plus_xception71_dpc_os16',
        'tensorflow/lr_aspp_mobilenet_v3_large_os32',
        'tensorflow/lr_aspp_mobilenet_v3_small_os32',
    ),
    backbones={
        **{
            f'xception{depth}': ({'norm_epsilon': 1e-3, 'normalization': 'unit'},)
            for depth in (41, 65, 71)
        },
        **{
            f'resnet{depth}_beta': (
                {'norm_epsilon': 1e-5, 'normalization': 'unit', 'stride_convention': 'slim'},
            )
            for depth in (50, 101)
        },
        'mobilenet_v2': (
            {'norm_epsilon': 1e-3, 'backbone_padding': 'same', 'normalization': 'unit'},
        ),
    },
)
