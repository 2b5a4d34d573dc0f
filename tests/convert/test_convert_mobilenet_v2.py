"""Real MobileNetV2 weights from Keras, from folded TF-slim graphs and in torchvision's layout."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.convert.conversion import choose_network, guess_network, has_folded_norm, load
from pdl_jax.convert.readers import Contents, read_file
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.model_backbone import make_model_backbone
from tests.convert.compiling import run_fast


def load_photo(path, size):
    image = Image.open(path).convert('RGB').resize((size, size), Image.BILINEAR)
    return np.asarray(image, np.float32)[None] / 127.5 - 1


def run_backbone(conversion, variables, images, **changes):
    module = make_model_backbone(conversion.network.options)
    backbone = {key: value['backbone'] for key, value in variables.items()}
    return run_fast(
        lambda variables, x: module.clone(**changes).apply(variables, x, train=False)['last'],
        backbone,
        images,
    )


@pytest.mark.slow
def test_keras_weights_give_the_features_of_keras(shared_dir):
    folder = shared_dir / 'data' / 'weights' / 'mobilenetv2_0.35_imagenet_keras'
    contents = read_file(str(folder / 'backbone_unfolded_f32.npz'))
    conversion = guess_network(contents, SOURCES['keras'])
    assert (
        conversion.is_backbone_only and conversion.network.options.backbone.width_multiplier == 0.35
    )
    variables = load(conversion, contents)
    assert not has_folded_norm(variables)
    golden = np.load(folder / 'golden_pooled_features.npz')
    names = golden.files[:2]
    photos = [load_photo(shared_dir / 'data' / 'coral_photos' / name, 224) for name in names]
    x = run_backbone(conversion, variables, np.concatenate(photos))
    # Our backbone ends before the last convolution, which belongs to the classifier.
    arrays = {key: np.asarray(value) for key, value in contents.arrays.items()}
    x = x @ arrays['Conv_1/kernel'][0, 0]
    x = (x - arrays['Conv_1_bn/moving_mean']) / np.sqrt(arrays['Conv_1_bn/moving_variance'] + 1e-3)
    x = x * arrays['Conv_1_bn/gamma'] + arrays['Conv_1_bn/beta']
    expected = np.stack([golden[name] for name in names])
    np.testing.assert_allclose(jnp.clip(x, 0, 6).mean((1, 2)), expected, atol=1e-4)


def test_folded_weights_segment_as_the_original(shared_dir):
    """Compares a whole DeepLabv3: dilation, padding, pooling and resizing."""
    folder = shared_dir / 'data' / 'weights' / 'deeplabv3_mnv2_1.0_voc'
    contents = read_file(str(folder / 'folded_f32.npz'))
    conversion = guess_network(contents, SOURCES['tensorflow'])
    assert (
        conversion.network.name == 'tensorflow/deeplab_v3_mobilenet_v2_os16'
        and conversion.num_classes == 21
    )
    variables = load(conversion, contents)
    assert has_folded_norm(variables)
    model = DeepLab(21, conversion.network.options, pool_crop=(513, 513))

    def segment(variables, image):
        return jnp.argmax(
            model.upsample(model.apply(variables, image), (513, 513))['semantic'], axis=-1
        )[0]

    photo = load_photo(shared_dir / 'data' / 'coral_photos' / 'bird_segmentation.bmp', 513)
    golden = np.asarray(Image.open(folder / 'golden_argmax513_bird_segmentation.png'))
    assert np.mean(np.asarray(run_fast(segment, variables, photo)) == golden) > 0.999


def test_backbone_of_a_folded_graph_is_loaded_alone(shared_dir):
    folder = shared_dir / 'data' / 'weights' / 'deeplabv3_mnv2_1.0_voc'
    contents = read_file(str(folder / 'folded_f32.npz'))
    conversion = choose_network(contents, SOURCES['tensorflow'], 'imagenet/mobilenet_v2')
    assert conversion.is_backbone_only and not conversion.account.num_faults
    assert sum(map(len, conversion.account.ignored.values())) == 8


def test_torchvision_layout_gives_the_features_of_its_folded_norms(shared_dir):
    """Compares two layouts of TF-slim's MobileNetV2, one with BatchNorms that only add a bias."""
    path = shared_dir / 'data' / 'weights' / 'mobilenetv2_1.0_imagenet' / 'torchvision_layout.pth'
    contents = read_file(str(path))
    conversion = guess_network(contents, SOURCES['torchvision'])
    assert (
        conversion.network.name == 'imagenet/mobilenet_v2'
        and conversion.network.options.backbone.norm_epsilon == 1e-5
    )
    variables = load(conversion, contents)
    assert has_folded_norm(variables)
    # Rewrite the arrays as layers of a folded graph: kernel, and the norm's bias.
    folded = {}
    for key, stored in contents.arrays.items():
        value = np.asarray(stored)
        if key.startswith('features.') and not key.startswith('features.18') and value.ndim == 4:
            *parents, last, _ = key.split('.')
            bias = np.asarray(contents.arrays['.'.join([*parents, str(int(last) + 1), 'bias'])])
            folded |= {
                f'{len(folded) // 2:02}.conv.kernel': value.transpose(2, 3, 1, 0),
                f'{len(folded) // 2:02}.conv.bias': bias,
            }
    other = choose_network(Contents(folded), SOURCES['tensorflow'], 'imagenet/mobilenet_v2')
    assert not other.account.num_faults
    photo = load_photo(shared_dir / 'data' / 'coral_photos' / 'cat.bmp', 65)
    expected = run_backbone(other, load(other, Contents(folded)), photo)
    found = run_backbone(
        conversion, variables, photo, options=LayerOptions(norm_epsilon=1e-5, padding='same')
    )
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
