"""Backbones by name: each maps an image to features at strides 4, 8, ... and its output stride.

To add one, write a file here with such a module, and add a line to `BACKBONES`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn

from pdl_jax.models.backbones.axial_resnet import AxialResNet
from pdl_jax.models.backbones.cifar_resnet import CifarResNet
from pdl_jax.models.backbones.convnext import ConvNeXt
from pdl_jax.models.backbones.hrnet import HRNet
from pdl_jax.models.backbones.mobile_blocks import MobileBlocks
from pdl_jax.models.backbones.mobilenet_v2 import MobileNetV2
from pdl_jax.models.backbones.mobilenet_v3 import MobileNetV3
from pdl_jax.models.backbones.preactivation_resnet import PreactivationResNet
from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.backbones.vgg import VGG16
from pdl_jax.models.backbones.wide_resnet import WideResNet
from pdl_jax.models.backbones.xception import Xception
from pdl_jax.runtime.own_code import find_own_code
from pdl_jax.typing import suggest

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    'resnet18': functools.partial(ResNet, block_counts=(2, 2, 2, 2), block='basic'),
    'resnet34': functools.partial(ResNet, block_counts=(3, 4, 6, 3), block='basic'),
    'resnet50': functools.partial(ResNet, block_counts=(3, 4, 6, 3)),
    'resnet101': functools.partial(ResNet, block_counts=(3, 4, 23, 3)),
    'resnet152': functools.partial(ResNet, block_counts=(3, 8, 36, 3)),
    'resnet50_v2': functools.partial(PreactivationResNet, block_counts=(3, 4, 6, 3)),
    'resnet101_v2': functools.partial(PreactivationResNet, block_counts=(3, 4, 23, 3)),
    'cifar_resnet32': functools.partial(CifarResNet, units_per_stage=5),
    'cifar_resnet110': functools.partial(CifarResNet, units_per_stage=18),
    **{
        f'resnet{depth}d': functools.partial(
            ResNet, block_counts=(3, 4, third, 3), stem='deep', shortcut='averaged'
        )
        for depth, third in ((50, 6), (101, 23))
    },
    'resnet50_beta': functools.partial(ResNet, block_counts=(3, 4, 6, 3), stem='beta'),
    'resnet101_beta': functools.partial(ResNet, block_counts=(3, 4, 23, 3), stem='beta'),
    **{
        name: functools.partial(
            ResNet, block_counts=(3, 4, third, 3), groups=groups, width_per_group=width
        )
        for name, third, groups, width in (
            ('resnext50_32x4d', 6, 32, 4),
            ('resnext101_32x8d', 23, 32, 8),
            ('resnext101_64x4d', 23, 64, 4),
            ('wide_resnet50_2', 6, 1, 128),
            ('wide_resnet101_2', 23, 1, 128),
        )
    },
    **{
        f'axial_resnet_{size}': functools.partial(
            AxialResNet, block_counts=(3, 4, 6, 3), stage_width_multiplier=multiplier
        )
        for size, multiplier in (('s', 0.5), ('m', 0.75), ('l', 1.0))
    },
    **{
        # MaX-DeepLab's, and the one of kMaX-DeepLab.
        f'max_s{suffix}': functools.partial(
            AxialResNet,
            block_counts=(3, 4, 6, 3),
            stem='beta',
            activation=activation,
            axial_from_stride=16,
        )
        for suffix, activation in (('', 'relu'), ('_gelu', 'gelu'))
    },
    'vgg16': VGG16,
    'wide_resnet41': WideResNet,
    'swidernet_1_1_3': functools.partial(WideResNet, depth_multiplier=3),
    'swidernet_1_1_4.5': functools.partial(WideResNet, depth_multiplier=4.5),
    'swidernet_sac_1_1_1': functools.partial(WideResNet, sac_from_stride=32),
    'swidernet_sac_1_1_3': functools.partial(WideResNet, sac_from_stride=32, depth_multiplier=3),
    'swidernet_sac_1_1_4.5': functools.partial(
        WideResNet, sac_from_stride=32, depth_multiplier=4.5
    ),
    **{
        f'axial_swidernet_1_1_{depth:g}': functools.partial(
            WideResNet, axial_from_stride=16, depth_multiplier=depth
        )
        for depth in (1, 3, 4.5)
    },
    'xception41': functools.partial(Xception, depth=41),
    'xception65': functools.partial(Xception, depth=65),
    'xception71': functools.partial(Xception, depth=71),
    'mobile_blocks': MobileBlocks,
    'mobilenet_v2': MobileNetV2,
    'mobilenet_v2_5x5': functools.partial(MobileNetV2, kernel_size=5),
    'mobilenet_v3_large': functools.partial(MobileNetV3, size='large'),
    'mobilenet_v3_small': functools.partial(MobileNetV3, size='small'),
    'mobilenet_v3_large_seg': functools.partial(MobileNetV3, size='large', variant='seg'),
    'mobilenet_v3_small_seg': functools.partial(MobileNetV3, size='small', variant='seg'),
    'mobilenet_v3_large_minimalistic': functools.partial(
        MobileNetV3, size='large', variant='minimalistic'
    ),
    'mobilenet_v3_small_minimalistic': functools.partial(
        MobileNetV3, size='small', variant='minimalistic'
    ),
    'hrnet_w18': functools.partial(HRNet, width=18),
    'hrnet_w32': functools.partial(HRNet, width=32),
    'hrnet_w48': functools.partial(HRNet, width=48),
    'convnext_tiny': functools.partial(
        ConvNeXt, block_counts=(3, 3, 9, 3), widths=(96, 192, 384, 768)
    ),
    'convnext_small': functools.partial(
        ConvNeXt, block_counts=(3, 3, 27, 3), widths=(96, 192, 384, 768)
    ),
    'convnext_base': functools.partial(
        ConvNeXt, block_counts=(3, 3, 27, 3), widths=(128, 256, 512, 1024)
    ),
    'convnext_large': functools.partial(
        ConvNeXt, block_counts=(3, 3, 27, 3), widths=(192, 384, 768, 1536)
    ),
}


def make_backbone(backbone: str, **attributes: Any) -> nn.Module:
    """Makes a backbone.

    Args:
      backbone: a key of `BACKBONES`, or 'module:function' of the user's own code, which is called
        with `name` and the attributes that are set, and returns a module.
      **attributes: attributes that override those of `BACKBONES`; None keeps one.

    Raises:
      ValueError: `BACKBONES` has no such key, or the backbone has no such attribute.
    """
    if ':' in backbone:
        return _make_own_backbone(backbone, attributes)
    if backbone not in BACKBONES:
        raise ValueError(
            f'model.backbone {backbone!r} is unknown; {suggest(backbone, BACKBONES)}choose one of '
            f'{", ".join(sorted(BACKBONES))}'
        )
    make = BACKBONES[backbone]
    attributes = {key: value for key, value in attributes.items() if value is not None}
    family = cast(Any, make.func if isinstance(make, functools.partial) else make)
    known = {field.name for field in dataclasses.fields(family)}
    for key, value in attributes.items():
        if key not in known:
            raise ValueError(
                f'model.{key} (={value!r}) does not apply to model.backbone {backbone!r}, which '
                f'has {sorted(known - {"parent", "name", "options"})}: leave it unset'
            )
    return make(**attributes)


def _make_own_backbone(backbone: str, attributes: Mapping[str, Any]) -> nn.Module:
    make = find_own_code('model.backbone', backbone)
    given = {key: x for key, x in attributes.items() if x is not None or key == 'name'}
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        raise ValueError(
            f'model.backbone {backbone!r} is called with {", ".join(given)}: {error}'
        ) from error
    module = make(**given)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f'model.backbone {backbone!r} returned a {type(module).__name__}: return a flax module '
            f'that maps f32[B, H, W, C] to a dict of features'
        )
    return module
