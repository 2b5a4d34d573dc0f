"""Networks of detectron2's projects give the same outputs as in PyTorch."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network, load
from pdl_jax.convert.readers import Contents, read_file
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.preprocess.normalize import ChannelStatistics, normalize_image
from pdl_jax.presets import PRESETS
from tests.convert import parity
from tests.convert.compiling import run_fast
from tests.convert.torch_networks import (
    HRNET_LAYOUT,
    XCEPTION_LAYOUT,
    Detectron2,
    DetectronDeepLab,
    DetectronResNet,
    HRNet,
    Layout,
    Xception65,
    draw_image,
    draw_weights,
    torch,
)

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


def make_resnet103():
    return DetectronResNet((3, 4, 23, 3))


# Networks whose keys nobody lists: those of projects/DeepLab, and of tools_d2 of bowenc0221.
PLUS = Layout({'res2': 256, 'res5': 2048}, {'res2': 48})
HRNET_PLUS = dataclasses.replace(HRNET_LAYOUT, projected={'res2': 48, 'res3': 96, 'res4': 192})
OTHERS = {
    'deeplab_v3_resnet103_os16': lambda: DetectronDeepLab(make_resnet103(), CROP),
    'deeplab_v3plus_resnet103_os16': lambda: DetectronDeepLab(make_resnet103(), CROP, PLUS),
    'deeplab_v3plus_xception65_os16': lambda: DetectronDeepLab(Xception65(16), CROP, PLUS),
    'deeplab_v3plus_hrnet_w48': lambda: DetectronDeepLab(HRNet(), CROP, HRNET_PLUS),
    'xception65_os16': lambda: Detectron2(False, CROP, 19, Xception65(16), XCEPTION_LAYOUT),
    'xception65_os16_dsconv': lambda: Detectron2(True, CROP, 133, Xception65(16), XCEPTION_LAYOUT),
    'hrnet_w48': lambda: Detectron2(False, CROP, 19, HRNet(), HRNET_LAYOUT),
    'hrnet_w48_dsconv': lambda: Detectron2(True, CROP, 133, HRNet(), HRNET_LAYOUT),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', OTHERS)
def test_others_are_found_by_their_keys(name):
    with torch.device('meta'):
        network = OTHERS[name]()
    arrays = {
        key: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
        for key, x in network.state_dict().items()
    }
    conversion = guess_network(Contents(arrays), SOURCES['detectron2'])
    assert conversion.network.name == f'detectron2/{name}'
    assert conversion.num_classes == (133 if 'dsconv' in name else 19)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['deeplab_v3_resnet103_os16', 'hrnet_w48_dsconv'])
def test_heads_of_others_equal_those_of_pytorch(name):
    network = draw_weights(OTHERS[name]())
    parity.check_heads(
        network, source='detectron2', preset=f'detectron2/{name}', crop=CROP, size=SIZE
    )


CAFFE2_NAMES = {
    'shortcut': 'branch1',
    'conv1': 'branch2a',
    'conv2': 'branch2b',
    'conv3': 'branch2c',
}


def draw_msra():
    """A ResNet of MSRA: its BatchNorm, whose statistics are fixed, has a scale and a bias."""
    network = DetectronResNet(is_deep=False, is_dilated=False, is_first_strided=True)
    network = draw_weights(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            scale = module.weight.data / torch.sqrt(module.running_var + module.eps)
            module.bias.data -= module.running_mean * scale
            module.weight.data.copy_(scale)
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)
    return network


def rename_msra(network):
    """Gives the arrays the names of Caffe2."""
    arrays = {'fc1000_w': np.zeros((1000, 2048), np.float32), 'conv1_b': np.zeros(64, np.float32)}
    for key, value in parity.get_arrays(network).items():
        *layers, kind = key.split('.')
        if kind.startswith(('running', 'num')):
            continue
        suffix = {'weight': 's', 'bias': 'b'}[kind] if 'norm' in layers else 'w'
        layers = [layer for layer in layers if layer != 'norm']
        bn = 'bn_' if 'norm' in key else ''
        if layers[0] == 'stem':
            name = f'res_conv1_{bn}' if bn else 'conv1_'
        else:
            stage, block, conv = layers
            name = f'{stage}_{block}_{CAFFE2_NAMES[conv]}_{bn}'
        arrays[name + suffix] = value
    return arrays


@pytest.mark.slow
def test_resnets_of_msra_take_red_green_blue(tmp_path):
    """detectron2 gives them blue, green, red without a deviation, and so they are drawn here."""
    network = draw_msra()
    path = tmp_path / 'R-50.pkl'
    path.write_bytes(pickle.dumps({'blobs': rename_msra(network)}, protocol=2))
    contents = read_file(str(path))
    conversion = guess_network(contents, SOURCES['detectron2'])
    options = conversion.network.options
    assert conversion.network.name == 'imagenet/resnet50' and conversion.is_backbone_only
    variables = {k: v['backbone'] for k, v in load(conversion, contents).items()}
    module = make_model_backbone(options)
    image = draw_image((64, 96)).numpy()[0].transpose(1, 2, 0)
    pixels = np.clip(image * 60 + 120, 0, 255).astype(np.uint8)
    assert options.pixel_mean and options.pixel_deviation
    kind = ChannelStatistics(options.pixel_mean, options.pixel_deviation)

    def run(variables, pixels):
        x = normalize_image(pixels, np.int32(pixels.shape[:2]), kind=kind)
        return module.apply(variables, x[None], train=False)

    features = run_fast(run, variables, pixels)
    # PIXEL_MEAN of detectron2, blue first.
    blue_green_red = pixels[..., ::-1].astype(np.float32) - np.float32([103.53, 116.28, 123.675])
    blue_green_red = np.ascontiguousarray(blue_green_red.transpose(2, 0, 1)[None])
    with torch.no_grad():
        expected = network(torch.from_numpy(blue_green_red))
    for stride, value in zip((4, 8, 16, 32), expected, strict=True):
        reference = value.numpy().transpose(0, 2, 3, 1)
        tolerance = 1e-4 * np.sqrt(np.mean(reference**2))
        np.testing.assert_allclose(features[f'stride{stride}'], reference, rtol=0, atol=tolerance)


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
