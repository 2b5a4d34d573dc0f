"""Networks of detectron2's projects/Panoptic-DeepLab give the numbers that PyTorch gives."""

import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from tests.convert import parity
from tests.convert.torch_networks import Detectron2, DetectronResNet, draw_weights

# Smaller than the images, so that the window of the pooling slides.
CROP = (64, 64)
SIZES = [(128, 128), (64, 160)]
NETWORKS = {
    'resnet52_os16_dsconv': (True, 'dsconv_cityscapes'),
    'resnet52_os16': (False, 'cityscapes'),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_keys_are_the_published_ones(name, shared_dir):
    is_separable, keys = NETWORKS[name]
    path = shared_dir / 'specs' / 'checkpoint_keys' / f'keys_d2_r52_os16_{keys}.txt'
    parity.check_keys(parity.get_arrays(Detectron2(is_separable, CROP)), path)


@pytest.mark.parametrize('name', NETWORKS)
def test_heads_equal_those_of_pytorch(name):
    network = draw_weights(Detectron2(NETWORKS[name][0], CROP))
    parity.check_heads(
        network, source='detectron2', preset=f'detectron2/{name}', crop=CROP, sizes=SIZES
    )


def test_133_classes_of_coco_are_found(shared_dir):
    network = Detectron2(True, CROP, num_classes=133)
    arrays = parity.get_arrays(network)
    parity.check_keys(
        arrays, shared_dir / 'specs' / 'checkpoint_keys' / 'keys_d2_r52_os16_dsconv_coco.txt'
    )
    assert guess_network(Contents(arrays), SOURCES['detectron2']).num_classes == 133


def test_backbone_alone_has_keys_without_prefix():
    arrays = parity.get_arrays(DetectronResNet())
    arrays |= {
        'stem.fc.weight': np.zeros((1000, 2048), np.float32),
        'stem.fc.bias': np.zeros(1000, np.float32),
    }
    conversion = guess_network(Contents(arrays), SOURCES['detectron2'])
    assert conversion.network.name == 'imagenet/resnet50_beta' and conversion.is_backbone_only
