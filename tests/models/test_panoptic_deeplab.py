"""The network: parameter counts of the original, any input size, atrous consistency, real weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.convert.mobilenet_v2 import load_deeplab_v3, load_mobilenet_v2
from pdl_jax.models.aspp import average_pool
from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.backbones.mobilenet_v2 import MobileNetV2
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.options import ModelOptions
from pdl_jax.models.panoptic_deeplab import PanopticDeepLab
from pdl_jax.models.presets import make_options


def _shapes(module, size=(65, 65), **arguments):
    return jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, *size, 3)), **arguments)
    )


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('size', [(65, 97), (64, 50), (33, 41)])
def test_output_shapes_at_any_size(output_stride, size):
    options = make_options('deeplab2/resnet50_os32', output_stride=output_stride)
    model = PanopticDeepLab(5, options, pool_crop=(65, 65))
    variables = _shapes(model)

    def run(variables, image):
        outputs = model.apply(variables, image)
        return outputs, model.upsample(outputs, image.shape[1:3])

    outputs, large = jax.eval_shape(run, variables, jnp.zeros((2, *size, 3)))
    for key, channels in (('semantic', 5), ('center', 1), ('offset', 2)):
        assert outputs[key].shape == (2, *(-(-n // 4) for n in size), channels)
        assert large[key].shape == (2, *size, channels)


def test_missing_skip_is_named():
    model = PanopticDeepLab(5, make_options('bowenc0221/resnet50_os32', output_stride=8))
    with pytest.raises(ValueError, match="skip_strides .*asks for 'stride16'.*output stride 8"):
        _shapes(model)


@pytest.mark.parametrize(('resize', 'size'), [('corner_aligned', (17, 33)), ('half_pixel', (20, 36))])
def test_offsets_are_scaled_to_image_pixels(resize, size):
    """All pixels of the small map point at its pixel (2, 3); all of the large one then point at the same place."""
    model = PanopticDeepLab(3, ModelOptions(resize=resize))
    rows, columns = jnp.meshgrid(jnp.arange(5.0), jnp.arange(9.0), indexing='ij')
    offset = jnp.stack([2 - rows, 3 - columns], axis=-1)[None]
    large = model.upsample({'offset': offset}, size)['offset'][0]
    rows, columns = jnp.meshgrid(jnp.arange(size[0]), jnp.arange(size[1]), indexing='ij')
    target = large + jnp.stack([rows, columns], -1)
    if resize == 'corner_aligned':
        np.testing.assert_allclose(target, np.broadcast_to([8, 12], (17, 33, 2)), atol=1e-4)
    else:
        # Pixel centres: (2 + 1/2) * 4 - 1/2; beyond the outermost centres the resize repeats the border.
        inside = target[2:-2, 2:-2]
        np.testing.assert_allclose(inside, np.broadcast_to([9.5, 13.5], inside.shape), atol=1e-4)


def test_pool_window_slides_over_a_larger_map_and_is_clipped_to_a_smaller():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    pooled = average_pool(x, (2, 3))
    assert pooled.shape == (1, 3, 4, 1)
    np.testing.assert_allclose(pooled[0, 1, 2, 0], x[0, 1:3, 2:5].mean())
    np.testing.assert_allclose(average_pool(x, (9, 9)), x.mean((1, 2), keepdims=True))
    pooled = average_pool(x, (2, 2), (2, 3))
    assert pooled.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(pooled[0, 1, 1, 0], x[0, 2:4, 3:5].mean())


def test_bfloat16_network_answers_in_float32_and_keeps_float32_parameters():
    model = PanopticDeepLab(3, ModelOptions(backbone='mobilenet_v2'), dtype=jnp.bfloat16)
    variables = _shapes(model)
    outputs = jax.eval_shape(model.apply, variables, jnp.zeros((1, 33, 33, 3)))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert {x.dtype for x in outputs.values()} == {jnp.dtype('float32')}


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(ValueError, match="'resnet51' is unknown.*resnet50_beta"):
        make_backbone('resnet51')


def _load_photo(path, size):
    image = Image.open(path).convert('RGB').resize((size, size), Image.BILINEAR)
    return np.asarray(image, np.float32)[None] / 127.5 - 1


def _load(path, width, stride, is_norm_frozen):
    options = LayerOptions(padding='same', is_norm_frozen=is_norm_frozen)
    module = MobileNetV2(stride, width, options)
    return module, load_mobilenet_v2(
        str(path), _shapes(module, train=False), norm_epsilon=1e-3, is_norm_frozen=is_norm_frozen
    )


def test_keras_weights_give_the_features_of_keras(shared_dir):
    folder = shared_dir / 'data' / 'weights' / 'mobilenetv2_0.35_imagenet_keras'
    module, variables = _load(folder / 'backbone_unfolded_f32.npz', 0.35, 32, False)
    arrays = np.load(folder / 'backbone_unfolded_f32.npz')
    golden = np.load(folder / 'golden_pooled_features.npz')
    apply = jax.jit(lambda x: module.apply(variables, x, train=False)['last'])
    for name in golden.files:
        x = apply(_load_photo(shared_dir / 'data' / 'coral_photos' / name, 224))
        # The last convolution belongs to the classifier, so it is applied here.
        x = x @ arrays['Conv_1/kernel'][0, 0]
        deviation = np.sqrt(arrays['Conv_1_bn/moving_variance'] + 1e-3)
        x = (x - arrays['Conv_1_bn/moving_mean']) / deviation
        x = x * arrays['Conv_1_bn/gamma'] + arrays['Conv_1_bn/beta']
        np.testing.assert_allclose(jnp.clip(x, 0, 6).mean((1, 2))[0], golden[name], atol=1e-4)


def test_folded_weights_segment_as_the_original(shared_dir):
    """A whole DeepLabv3: atrous backbone, padding, pooling and resizing are those of the original graph."""
    folder = shared_dir / 'data' / 'weights' / 'deeplabv3_mnv2_1.0_voc'
    options = make_options('tensorflow/deeplab_v3_mobilenet_v2_os16')
    model = PanopticDeepLab(21, options, pool_crop=(513, 513))
    variables = load_deeplab_v3(str(folder / 'folded_f32.npz'), _shapes(model), options)

    @jax.jit
    def segment(image):
        return jnp.argmax(model.upsample(model.apply(variables, image), (513, 513))['semantic'], axis=-1)[0]

    photo = shared_dir / 'data' / 'coral_photos' / 'bird_segmentation.bmp'
    golden = np.asarray(Image.open(folder / 'golden_argmax513_bird_segmentation.png'))
    assert np.mean(np.asarray(segment(_load_photo(photo, 513))) == golden) > 0.999


def test_weights_that_do_not_fit_are_refused(shared_dir, tmp_path):
    weights = shared_dir / 'data' / 'weights'
    folded = weights / 'deeplabv3_mnv2_1.0_voc' / 'folded_f32.npz'
    with pytest.raises(ValueError, match='is_backbone_norm_frozen=True'):
        _load(folded, 1.0, 16, False)
    keras = weights / 'mobilenetv2_0.35_imagenet_keras' / 'backbone_unfolded_f32.npz'
    with pytest.raises(ValueError, match='has shape .*width_multiplier'):
        _load(keras, 1.0, 16, False)
    (tmp_path / 'broken.npz').write_bytes(keras.read_bytes()[:5000])
    with pytest.raises(ValueError, match='broken.npz cannot be read'):
        _load(tmp_path / 'broken.npz', 0.35, 16, False)
    np.savez(tmp_path / 'objects.npz', **{'Conv1/kernel': np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match='objects.npz cannot be read as an .npz of plain arrays'):
        _load(tmp_path / 'objects.npz', 0.35, 16, False)
    with pytest.raises(FileNotFoundError, match='no such file'):
        _load(tmp_path / 'absent.npz', 0.35, 16, False)
