"""ConvNeXt: counts of the originals, padding at any image size, atrous consistency, drop path."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones.convnext import ConvNeXt, ConvNeXtBlock, Downsampling
from pdl_jax.models.blocks import LayerOptions
from tests.models.backbones import probe


def _tiny(**attributes):
    return ConvNeXt((1, 1, 1, 1), width_multiplier=1 / 24, **attributes)


def _make_variables(module, x, **arguments):
    """Draws variables without zeros, so that residual branches and padding have an effect."""
    return probe.make_variables(
        jax.eval_shape(lambda: module.init(jax.random.key(0), x, **arguments))
    )


# Blocks of stage 3, width of stage 1, parameters and GMACs of the ImageNet classifier, all from
# torchvision.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('count', 'width', 'parameters', 'gmacs'),
    [
        (9, 96, 28_589_128, 4.456),
        (27, 96, 50_223_688, 8.684),
        (27, 128, 88_591_464, 15.355),
        (27, 192, 197_767_336, 34.361),
    ],
    ids=['tiny', 'small', 'base', 'large'],
)
def test_counts_of_the_classifiers(count, width, parameters, gmacs):
    traced = probe.trace(
        ConvNeXt((3, 3, count, 3), (width, 2 * width, 4 * width, 8 * width)), (224, 224)
    )
    norm, logits = 2 * 8 * width, 1000 * (8 * width + 1)
    assert traced.parameters + norm + logits == parameters
    assert traced.multiply_adds + 1000 * 8 * width == pytest.approx(gmacs * 1e9, rel=1e-3)
    assert traced.shapes['last'] == (7, 7, 8 * width)


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_output_shapes_at_any_size(output_stride):
    for size in ((65, 97), (64, 50), (35, 43)):
        strides = [stride for stride in (4, 8, 16, 32) if stride <= output_stride]
        expected = {f'stride{s}': (*(-(-n // s) for n in size), s) for s in strides}
        expected['last'] = (*(-(-n // output_stride) for n in size), 32)
        expected['stem'] = (*expected['stride4'][:2], 4)
        assert probe.trace(_tiny(output_stride=output_stride), size).shapes == expected


def test_bfloat16_keeps_float32_parameters_and_has_no_statistics():
    module = _tiny(options=LayerOptions(dtype=jnp.bfloat16))
    image = jnp.zeros((1, 33, 33, 3))
    features, variables = jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), image, train=True)
    )
    assert set(variables) == {'params'}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert {x.dtype for x in features.values()} == {jnp.dtype('bfloat16')}


def test_atrous_consistency():
    probe.check_atrous_consistency(_tiny, (8, 16, 32))


def test_odd_sizes_are_padded_with_zeros():
    """As in kMaX-DeepLab, padding is (1, 2) before the stem and (0, 1) before each downsampling."""
    image = probe.make_image(33, 33)
    variables = _make_variables(_tiny(), image, train=False)
    apply = jax.jit(lambda x: _tiny().apply(variables, x, train=False)['stride4'])
    padded = jnp.pad(image, ((0, 0), (1, 2), (1, 2), (0, 0)))
    np.testing.assert_allclose(apply(padded), apply(image), atol=1e-5)

    module = _tiny(stem_padding='fixed')
    apply = jax.jit(lambda x: module.apply(variables, x, train=False)['stem'])
    for size in ((33, 35), (34, 36)):
        image = probe.make_image(*size)
        wider = jnp.pad(image, ((0, 0), (4, 4), (4, 4), (0, 0)))
        np.testing.assert_allclose(apply(wider)[:, 1:10, 1:10], apply(image), atol=1e-5)

    layer = Downsampling(4, True, 1, LayerOptions(padding='same'))
    x = probe.make_image(5, 6)
    variables = _make_variables(layer, x)
    apply = jax.jit(lambda x: layer.apply(variables, x))
    np.testing.assert_allclose(
        apply(jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))), apply(x), atol=1e-6
    )


def test_block_is_that_of_the_paper():
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 4))
    block = ConvNeXtBlock(2, 1.0, LayerOptions())
    variables = _make_variables(block, x, train=False)
    variables['params']['layer_scale'] = np.float32([1, -2, 0.5, 3])

    @jax.jit
    def compute(x, p):
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
    np.testing.assert_allclose(y, compute(x, variables['params']), atol=1e-4)


def test_drop_path_drops_branches_of_whole_images_and_keeps_their_mean():
    x = jax.random.normal(jax.random.key(0), (16, 3, 3, 4))
    block = ConvNeXtBlock(1, 0.75, LayerOptions())
    variables = _make_variables(block, x, train=False)

    @jax.jit
    def compute(key):
        branch = block.apply(variables, x, train=False) - x
        return branch, block.apply(variables, x, train=True, rngs={'dropout': key}) - x

    branch, dropped = compute(jax.random.key(2))
    is_kept = np.any(dropped != 0, axis=(1, 2, 3))
    assert 0 < is_kept.sum() < 16
    np.testing.assert_allclose(
        dropped, np.where(is_kept[:, None, None, None], branch / 0.75, 0), atol=1e-5
    )


def test_keep_probability_falls_linearly_over_the_blocks():
    probabilities = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, ConvNeXtBlock):
            probabilities.append(context.module.keep_prob)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        probe.make_shapes(_tiny(drop_path_keep_prob=0.4))
    np.testing.assert_allclose(probabilities, [1, 0.8, 0.6, 0.4])


def test_wrong_output_stride_is_refused():
    with pytest.raises(ValueError, match='ConvNeXt output_stride must be one of .*not 64'):
        ConvNeXt(output_stride=64)
