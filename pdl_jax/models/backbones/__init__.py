"""Backbones by name: each maps an image to features at strides 4, 8 and its output stride."""

import functools

from pdl_jax.models.backbones.mobilenet_v2 import MobileNetV2
from pdl_jax.models.backbones.resnet import ResNet

BACKBONES = {
    'resnet50': functools.partial(ResNet, block_counts=(3, 4, 6, 3)),
    'resnet50_beta': functools.partial(ResNet, block_counts=(3, 4, 6, 3), stem='beta'),
    'mobilenet_v2': MobileNetV2,
}


def make_backbone(backbone: str, **attributes):
    """Makes the backbone called `backbone`; `attributes` override its own.

    Raises:
      ValueError: no backbone has that name.
    """
    if backbone not in BACKBONES:
        raise ValueError(f'model.backbone {backbone!r} is unknown; choose one of {sorted(BACKBONES)}')
    return BACKBONES[backbone](**attributes)
