"""ResNets of Caffe2's Detectron as detectron2 publishes them for ImageNet (MSRA's R-50.pkl).

They take pixels in the order blue, green, red; the kernel of the stem is turned to red, green, blue
here. Those of MSRA divide pixels by no deviation, stride in the first convolution of a bottleneck,
and have a scale and a bias in the place of BatchNorm.
"""

from collections.abc import Collection

import numpy as np

from pdl_jax.convert.layers import from_oihw
from pdl_jax.convert.rules import Rule, Target, ignore
from pdl_jax.models.options import ModelOptions

MSRA_FIELDS = {
    'norm_epsilon': 1e-5,
    'normalization': 'given',
    'pixel_mean': (123.675, 116.28, 103.53),
    'pixel_deviation': (1.0, 1.0, 1.0),
    'stride_convention': 'msra',
}
_BRANCHES = {'1': 'shortcut', '2a': 'conv1', '2b': 'conv2', '2c': 'conv3'}


def has_names(keys: Collection[str]) -> bool:
    """Whether the keys of a file are those of Caffe2."""
    return 'conv1_w' in keys


def make_resnet(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    """Makes the rules of a ResNet with a stem of one convolution.

    Args:
      options: those of the network; a BatchNorm without statistics gets a mean of 0 and a variance
        that is 1 with epsilon.
      keys: those of the file, which has statistics of BatchNorm or has none.
    """
    is_msra = options.backbone.stride_convention == 'msra'
    has_statistics = any(key.endswith('_bn_rm') for key in keys)
    # Nothing but these two facts tells the arrangements apart.
    if is_msra == has_statistics:
        return ()
    epsilon = options.backbone.norm_epsilon
    rules = [
        Rule('conv1_w', (Target('params', 'stem/conv/kernel', _from_bgr),)),
        *_make_norm('res_conv1_bn', 'stem/norm', epsilon, has_statistics),
    ]
    for branch, path in _BRANCHES.items():
        name = rf'res(\d)_(\d+)_branch{branch}'
        unit = f'stage{{1}}_block{{2+1}}/{path}'
        rules.append(Rule(f'{name}_w', (Target('params', f'{unit}/conv/kernel', from_oihw),)))
        rules += _make_norm(f'{name}_bn', f'{unit}/norm', epsilon, has_statistics)
    return (
        *rules,
        ignore(
            'conv1_b', 'a bias of the stem that BatchNorm follows; detectron2 leaves it out too'
        ),
        ignore('.*_momentum', 'a variable of the optimiser'),
        ignore(
            r'(fc|pred)\w*_[wb]',
            'belongs to the classifier, which a segmentation network does not have',
        ),
    )


def _make_norm(name: str, path: str, epsilon: float, has_statistics: bool) -> tuple[Rule, ...]:
    scale = Target('params', f'{path}/scale')
    bias = Rule(f'{name}_b', (Target('params', f'{path}/bias'),))
    if has_statistics:
        return (
            Rule(f'{name}_s', (scale,)),
            bias,
            Rule(f'{name}_rm', (Target('batch_stats', f'{path}/mean'),)),
            Rule(f'{name}_riv', (Target('batch_stats', f'{path}/var'),)),
        )
    mean = Target('batch_stats', f'{path}/mean', np.zeros_like)
    var = Target('batch_stats', f'{path}/var', lambda x: np.full_like(x, 1 - epsilon))
    return Rule(f'{name}_s', (scale, mean, var)), bias


def _from_bgr(x: np.ndarray) -> np.ndarray:
    """Returns the kernel [h, w, I, O] for RGB of [O, I, h, w] for BGR."""
    return from_oihw(x[:, ::-1])
