"""ConvNeXt: the counts of the originals, padding at any image size, atrous consistency, drop path."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones.convnext import ConvNeXt, ConvNeXtBlock, Downsampling
from pdl_jax.models.blocks import Conv, LayerOptions

# Blocks of stage 3, width of stage 1, parameters of the ImageNet classifier and its GMACs as torchvision gives them.
NETWORKS = {
    'tiny': (9, 96, 28_589_128, 4.456),
    'small': (27, 96, 50_223_688, 8.684),
    'base': (27, 128, 88_591_464, 15.355),
    'large': (27, 192, 197_767_336, 34.361),
}
IMAGE = jax.random.normal(jax.random.key(1), (1, 65, 65, 3))


def _tiny(**attributes):
    return ConvNeXt((1, 1, 1, 1), width_multiplier=1 / 24, **attributes)


def _draw_variables(module, x, **arguments):
    """Variables with biases and layer scales at which residual branches and border pixels show up."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **arguments))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == 'kernel':
            return rng.normal(0, 0.2, leaf.shape).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize('name', NETWORKS)
def test_counts_of_the_classifier(name):
    count, width, parameters, gmacs = NETWORKS[name]
    total = 1000 * 8 * width

    def intercept(call, args, kwargs, context):
        nonlocal total
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv) and context.method_name == '__call__':
            channels = 1 if context.module.is_depthwise else args[0].shape[-1]
            total += math.prod(y.shape) * context.module.kernel_size**2 * channels
        return y

    module = ConvNeXt((3, 3, count, 3), tuple(width * 2**i for i in range(4)))
    with nn.intercept_methods(intercept):
        features, variables = jax.eval_shape(
            lambda: module.init_with_output(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False)
        )
    assert set(variables) == {'params'}
    assert features['last'].shape == (1, 7, 7, 8 * width)
    norm_and_logits = 2 * 8 * width + 1000 * (8 * width + 1)
    assert sum(x.size for x in jax.tree.leaves(variables)) + norm_and_logits == parameters
    assert total == pytest.approx(gmacs * 1e9, rel=1e-3)


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('size', [(65, 97), (64, 50), (33, 43)])
def test_output_shapes_at_any_size(output_stride, size):
    module = _tiny(output_stride=output_stride, options=LayerOptions(dtype=jnp.bfloat16))
    features, variables = jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)
    )
    strides = [stride for stride in (4, 8, 16, 32) if stride <= output_stride]
    assert set(features) == {'last', *(f'stride{stride}' for stride in strides)}
    for stride, width in zip(strides, (4, 8, 16, 32), strict=False):
        assert features[f'stride{stride}'].shape == (1, *(-(-n // stride) for n in size), width)
    assert features['last'].shape == (1, *(-(-n // output_stride) for n in size), 32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert {x.dtype for x in features.values()} == {jnp.dtype('bfloat16')}


def test_atrous_consistency():
    """With the same weights a smaller output stride gives the same features, only more of them."""
    variables = _draw_variables(_tiny(), IMAGE, train=False)
    features = {}
    for stride in (8, 16, 32):
        module = _tiny(output_stride=stride)
        features[stride] = jax.jit(lambda v, x, m=module: m.apply(v, x, train=False))(variables, IMAGE)
    for stride in (8, 16):
        for key in features[stride]:
            step = 32 // stride if key == 'last' else 1
            dense, reference = features[stride][key][:, ::step, ::step], features[32][key]
            scale = float(jnp.max(jnp.std(reference, axis=(1, 2))))
            assert scale > 1e-2
            np.testing.assert_allclose(dense, reference, atol=1e-4 * scale, err_msg=f'{stride} {key}')


def test_odd_sizes_are_padded_with_zeros():
    """As in kMaX-DeepLab: (1, 2) before the stem, and (0, 1) before LayerNorm and convolution of each down-sampling."""
    module = _tiny()
    variables = _draw_variables(module, IMAGE, train=False)
    apply = jax.jit(lambda x: module.apply(variables, x, train=False)['stride4'])
    padded = jnp.pad(IMAGE, ((0, 0), (1, 2), (1, 2), (0, 0)))
    np.testing.assert_allclose(apply(padded), apply(IMAGE), rtol=1e-4, atol=1e-5)

    layer = Downsampling(4, True, 1, LayerOptions(padding='same'))
    x = jax.random.normal(jax.random.key(2), (1, 5, 6, 3))
    variables = _draw_variables(layer, x)
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    apply = jax.jit(layer.apply)
    np.testing.assert_allclose(apply(variables, padded), apply(variables, x), rtol=1e-5)


def test_block_is_that_of_the_paper():
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 4))
    block = ConvNeXtBlock(2, 1.0, LayerOptions())
    variables = _draw_variables(block, x, train=False)

    @jax.jit
    def compute_reference(x, p):
        y = jax.lax.conv_general_dilated(
            x,
            p['depthwise']['kernel'],
            (1, 1),
            ((6, 6), (6, 6)),
            rhs_dilation=(2, 2),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=4,
        )
        y = y + p['depthwise']['bias']
        y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
        y = y * p['norm']['scale'] + p['norm']['bias']
        y = y @ p['expand']['kernel'][0, 0] + p['expand']['bias']
        y = y * (1 + jax.lax.erf(y / math.sqrt(2))) / 2
        y = y @ p['project']['kernel'][0, 0] + p['project']['bias']
        return x + p['layer_scale'] * y

    y = jax.jit(lambda v: block.apply(v, x, train=False))(variables)
    np.testing.assert_allclose(y, compute_reference(x, variables['params']), atol=1e-4)


def test_drop_path_drops_branches_of_whole_images_and_keeps_their_mean():
    x = jax.random.normal(jax.random.key(0), (16, 3, 3, 4))
    block = ConvNeXtBlock(1, 0.75, LayerOptions())
    variables = _draw_variables(block, x, train=False)

    @jax.jit
    def compute_branches(key):
        kept = block.apply(variables, x, train=False) - x
        return kept, block.apply(variables, x, train=True, rngs={'dropout': key}) - x

    branch, dropped = compute_branches(jax.random.key(2))
    is_kept = np.any(dropped != 0, axis=(1, 2, 3))
    assert 0 < is_kept.sum() < 16
    np.testing.assert_allclose(dropped, np.where(is_kept[:, None, None, None], branch / 0.75, 0), atol=1e-5)


def test_keep_probability_falls_linearly_over_the_blocks():
    probabilities = []

    def intercept(call, args, kwargs, context):
        if isinstance(context.module, ConvNeXtBlock):
            probabilities.append(context.module.keep_prob)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        jax.eval_shape(lambda: _tiny(drop_path_keep_prob=0.4).init(jax.random.key(0), IMAGE, train=False))
    np.testing.assert_allclose(probabilities, [1, 0.8, 0.6, 0.4])


def test_wrong_output_stride_is_refused():
    with pytest.raises(ValueError, match='ConvNeXt output_stride must be one of .*not 64'):
        ConvNeXt(output_stride=64)
