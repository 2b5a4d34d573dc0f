"""The classifiers that backbones are pretrained as, 'imagenet/' and the backbone."""

from typing import Any

from pdl_jax.models.backbones import BACKBONES
from pdl_jax.presets.preset import CLASSIFICATION_SYSTEM, Preset

_CLASSIFIER = {
    'has_instances': False,
    'decoder': 'classifier',
    'output_stride': 32,
    'normalization': 'imagenet',
    'resize': 'half_pixel',
    'dropout_rate': 0.0,
}


def _make_classifier(backbone: str) -> dict[str, Any]:
    """Returns the fields of torchvision, where it has this backbone, or of the authors."""
    fields = {**_CLASSIFIER, 'backbone': backbone}
    if backbone.startswith(('resnet', 'resnext', 'wide_resnet50', 'wide_resnet101')):
        fields |= {'stride_convention': 'torchvision', 'norm_epsilon': 1e-5}
        if backbone.endswith('_v2'):
            # Of the max-pool; see PreactivationResNet.
            fields['backbone_padding'] = 'same'
    if backbone.startswith('cifar_resnet'):
        fields |= {'output_stride': 4, 'norm_epsilon': 1e-3, 'norm_momentum': 0.9}
    if backbone.startswith('hrnet'):
        fields |= {'upsampling': 'nearest', 'norm_epsilon': 1e-5}
    if backbone.startswith('vgg'):
        fields |= {'stride_convention': 'torchvision', 'dropout_rate': 0.5}
    if backbone.startswith('mobilenet'):
        fields |= {'dropout_rate': 0.2}
    return fields


CLASSIFIER_PRESETS: dict[str, Preset] = {
    f'imagenet/{name}': Preset(CLASSIFICATION_SYSTEM, _make_classifier(name)) for name in BACKBONES
}
