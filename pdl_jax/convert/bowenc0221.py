"""Weights of bowenc0221/panoptic-deeplab, and the ImageNet weights of its Xception and HRNet."""

from collections.abc import Collection, Sequence

from pdl_jax.convert.layers import torch_conv, torch_conv_norm
from pdl_jax.convert.rules import Rule, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.convert.torchvision import make_backbone_rules
from pdl_jax.models.options import ModelOptions

# Xception's blocks are numbered through: 3 in the entry flow, 16 in the middle, 2 in the exit.
_XCEPTION_NAMES = {
    **{i: f'entry_block{i}' for i in range(1, 4)},
    **{i: f'middle_block{i - 3}' for i in range(4, 20)},
    **{i: f'exit_block{i - 19}' for i in range(20, 22)},
}


def _make_xception() -> tuple[Rule, ...]:
    rules: list[Rule] = [*torch_conv_norm(r'conv([12])', r'bn([12])', 'stem_{1}')]
    for i, name in _XCEPTION_NAMES.items():
        block = rf'block{i}\.'
        rules += [
            *torch_conv_norm(rf'{block}conv', rf'{block}bn', f'{name}/shortcut'),
            *torch_conv_norm(
                rf'{block}sep_conv(\d)\.block\.depthwise',
                rf'{block}sep_conv(\d)\.block\.bn_depth',
                f'{name}/separable_conv{{1}}_depthwise',
            ),
            *torch_conv_norm(
                rf'{block}sep_conv(\d)\.block\.pointwise',
                rf'{block}sep_conv(\d)\.block\.bn_point',
                f'{name}/separable_conv{{1}}_pointwise',
            ),
        ]
    return tuple(rules)


_HRNET = (
    *torch_conv_norm(r'conv([12])', r'bn([12])', 'stem_{1}'),
    *torch_conv_norm(
        r'layer1\.(\d+)\.conv(\d)', r'layer1\.(\d+)\.bn(\d)', 'stage1_block{1+1}/conv{2}'
    ),
    *torch_conv_norm(
        r'layer1\.(\d+)\.downsample\.0',
        r'layer1\.(\d+)\.downsample\.1',
        'stage1_block{1+1}/shortcut',
    ),
    # The first rule is for existing branches, the second for a new one, which strides.
    *torch_conv_norm(
        r'transition(\d)\.(\d)\.0', r'transition(\d)\.(\d)\.1', 'transition{1}_branch{2+1}'
    ),
    *torch_conv_norm(
        r'transition(\d)\.(\d)\.0\.0', r'transition(\d)\.(\d)\.0\.1', 'transition{1}_branch{2+1}'
    ),
    *torch_conv_norm(
        r'stage(\d)\.(\d+)\.branches\.(\d)\.(\d+)\.conv(\d)',
        r'stage(\d)\.(\d+)\.branches\.(\d)\.(\d+)\.bn(\d)',
        'stage{1}_module{2+1}/branch{3+1}_block{4+1}/conv{5}',
    ),
    # Keys name the target branch before the source. Fusion into a finer branch has one convolution,
    # into a coarser one a convolution per factor of two.
    *torch_conv_norm(
        r'stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.0',
        r'stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.1',
        'stage{1}_module{2+1}/fusion{4+1}to{3+1}',
    ),
    *torch_conv_norm(
        r'stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.(\d)\.0',
        r'stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.(\d)\.1',
        'stage{1}_module{2+1}/fusion{4+1}to{3+1}_conv{5+1}',
    ),
)

# Published backbones were trained as classifiers.
_CLASSIFIERS = ignore(
    r'(fc|classifier|incre_modules|downsamp_modules|final_layer)\..*',
    'belongs to the classifier, which a segmentation network does not have',
)


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
    # Backbone-only files lack the prefix.
    prefix = r'(?:backbone\.)?'
    tables = {'xception65': _make_xception(), 'hrnet': _HRNET}
    rules = [
        under(table, keys=prefix, path='backbone')
        for name, table in tables.items()
        if options.backbone.name.startswith(name)
    ]
    return (
        *(rules[0] if rules else make_backbone_rules(options.backbone.name, prefix)),
        *_make_decoder('semantic', options.skip_strides),
        *_make_decoder('instance', options.skip_strides),
        *_make_head('semantic', 'semantic'),
        *_make_head('instance', 'center'),
        *_make_head('instance', 'offset'),
        _CLASSIFIERS,
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
