"""Networks of detectron2's projects/Panoptic-DeepLab give the same outputs as in PyTorch."""

import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from pdl_jax.presets import PRESETS
from tests.convert import parity
from tests.convert.torch_networks import Detectron2, DetectronResNet, draw_weights

# Smaller than the image, so that the window of the ASPP's pooling slides along both axes.
CROP = (64, 64)
SIZE = (96, 128)
NETWORKS = {
    'resnet52_os16_dsconv': (True, 'dsconv_cityscapes'),
    'resnet52_os16': (False, 'cityscapes'),
}


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
    """The name of a network and the network with random weights."""
    is_separable, _ = NETWORKS[request.param]
    return request.param, draw_weights(Detectron2(is_separable, CROP))


def test_keys_are_the_published_ones(network, shared_dir):
    name, network = network
    path = shared_dir / 'specs' / 'checkpoint_keys' / f'keys_d2_r52_os16_{NETWORKS[name][1]}.txt'
    parity.check_keys(parity.get_arrays(network), path)


@pytest.mark.slow
def test_heads_equal_those_of_pytorch(network):
    name, network = network
    parity.check_heads(
        network, source='detectron2', preset=f'detectron2/{name}', crop=CROP, size=SIZE
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


def test_tests_are_those_of_its_configurations():
    """MIN_SIZE_TEST and MAX_SIZE_TEST of COCO are 640; the heads are cut to the image first."""
    source = SOURCES['detectron2']
    fields = source.config_fields['coco']
    assert fields['augment.resize_min_px'] == fields['augment.resize_max_px'] == 640
    assert all(PRESETS[name].postprocess['is_padding_cut'] for name in source.presets)
