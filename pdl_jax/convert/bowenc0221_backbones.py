"""Layers of Xception-65 and HRNet as bowenc0221 and the authors of their weights name them.

detectron2 programs that take these backbones over, and timm's HRNets, have the same names.
"""

from pdl_jax.convert import torchvision
from pdl_jax.convert.layers import torch_conv_norm
from pdl_jax.convert.rules import Rule, ignore, under

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


HRNET = (
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
CLASSIFIERS = ignore(
    r'(fc|classifier|incre_modules|downsamp_modules|final_layer)\..*',
    'belongs to the classifier, which a segmentation network does not have',
)


def make_backbone_rules(backbone: str, keys: str = '') -> tuple[Rule, ...]:
    """Makes the rules of a backbone, see `torchvision.make_backbone_rules`."""
    if backbone.startswith('xception65'):
        return under(_make_xception(), keys=keys, path='backbone')
    if backbone.startswith('hrnet'):
        return under(HRNET, keys=keys, path='backbone')
    return torchvision.make_backbone_rules(backbone, keys)
