"""Networks of TF DeepLab by the names in their checkpoints give the outputs of PyTorch."""

import sys
import types

import jax
import numpy as np
import pytest

from pdl_jax.convert.conversion import choose_network, compare, guess_network, load
from pdl_jax.convert.networks import Network
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.presets import make_options
from tests.convert import parity
from tests.convert.compiling import run_fast
from tests.convert.torch_networks import (
    DetectronResNet,
    TensorflowDeepLab,
    draw_image,
    draw_weights,
    torch,
)

# See `test_convert_torchvision`.
sys.modules.setdefault(
    'torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations')
)
torchvision = pytest.importorskip('torchvision')
SIZE = (65, 97)


def test_training_checkpoints_are_found_by_their_names():
    arrays = TensorflowDeepLab().list_arrays()
    first = 'xception_65/entry_flow/conv1_1/weights'
    depthwise = 'xception_65/middle_flow/block1/unit_16/xception_module/separable_conv1_depthwise'
    assert arrays[first].shape == (3, 3, 3, 32)
    assert arrays[f'{depthwise}/depthwise_weights'].shape == (3, 3, 728, 1)
    others = {f'{first}/Momentum': arrays[first], 'global_step': np.zeros((), np.int64)}
    conversion, _ = parity.convert_arrays({**arrays, **others}, 'tensorflow')
    assert conversion.network.name == 'tensorflow/deeplab_v3plus_xception65_os16'
    assert conversion.num_classes == 21
    assert set().union(*conversion.account.ignored.values()) == others.keys()


def test_imagenet_checkpoints_are_backbones():
    arrays = TensorflowDeepLab().list_arrays()
    arrays = {key: value for key, value in arrays.items() if key.startswith('xception_65/')}
    arrays['xception_65/logits/weights'] = np.zeros((1, 1, 2048, 1001), np.float32)
    conversion, _ = parity.convert_arrays(arrays, 'tensorflow')
    assert conversion.network.name == 'imagenet/xception65' and conversion.is_backbone_only


@pytest.mark.slow
def test_logits_equal_those_of_pytorch():
    network = draw_weights(TensorflowDeepLab())
    conversion, variables = parity.convert_arrays(network.list_arrays(), 'tensorflow')
    model = DeepLab(conversion.num_classes, conversion.network.options)
    image = draw_image(SIZE)
    outputs = run_fast(
        lambda variables, x: model.upsample(model.apply(variables, x), SIZE),
        variables,
        image.numpy().transpose(0, 2, 3, 1),
    )
    with torch.no_grad():
        reference = network(image)['semantic'].numpy().transpose(0, 2, 3, 1)
    assert 0.05 < reference.std() < 5
    np.testing.assert_allclose(outputs['semantic'], reference, rtol=0, atol=1e-4 * reference.std())


