"""Backbones and semantic networks of torchvision give the same outputs as in PyTorch."""

import sys
import types

import jax
import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.model_backbone import make_model_backbone
from tests.convert import parity
from tests.convert.compiling import run_fast
from tests.convert.torch_networks import draw_image, draw_weights, torch

# The module declares box operators, whose library needs the CUDA version it was built for. None of
# the networks uses them.
sys.modules.setdefault(
    'torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations')
)
torchvision = pytest.importorskip('torchvision')


def read_resnet_features(network, x):
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    features = {}
    for i in range(1, 5):
        x = getattr(network, f'layer{i}')(x)
        features[f'stride{2 ** (i + 1)}'] = x
    return {**features, 'last': x}


def read_mobilenet_v2_features(network, x):
    features = {}
    for i, layer in enumerate(network.features[:18]):
        x = layer(x)
        features |= {
            3: {'stride4': x},
            6: {'stride8': x},
            13: {'stride16': x},
            17: {'stride32': x},
        }.get(i, {})
    return {**features, 'last': x}


def read_last(network, x):
    return {'last': network.features(x)}


def read_convnext_features(network, x):
    features = {}
    for i, layer in enumerate(network.features):
        x = layer(x)
        if i % 2:
            features[f'stride{2 ** ((i + 1) // 2 + 1)}'] = x
    return {**features, 'last': x}


BACKBONES = {
    'resnet18': (read_resnet_features, (33, 65)),
    'resnet50': (read_resnet_features, (32, 64)),
    'resnet101': (read_resnet_features, (33, 65)),
    # Without its classifier of 124 million parameters, see below.
    'vgg16': (read_last, (65, 97)),
    'resnext50_32x4d': (read_resnet_features, (32, 64)),
    'mobilenet_v2': (read_mobilenet_v2_features, (64, 96)),
    'mobilenet_v3_large': (read_last, (65, 97)),
    'mobilenet_v3_small': (read_last, (64, 96)),
    # PyTorch drops pixels at sizes that its strides do not divide.
    'convnext_tiny': (read_convnext_features, (64, 96)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_features_equal_those_of_pytorch(name):
    read_features, size = BACKBONES[name]
    network = getattr(torchvision.models, name)(weights=None)
    if name == 'vgg16':
        network.classifier = torch.nn.Identity()
    draw_weights(network)
    conversion, variables = parity.convert_arrays(parity.get_arrays(network), 'torchvision')
    assert conversion.network.name == f'imagenet/{name}' and conversion.is_backbone_only
    module = make_model_backbone(conversion.network.options)
    backbone = {key: value['backbone'] for key, value in variables.items() if value}
    image = draw_image(size)
    features = run_fast(
        lambda variables, x: module.apply(variables, x, train=False),
        backbone,
        image.numpy().transpose(0, 2, 3, 1),
    )
    with torch.no_grad():
        expected = read_features(network, image)
    for key, value in expected.items():
        reference = value.numpy().transpose(0, 2, 3, 1)
        tolerance = 1e-4 * np.sqrt(np.mean(reference**2))
        np.testing.assert_allclose(features[key], reference, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'arguments', 'preset'),
    [
        ('deeplabv3_resnet50', {'aux_loss': True}, 'torchvision/deeplab_v3_resnet50_os8'),
        (
            'deeplabv3_mobilenet_v3_large',
            {'aux_loss': True},
            'torchvision/deeplab_v3_mobilenet_v3_large_os16',
        ),
        ('lraspp_mobilenet_v3_large', {}, 'torchvision/lr_aspp_mobilenet_v3_large_os16'),
    ],
)
def test_logits_equal_those_of_pytorch(name, arguments, preset):
    network = getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, **arguments
    )
    draw_weights(network)
    conversion, variables = parity.convert_arrays(parity.get_arrays(network), 'torchvision')
    assert conversion.network.name == preset
    model = DeepLab(conversion.num_classes, conversion.network.options)
    image = draw_image((65, 97))
    outputs = run_fast(
        lambda variables, x: model.upsample(model.apply(variables, x), (65, 97)),
        variables,
        image.numpy().transpose(0, 2, 3, 1),
    )
    with torch.no_grad():
        reference = network(image)['out'].numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs['semantic'], reference, rtol=0, atol=1e-4 * reference.std())


def guess_by_shapes(make):
    """Finds the network of a program that is built without values."""
    with torch.device('meta'):
        network = make()
    arrays = {
        key: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
        for key, x in network.state_dict().items()
    }
    return guess_network(Contents(arrays), SOURCES['torchvision'])


@pytest.mark.parametrize(
    'name',
    [
        'resnet34',
        'resnet152',
        'resnext101_32x8d',
        'resnext101_64x4d',
        'wide_resnet50_2',
        'wide_resnet101_2',
        'convnext_small',
    ],
)
def test_every_published_backbone_is_found(name):
    conversion = guess_by_shapes(lambda: getattr(torchvision.models, name)(weights=None))
    assert conversion.network.name == f'imagenet/{name}' and conversion.is_backbone_only


def test_a_network_of_another_depth_is_found():
    make = torchvision.models.segmentation.deeplabv3_resnet101
    conversion = guess_by_shapes(lambda: make(weights=None, weights_backbone=None, aux_loss=True))
    assert conversion.network.name == 'torchvision/deeplab_v3_resnet101_os8'
    assert conversion.num_classes == 21
