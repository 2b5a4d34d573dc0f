"""Weights of torchvision: its ImageNet classifiers, as backbones, and its semantic networks.

Other PyTorch programs use its ResNets and MobileNetV2, so the rules are shared with them.
"""

import dataclasses
from collections.abc import Collection

from pdl_jax.convert.layers import torch_conv, torch_conv_norm, torch_dense, torch_norm
from pdl_jax.convert.rules import Rule, Target, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions

RESNET_UNITS = torch_conv_norm(
    r'layer(\d)\.(\d+)\.conv(\d)',
    r'layer(\d)\.(\d+)\.bn(\d)',
    'stage{1+1}_block{2+1}/conv{3}',
)
RESNET = (
    *torch_conv_norm('conv1', 'bn1', 'stem'),
    *RESNET_UNITS,
    *torch_conv_norm(
        r'layer(\d)\.(\d+)\.downsample\.0',
        r'layer(\d)\.(\d+)\.downsample\.1',
        'stage{1+1}_block{2+1}/shortcut',
    ),
)

# The first block has no expansion, so its parts are numbered differently.
MOBILENET_V2 = (
    *torch_conv_norm(r'features\.0\.0', r'features\.0\.1', 'stem'),
    *torch_conv_norm(r'features\.1\.conv\.0\.0', r'features\.1\.conv\.0\.1', 'block_0/depthwise'),
    *torch_conv_norm(r'features\.1\.conv\.1', r'features\.1\.conv\.2', 'block_0/project'),
    *torch_conv_norm(
        r'features\.(\d+)\.conv\.0\.0', r'features\.(\d+)\.conv\.0\.1', 'block_{1-1}/expand'
    ),
    *torch_conv_norm(
        r'features\.(\d+)\.conv\.1\.0', r'features\.(\d+)\.conv\.1\.1', 'block_{1-1}/depthwise'
    ),
    *torch_conv_norm(
        r'features\.(\d+)\.conv\.2', r'features\.(\d+)\.conv\.3', 'block_{1-1}/project'
    ),
    ignore(
        r'features\.18\..*', 'belongs to the classifier, which a segmentation network does not have'
    ),
)

# The parts of a block are numbered: expansion (not in the first block), depthwise,
# squeeze-and-excite (not in all), projection.
MOBILENET_V3 = (
    *torch_conv_norm(r'features\.0\.0', r'features\.0\.1', 'stem'),
    *torch_conv_norm(r'features\.1\.block\.0\.0', r'features\.1\.block\.0\.1', 'block_0/depthwise'),
    *torch_conv_norm(
        r'features\.1\.block\.[12]\.0', r'features\.1\.block\.[12]\.1', 'block_0/project'
    ),
    *torch_conv_norm(
        r'features\.(\d+)\.block\.0\.0', r'features\.(\d+)\.block\.0\.1', 'block_{1-1}/expand'
    ),
    *torch_conv_norm(
        r'features\.(\d+)\.block\.1\.0', r'features\.(\d+)\.block\.1\.1', 'block_{1-1}/depthwise'
    ),
    *torch_conv(r'features\.(\d+)\.block\.[12]\.fc1', 'block_{1-1}/squeeze_excite/reduce'),
    *torch_conv(r'features\.(\d+)\.block\.[12]\.fc2', 'block_{1-1}/squeeze_excite/expand'),
    *torch_conv_norm(
        r'features\.(\d+)\.block\.[23]\.0',
        r'features\.(\d+)\.block\.[23]\.1',
        'block_{1-1}/project',
    ),
    *torch_conv_norm(r'features\.\d+\.0', r'features\.\d+\.1', 'last_conv'),
)


def _make_convnext() -> tuple[Rule, ...]:
    rules: list[Rule] = [
        *torch_conv(r'features\.0\.0', 'stem'),
        *torch_norm(r'features\.0\.1', 'stem_norm'),
    ]
    for stage in range(1, 5):
        if stage > 1:
            pattern, path = rf'features\.{2 * stage - 2}', f'stage{stage}_downsampling'
            rules += [
                *torch_norm(rf'{pattern}\.0', f'{path}/norm'),
                *torch_conv(rf'{pattern}\.1', f'{path}/conv'),
            ]
        pattern, path = rf'features\.{2 * stage - 1}\.(\d+)', f'stage{stage}_block{{1+1}}'
        rules += [
            *torch_conv(rf'{pattern}\.block\.0', f'{path}/depthwise'),
            *torch_norm(rf'{pattern}\.block\.2', f'{path}/norm'),
            *torch_dense(rf'{pattern}\.block\.3', f'{path}/expand'),
            *torch_dense(rf'{pattern}\.block\.5', f'{path}/project'),
            Rule(
                rf'{pattern}\.layer_scale',
                (Target('params', f'{path}/layer_scale', lambda x: x.reshape(-1)),),
            ),
        ]
    return tuple(rules)


