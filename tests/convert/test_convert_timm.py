"""Encoders of timm: ResNet-D against PyTorch, the others against the same under other names."""

import sys
import types

import jax
import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.model_backbone import make_model_backbone
from tests.convert import parity
from tests.convert.compiling import run_fast
from tests.convert.torch_networks import HRNet, ResNetD, draw_image, draw_weights, torch

# See `test_convert_torchvision`.
sys.modules.setdefault(
    'torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations')
)
torchvision = pytest.importorskip('torchvision')


def list_shapes(network):
    return {
        key: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
        for key, x in network.state_dict().items()
    }


@pytest.mark.parametrize(('name', 'third'), [('resnet50d', 6), ('resnet101d', 23)])
def test_resnet_d_is_found_by_its_keys(name, third):
    with torch.device('meta'):
        network = ResNetD((3, 4, third, 3))
    conversion = guess_network(Contents(list_shapes(network)), SOURCES['timm'])
    assert conversion.network.name == f'imagenet/{name}' and conversion.is_backbone_only


@pytest.mark.slow
def test_features_of_resnet_d_equal_those_of_pytorch():
    network = draw_weights(ResNetD())
    conversion, variables = parity.convert_arrays(parity.get_arrays(network), 'timm')
    module = make_model_backbone(conversion.network.options)
    backbone = {key: value['backbone'] for key, value in variables.items()}
    # Sizes of maps that averages of 2x2 do not divide.
    image = draw_image((33, 72))
    features = run_fast(
        lambda variables, x: module.apply(variables, x, train=False),
        backbone,
        image.numpy().transpose(0, 2, 3, 1),
    )
    with torch.no_grad():
        expected = network(image)
    for stride, value in zip((4, 8, 16, 32), expected, strict=True):
        reference = value.numpy().transpose(0, 2, 3, 1)
        tolerance = 1e-4 * np.sqrt(np.mean(reference**2))
        np.testing.assert_allclose(features[f'stride{stride}'], reference, rtol=0, atol=tolerance)


# Blocks of timm's stages.
STAGES = {'large': (1, 2, 3, 4, 2, 3), 'small': (1, 2, 3, 2, 3)}


def rename_mobilenet(network, size):
    """Yields the names of torchvision's layers and those of timm's."""
    yield 'features.0', ('conv_stem', 'bn1')
    places = [(s, i) for s, count in enumerate(STAGES[size]) for i in range(count)]
    for b, (stage, i) in enumerate(places, 1):
        layers = list(network.features[b].block)
        is_gated = type(layers[-2]).__name__ == 'SqueezeExcitation'
        parts = ['conv_dw', *(['se'] if is_gated else []), 'conv_pwl']
        if len(layers) > len(parts):
            parts = ['conv_pw', *parts]
        else:
            # The first block, which has no expansion, calls its projection the pointwise one.
            parts[-1] = 'conv_pw'
        norms = iter(('bn1', 'bn2', 'bn3'))
        for j, part in enumerate(parts):
            name = f'blocks.{stage}.{i}.'
            ours = f'features.{b}.block.{j}'
            if part == 'se':
                yield f'{ours}.fc1', (f'{name}se.conv_reduce',)
                yield f'{ours}.fc2', (f'{name}se.conv_expand',)
            else:
                yield ours, (f'{name}{part}', f'{name}{next(norms)}')
    last = f'blocks.{len(STAGES[size])}.0'
    yield f'features.{len(places) + 1}', (f'{last}.conv', f'{last}.bn1')


@pytest.mark.parametrize('size', STAGES)
def test_mobilenets_are_those_of_torchvision(size):
    network = getattr(torchvision.models, f'mobilenet_v3_{size}')(weights=None)
    arrays = parity.get_arrays(network)
    _, expected = parity.convert_arrays(arrays, 'torchvision')
    renamed = {'conv_head.weight': np.zeros((1280, 960, 1, 1), np.float32)}
    for ours, theirs in rename_mobilenet(network, size):
        for i, name in enumerate(theirs):
            prefix = f'{ours}.{i}.' if len(theirs) > 1 else f'{ours}.'
            renamed |= {
                f'{name}.{key.removeprefix(prefix)}': value
                for key, value in arrays.items()
                if key.startswith(prefix)
            }
    conversion, found = parity.convert_arrays(renamed, 'timm')
    assert conversion.network.name == f'imagenet/mobilenet_v3_{size}'
    # Its BatchNorm is PyTorch's, torchvision's that of TensorFlow.
    assert conversion.network.options.backbone.norm_epsilon == 1e-5
    parity.check_equal(found, expected)


@pytest.mark.slow
def test_hrnets_have_the_names_of_their_authors():
    arrays = parity.get_arrays(HRNet())
    _, expected = parity.convert_arrays(arrays, 'bowenc0221')
    head = {'incre_modules.0.0.bn1.weight', 'final_layer.0.weight', 'classifier.weight'}
    arrays |= {key: np.zeros(1, np.float32) for key in head}
    conversion, found = parity.convert_arrays(arrays, 'timm')
    assert conversion.network.name == 'imagenet/hrnet_w48'
    assert conversion.network.options.backbone.upsampling == 'nearest'
    assert set().union(*conversion.account.ignored.values()) >= head
    parity.check_equal(found, expected)
