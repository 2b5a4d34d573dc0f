"""Networks of bowenc0221/panoptic-deeplab give the same outputs as in PyTorch."""

import jax
import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from tests.convert import parity
from tests.convert.torch_networks import (
    Bowenc0221,
    HRNet,
    MobileNetV2,
    ResNet,
    Xception65,
    draw_weights,
    torch,
)

# Smaller than the image, so that the window of the ASPP's pooling slides along both axes.
CROP = (65, 65)
SIZE = (97, 129)
NETWORKS = {
    'resnet50_os32': (lambda: ResNet((3, 4, 6, 3), 32), {'output_stride': 32}, 'r50_os32'),
    'resnet50_os16': (
        lambda: ResNet((3, 4, 6, 3), 16),
        {'output_stride': 16, 'head_width': 128},
        'base_r50_os16',
    ),
    'mobilenet_v2_os32': (MobileNetV2, {'output_stride': 32}, 'mbv2_os32'),
    'xception65_os32': (Xception65, {'output_stride': 32}, 'x65_os32'),
    'hrnet_w48': (HRNet, {'output_stride': 32}, 'hrnet48'),
}


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
    """The name of a network and the network with random weights."""
    make_backbone, arguments, _ = NETWORKS[request.param]
    return request.param, draw_weights(Bowenc0221(make_backbone(), crop=CROP, **arguments))


@pytest.mark.slow
def test_keys_are_the_published_ones(network, shared_dir):
    name, network = network
    keys = shared_dir / 'specs' / 'checkpoint_keys' / f'keys_bowenc_{NETWORKS[name][2]}.txt'
    parity.check_keys(parity.get_arrays(network), keys)


@pytest.mark.slow
def test_heads_equal_those_of_pytorch(network):
    name, network = network
    parity.check_heads(
        network, source='bowenc0221', preset=f'bowenc0221/{name}', crop=CROP, size=SIZE
    )


def test_resnext_is_found_by_its_keys():
    with torch.device('meta'):
        backbone = ResNet((3, 4, 23, 3), 32, groups=32, width_per_group=8)
        network = Bowenc0221(backbone, crop=CROP, output_stride=32)
    arrays = {
        key: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
        for key, x in network.state_dict().items()
    }
    conversion = guess_network(Contents(arrays), SOURCES['bowenc0221'])
    assert conversion.network.name == 'bowenc0221/resnext101_32x8d_os32'