# The index of each convolution in the sequence of convolutions, ReLUs and pools.
_VGG16_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
VGG16 = tuple(
    rule
    for stage, indices in enumerate(_VGG16_STAGES, 1)
    for i, index in enumerate(indices, 1)
    for rule in torch_conv(rf'features\.{index}', f'stage{stage}_conv{i}')
)

CONVNEXT = _make_convnext()

_CLASSIFIER = ignore(
    r'(fc|classifier)\..*', 'belongs to the classifier, which a segmentation network does not have'
)
_AUXILIARY = ignore(r'aux_classifier\..*', 'belongs to an auxiliary head, which only training uses')


def _make_deeplab_v3() -> tuple[Rule, ...]:
    aspp = 'semantic_decoder/aspp'
    return (
        *torch_conv_norm(
            r'classifier\.0\.convs\.0\.0', r'classifier\.0\.convs\.0\.1', f'{aspp}/branch_0'
        ),
        *torch_conv_norm(
            r'classifier\.0\.convs\.([123])\.0',
            r'classifier\.0\.convs\.([123])\.1',
            f'{aspp}/branch_{{1}}',
        ),
        *torch_conv_norm(
            r'classifier\.0\.convs\.4\.1', r'classifier\.0\.convs\.4\.2', f'{aspp}/pool'
        ),
        *torch_conv_norm(
            r'classifier\.0\.project\.0', r'classifier\.0\.project\.1', f'{aspp}/project'
        ),
        *torch_conv_norm(r'classifier\.1', r'classifier\.2', 'semantic_head/fuse'),
        *torch_conv(r'classifier\.4', 'semantic_head/predict'),
    )


def _make_lr_aspp() -> tuple[Rule, ...]:
    decoder = 'semantic_decoder'
    return (
        *torch_conv_norm(r'classifier\.cbr\.0', r'classifier\.cbr\.1', f'{decoder}/project'),
        *torch_conv(r'classifier\.scale\.1', f'{decoder}/gate'),
        *torch_conv(r'classifier\.low_classifier', f'{decoder}/predict_stride8'),
        *torch_conv(r'classifier\.high_classifier', f'{decoder}/predict_last'),
    )


def make_backbone_rules(backbone: str, keys: str = '') -> tuple[Rule, ...]:
    """Makes the rules of a backbone.

    Args:
      backbone: our name of the backbone.
      keys: regex without capturing groups for the prefix of all keys.

    Returns:
      The rules; none for a backbone that torchvision does not have.
    """
    tables = {
        'resnet': RESNET,
        'resnext': RESNET,
        'wide_resnet': RESNET,
        'mobilenet_v2': MOBILENET_V2,
        'mobilenet_v3': MOBILENET_V3,
        'convnext': CONVNEXT,
        'vgg16': VGG16,
    }
    for family, rules in tables.items():
        if backbone.startswith(family):
            return under(rules, keys=keys, path='backbone')
    return ()


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    is_whole = any(key.startswith('backbone.') for key in keys)
    if not is_whole:
        return (*make_backbone_rules(options.backbone.name), _CLASSIFIER)
    # In segmentation networks, layers of MobileNetV3 are numbered without 'features'.
    rules = make_backbone_rules(options.backbone.name)
    rules = tuple(
        dataclasses.replace(rule, pattern=rule.pattern.removeprefix(r'features\.'))
        for rule in rules
    )
    head = _make_lr_aspp() if options.decoder == 'lr_aspp' else _make_deeplab_v3()
    return (*under(rules, keys=r'backbone\.'), *head, _AUXILIARY)


_RESNET_FIELDS = {
    'norm_epsilon': 1e-5,
    'normalization': 'imagenet',
    'stride_convention': 'torchvision',
}

SOURCE = Source(
    name='torchvision',
    make_rules=_make_rules,
    presets=tuple(
        f'torchvision/{name}'
        for name in (
            'deeplab_v3_resnet50_os8',
            'deeplab_v3_resnet101_os8',
            'deeplab_v3_mobilenet_v3_large_os16',
            'lr_aspp_mobilenet_v3_large_os16',
        )
    ),
    backbones={
        **{f'resnet{depth}': (_RESNET_FIELDS,) for depth in (18, 34, 50, 101, 152)},
        **{f'resnext{size}': (_RESNET_FIELDS,) for size in ('50_32x4d', '101_32x8d', '101_64x4d')},
        **{f'wide_resnet{depth}_2': (_RESNET_FIELDS,) for depth in (50, 101)},
        'mobilenet_v2': ({'norm_epsilon': 1e-5, 'normalization': 'imagenet'},),
        'vgg16': ({'normalization': 'imagenet', 'stride_convention': 'torchvision'},),
        **{
            f'mobilenet_v3_{size}': (
                {
                    'norm_epsilon': 1e-3,
                    'normalization': 'imagenet',
                    'stride_convention': 'torchvision',
                    'squeeze_excite_gate': 'hard_sigmoid',
                },
            )
            for size in ('small', 'large')
        },
        **{
            f'convnext_{size}': ({'normalization': 'imagenet'},)
            for size in ('tiny', 'small', 'base', 'large')
        },
    },
)