NORM = {
    'weight': 'gamma',
    'bias': 'beta',
    'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}


def name_conv(scope, value):
    """The name and the array of a kernel [O, I, h, w] of PyTorch."""
    if value.shape[1] == 1:
        return f'{scope}/depthwise_weights', value.transpose(2, 3, 0, 1)
    return f'{scope}/weights', value.transpose(2, 3, 1, 0)


def test_resnets_with_three_stem_convolutions():
    arrays = parity.get_arrays(DetectronResNet())
    _, expected = parity.convert_arrays(arrays, 'detectron2')
    renamed = {}
    for key, value in arrays.items():
        *layers, kind = [part for part in key.split('.') if part != 'norm']
        scope = f'resnet_v1_50/conv1_{layers[-1].removeprefix("conv")}'
        if layers[0] != 'stem':
            stage, unit, conv = layers
            stage, unit = int(stage.removeprefix('res')) - 1, int(unit) + 1
            scope = f'resnet_v1_50/block{stage}/unit_{unit}/bottleneck_v1/{conv}'
        if value.ndim == 4:
            name, value = name_conv(scope, value)
            renamed[name] = value
        elif kind in NORM:
            renamed[f'{scope}/BatchNorm/{NORM[kind]}'] = value
    conversion, found = parity.convert_arrays(renamed, 'tensorflow')
    assert conversion.network.name == 'imagenet/resnet50_beta'
    assert conversion.network.options.backbone.stride_convention == 'slim'
    parity.check_equal(found, expected)


def test_mobilenets():
    arrays = parity.get_arrays(torchvision.models.mobilenet_v2(weights=None))
    _, expected = parity.convert_arrays(arrays, 'torchvision')
    renamed = {}
    for key, value in arrays.items():
        if not key.startswith('features.') or key.startswith('features.18'):
            continue
        *layers, kind = key.split('.')[1:]
        block, places = int(layers[0]), [int(part) for part in layers[2:]]
        # In a pair of convolution and BatchNorm the second is 1; projections are numbered through.
        parts = ('depthwise', 'project') if block == 1 else ('expand', 'depthwise', 'project')
        scope = 'MobilenetV2/Conv'
        if block:
            number = f'_{block - 1}' if block > 1 else ''
            scope = f'MobilenetV2/expanded_conv{number}/{parts[min(places[0], len(parts) - 1)]}'
        if value.ndim == 4:
            name, value = name_conv(scope, value)
            renamed[name] = value
        elif kind in NORM:
            renamed[f'{scope}/BatchNorm/{NORM[kind]}'] = value
    conversion = choose_network(Contents(renamed), SOURCES['tensorflow'], 'imagenet/mobilenet_v2')
    assert not conversion.account.num_faults
    parity.check_equal(load(conversion, Contents(renamed)), expected)


def conv_norm(scope, kernel, inputs, outputs):
    """Names and shapes of a convolution [inputs -> outputs], depthwise for no inputs."""
    shape = (kernel, kernel, inputs or outputs, outputs if inputs else 1)
    return {
        f'{scope}/{"weights" if inputs else "depthwise_weights"}': shape,
        **{f'{scope}/BatchNorm/{name}': (outputs,) for name in NORM.values()},
    }


def biased(scope, inputs, outputs):
    return {f'{scope}/weights': (1, 1, inputs, outputs), f'{scope}/biases': (outputs,)}


# Kernel, expanded, output and squeezed channels of the blocks of MobileNetV3 with halved last ones.
MOBILENETS = {
    'large': (
        (3, 16, 16, 0), (3, 64, 24, 0), (3, 72, 24, 0), (5, 72, 40, 24), (5, 120, 40, 32),
        (5, 120, 40, 32), (3, 240, 80, 0), (3, 200, 80, 0), (3, 184, 80, 0), (3, 184, 80, 0),
        (3, 480, 112, 120), (3, 672, 112, 168), (5, 336, 80, 88), (5, 480, 80, 120),
        (5, 480, 80, 120),
    ),
    'small': (
        (3, 16, 16, 8), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 24), (5, 240, 40, 64),
        (5, 240, 40, 64), (5, 120, 48, 32), (5, 144, 48, 40), (5, 144, 48, 40), (5, 288, 48, 72),
        (5, 288, 48, 72),
    ),
}  # fmt: skip


def list_lr_aspp(size):
    keys, inputs = conv_norm('MobilenetV3/Conv', 3, 3, 16), 16
    for i, (kernel, expanded, outputs, squeezed) in enumerate(MOBILENETS[size]):
        scope = f'MobilenetV3/expanded_conv{f"_{i}" if i else ""}'
        if i:
            keys |= conv_norm(f'{scope}/expand', 1, inputs, expanded)
        keys |= conv_norm(f'{scope}/depthwise', kernel, 0, expanded)
        if squeezed:
            keys |= biased(f'{scope}/squeeze_excite/Conv', expanded, squeezed)
            keys |= biased(f'{scope}/squeeze_excite/Conv_1', squeezed, expanded)
        keys |= conv_norm(f'{scope}/project', 1, expanded, outputs)
        inputs = outputs
    low = {'large': 120, 'small': 88}[size]
    return {
        **keys,
        **conv_norm('MobilenetV3/Conv_1', 1, inputs, 6 * inputs),
        **conv_norm('aspp0', 1, 6 * inputs, 128),
        **biased('image_pooling', 6 * inputs, 128),
        **biased('decoder/feature_projection0', low, 19),
        **biased('decoder/decoder_conv0', 128, 19),
    }


@pytest.mark.parametrize('size', MOBILENETS)
def test_lite_r_aspp(size):
    keys = list_lr_aspp(size)
    arrays = {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in keys.items()}
    conversion = guess_network(Contents(arrays), SOURCES['tensorflow'])
    assert conversion.network.name == f'tensorflow/lr_aspp_mobilenet_v3_{size}_os32'
    assert (len(conversion.account.loaded), conversion.num_classes) == (len(keys), 19)


def test_dense_prediction_cell():
    arrays = {
        key: jax.ShapeDtypeStruct(value.shape, np.float32)
        for key, value in TensorflowDeepLab(19).list_arrays().items()
        if not key.startswith(('aspp', 'image_pooling', 'concat_projection'))
    }
    keys = {}
    for i, inputs in enumerate((2048, 256, 256, 256, 256)):
        branch = f'meta_architecture/branch{i}'
        keys |= conv_norm(f'{branch}_depthwise', 3, 0, inputs)
        keys |= conv_norm(f'{branch}_pointwise', 1, inputs, 256)
    keys |= conv_norm('meta_architecture/concat_projection', 1, 5 * 256, 256)
    arrays |= {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in keys.items()}
    # On the encoder of the network above, in the place of Xception-71.
    options = make_options('tensorflow/deeplab_v3plus_xception71_dpc_os16', backbone='xception65')
    network = Network('cell', options)
    account = compare(Contents(arrays), SOURCES['tensorflow'], network).account
    assert not account.num_faults and len(account.loaded) == len(arrays)
