"""Axial ResNets against DeepLab2's, with variables by rule."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.backbones.axial_resnet import AxialResNet
from tests.models.axial_goldens import AxialGolden
from tests.models.backbones import probe

# Limits relative to the largest value. Attention without scaling amplifies rounding: DeepLab2's
# program in float64 differs from itself in float32 by as much. Stage 5 of the large one says
# little.
LIMITS = {
    'axial_resnet_s_65x65': (1e-4, 1e-3, 5e-2),
    'axial_resnet_l_33x33': (1e-4, 3e-2, 0.3),
    'max_deeplab_s_backbone_65x97': (1e-4, 1e-3, 3e-2),
}
NAMES = {'max_deeplab_s_backbone_65x97': 'max_s'}


@pytest.mark.slow
@pytest.mark.parametrize('case', LIMITS)
def test_features_are_those_of_deeplab2(case, shared_dir):
    golden = AxialGolden(shared_dir, case)
    name = NAMES.get(case, case.rpartition('_')[0])
    module = make_backbone(name, endpoints='unactivated', output_stride=16)
    shapes = probe.make_shapes(module)
    variables = golden.make_variables(shapes)
    assert sum(x.size for x in jax.tree.leaves(variables['params'])) == golden.num_parameters
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, golden.make_image())
    early, stage4, stage5 = LIMITS[case]
    assert golden.find_error('stage1', features['stem']) < early
    assert golden.find_error('stage2', features['stride4']) < early
    assert golden.find_error('stage3', features['stride8']) < early
    assert golden.find_error('stage4', features['stride16']) < stage4
    assert golden.find_error('res5', features['last']) < stage5


def make_tiny(axial_from_stride=8, **attributes):
    return AxialResNet(
        (1, 2, 1, 1),
        width_multiplier=1 / 8,
        stem='beta',
        axial_from_stride=axial_from_stride,
        **attributes,
    )


@pytest.mark.parametrize('output_stride', [16, 32])
def test_shapes_and_the_units_that_attend(output_stride):
    module = make_tiny(output_stride=output_stride)
    features = probe.trace(module, (33, 50)).shapes
    assert features['stem'] == (17, 25, 16)
    assert features['stride4'] == (9, 13, 32) and features['stride8'] == (5, 7, 64)
    assert features['stride16'] == (3, 4, 128)
    assert features['last'] == ((3, 4, 256) if output_stride == 16 else (2, 2, 256))
    params = probe.make_shapes(module)['params']
    attending = {name for name, unit in params.items() if 'attention' in unit}
    assert attending == {'stage3_block2', 'stage4_block1', 'stage5_block1'}


@pytest.mark.parametrize('activation', ['relu', 'gelu'])
def test_unactivated_endpoints_become_the_outputs(activation):
    # One program without attention, which would amplify differences in rounding.
    modules = [
        make_tiny(endpoints=endpoints, activation=activation, axial_from_stride=64)
        for endpoints in ('unactivated', 'outputs')
    ]
    variables = probe.make_variables(probe.make_shapes(modules[0]))
    before, after = jax.jit(lambda v, x: [module.apply(v, x, train=False) for module in modules])(
        variables, probe.make_image(33, 33)
    )
    activate = {'relu': jax.nn.relu, 'gelu': lambda x: jax.nn.gelu(x, approximate=False)}
    for key in set(before) - {'last'}:
        assert jnp.min(before[key]) < -0.2
        np.testing.assert_allclose(activate[activation](before[key]), after[key], atol=1e-4)
    np.testing.assert_allclose(before['last'], after['last'], atol=1e-4)
    np.testing.assert_array_equal(after['stride32'], after['last'])


def test_keep_probability_falls_with_the_stride():
    probabilities = {}

    def note(call, args, kwargs, context):
        if hasattr(context.module, 'keep_prob'):
            probabilities[context.module.name] = context.module.keep_prob
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        probe.make_shapes(make_tiny(drop_path_keep_prob=0.8))
    expected = {'stage2_block1': 1, 'stage3_block1': 0.95, 'stage3_block2': 0.9}
    expected |= {'stage4_block1': 0.9, 'stage5_block1': 0.85}
    assert probabilities == pytest.approx(expected)


def test_output_stride_8_is_refused():
    with pytest.raises(ValueError, match='AxialResNet output_stride must be one of .*not 8'):
        make_tiny(output_stride=8)
