"""MobileNetV3: published counts of all variants, torchvision's features, endpoints by original."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones.inverted_residual import SqueezeExcite
from pdl_jax.models.backbones.mobilenet_v3 import MobileNetV3
from pdl_jax.models.blocks import LayerOptions
from tests.models.backbones import probe


@pytest.mark.parametrize(
    ('size', 'variant', 'output_stride', 'parameters', 'giga_multiply_adds'),
    [
        ('large', 'standard', 16, 2_971_952, 14.955),
        ('large', 'seg', 32, 1_379_184, 7.293),
        ('small', 'standard', 32, 927_008, 2.334),
        ('small', 'seg', 16, 390_576, 2.335),
    ],
)
def test_counts(size, variant, output_stride, parameters, giga_multiply_adds):
    module = MobileNetV3(size, variant, output_stride=output_stride)
    traced = probe.trace(module, (1025, 2049))
    assert traced.parameters == parameters
    assert round(traced.multiply_adds / 1e9, 3) == giga_multiply_adds


@pytest.mark.parametrize(
    ('size', 'variant', 'hidden', 'parameters', 'mega_multiply_adds'),
    [
        ('large', 'standard', 1280, 5_483_032, 216.59),
        ('large', 'minimalistic', 1280, 3_924_288, 209.14),
        ('small', 'standard', 1024, 2_542_856, 56.51),
        ('small', 'minimalistic', 1024, 2_044_736, 52.29),
    ],
)
def test_counts_with_classifier(size, variant, hidden, parameters, mega_multiply_adds):
    traced = probe.trace(MobileNetV3(size, variant, output_stride=32), (224, 224))
    classifier = traced.shapes['last'][-1] * hidden + hidden * 1000
    assert traced.parameters + classifier + hidden + 1000 == parameters
    assert round((traced.multiply_adds + classifier) / 1e6, 2) == mega_multiply_adds


@pytest.mark.parametrize(
    ('size', 'endpoints', 'channels'),
    [
        ('large', 'inner', (72, 120, 672, 960)),
        ('small', 'inner', (16, 88, 144, 576)),
        ('large', 'outputs', (24, 40, 80, 960)),
        ('small', 'outputs', (16, 24, 40, 576)),
    ],
)
def test_endpoints(size, endpoints, channels):
    options = LayerOptions(jnp.bfloat16, padding='same')
    module = MobileNetV3(size, endpoints=endpoints, output_stride=32, options=options)
    shapes = probe.trace(module, (65, 50)).shapes
    keys = ('stride4', 'stride8', 'stride16', 'stride32')
    sizes = ((17, 13), (9, 7), (5, 4), (3, 2))
    expected = {key: (*size, width) for key, size, width in zip(keys, sizes, channels, strict=True)}
    assert shapes == {**expected, 'last': expected['stride32']}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('size', 'output_stride', 'expected'),
    [
        # torchvision's backbones with the same variables and image; the large one dilated, as for
        # segmentation.
        (
            'large',
            16,
            {
                'stride8': [
                    0.934803,
                    -0.462627,
                    -1.534564,
                    1.363147,
                    0.929269,
                    -1.977268,
                    -0.752698,
                    -0.308908,
                ],
                'last': [4.75648, 2.33591, 4.09985, 30.50064, 13.69486, 0.61504, 3.22753, 8.80646],
            },
        ),
        (
            'small',
            32,
            {
                'stride8': [
                    1.210605,
                    0.065133,
                    0.415749,
                    -1.952997,
                    0.888012,
                    0.412495,
                    1.76469,
                    0.748539,
                ],
                'last': [0.02308, 0.36354, 0.39399, -0.03398, 0.04816, 0.01799, 0.64929, 0.27247],
            },
        ),
    ],
)
def test_features_are_those_of_torchvision(size, output_stride, expected):
    module = MobileNetV3(
        size, endpoints='outputs', stride_convention='torchvision', output_stride=output_stride
    )
    features = probe.run(module, probe.make_image(33, 48))
    step = features['stride8'].shape[-1] // 8
    np.testing.assert_allclose(features['stride8'][0, 2, 3, ::step], expected['stride8'], atol=1e-4)
    step = features['last'].shape[-1] // 8
    np.testing.assert_allclose(
        features['last'][0].mean((0, 1))[::step], expected['last'], rtol=1e-4, atol=1e-4
    )


def test_atrous_consistency():
    # Squeeze-and-excite averages over more pixels at a smaller output stride, so networks with it
    # differ.
    make = functools.partial(MobileNetV3, 'small', 'minimalistic', width_multiplier=0.35)
    probe.check_atrous_consistency(make, (8, 32))


def test_expansions_follow_the_rounded_width():
    """TF-slim rounds 80 * 0.75 to 64, times 2.5 is 160; torchvision rounds 200 * 0.75 to 152."""
    params = probe.make_shapes(MobileNetV3(width_multiplier=0.75))['params']
    assert params['block_7']['expand']['conv']['kernel'].shape == (1, 1, 64, 160)
    assert params['last_conv']['conv']['kernel'].shape == (1, 1, 120, 720)


@pytest.mark.parametrize(
    ('gate', 'function'),
    [
        ('sigmoid', lambda x: 1 / (1 + np.exp(-x))),
        ('hard_sigmoid', lambda x: np.clip(x + 3, 0, 6) / 6),
    ],
)
def test_squeeze_excite(gate, function):
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 16)).astype(np.float32)
    module = SqueezeExcite(gate, LayerOptions())
    variables = probe.make_variables(jax.eval_shape(lambda: module.init(jax.random.key(0), x)))
    variables = jax.tree.map(lambda value: 9 * value, variables)
    reduce, expand = (variables['params'][name] for name in ('reduce', 'expand'))
    y = np.maximum(x.mean((1, 2)) @ reduce['kernel'][0, 0] + reduce['bias'], 0)
    y = function(y @ expand['kernel'][0, 0] + expand['bias'])
    np.testing.assert_allclose(
        module.apply(variables, jnp.asarray(x)), x * y[:, None, None], atol=1e-5
    )
    assert reduce['bias'].shape == (8,)


@pytest.mark.parametrize(
    'attribute', ['size', 'variant', 'squeeze_excite_gate', 'endpoints', 'stride_convention']
)
def test_wrong_choices_are_named(attribute):
    with pytest.raises(
        ValueError, match=f"MobileNetV3 {attribute} must be one of .*, not 'medium'"
    ):
        MobileNetV3(**{attribute: 'medium'})
