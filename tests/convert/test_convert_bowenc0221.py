"""Networks of bowenc0221/panoptic-deeplab give the numbers that PyTorch gives."""

import pytest

from tests.convert import parity
from tests.convert.torch_networks import (
    Bowenc0221,
    HRNet,
    MobileNetV2,
    ResNet,
    Xception65,
    draw_weights,
)

# Smaller than the images, so that the window of the pooling slides.
CROP = (65, 65)
SIZES = [(97, 97), (65, 129)]
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


def make_network(name):
    make_backbone, arguments, _ = NETWORKS[name]
    return Bowenc0221(make_backbone(), crop=CROP, **arguments)


@pytest.mark.parametrize('name', NETWORKS)
def test_keys_are_the_published_ones(name, shared_dir):
    keys = shared_dir / 'specs' / 'checkpoint_keys' / f'keys_bowenc_{NETWORKS[name][2]}.txt'
    parity.check_keys(parity.get_arrays(make_network(name)), keys)


@pytest.mark.parametrize('name', NETWORKS)
def test_heads_equal_those_of_pytorch(name):
    network = draw_weights(make_network(name))
    # The largest of them to compile by far.
    sizes = SIZES[1:] if name == 'hrnet_w48' else SIZES
    parity.check_heads(
        network, source='bowenc0221', preset=f'bowenc0221/{name}', crop=CROP, sizes=sizes
    )
