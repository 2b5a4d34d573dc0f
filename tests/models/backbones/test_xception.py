"""Xception: published counts of all depths, bowenc0221's features, endpoints by original."""

import collections
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from pdl_jax.models.backbones.xception import Xception, XceptionModule
from pdl_jax.models.blocks import Conv, LayerOptions
from tests.models.backbones import probe


@pytest.mark.slow
@pytest.mark.parametrize(
    ('depth', 'output_stride', 'size', 'parameters', 'giga_multiply_adds'),
    [
        (41, 8, (513, 513), 24_920_560, 109.2),
        (65, 16, (513, 513), 37_867_312, 48.57),
        (71, 32, (1025, 2049), 40_289_736, 414.77),
    ],
)
def test_counts_and_endpoints(depth, output_stride, size, parameters, giga_multiply_adds):
    traced = probe.trace(Xception(depth, output_stride=output_stride), size)
    assert traced.parameters == parameters
    assert round(traced.multiply_adds / 1e9, 2) == giga_multiply_adds
    channels = {4: 256, 8: 728, 16: 1024, 32: 2048}
    expected = {
        f'stride{stride}': channels[stride] for stride in channels if stride <= output_stride
    }
    assert {key: shape[-1] for key, shape in traced.shapes.items()} == {**expected, 'last': 2048}
    for key, shape in traced.shapes.items():
        stride = output_stride if key == 'last' else int(key.removeprefix('stride'))
        assert shape[:2] == tuple(-(-n // stride) for n in size)


def test_multiply_adds_of_the_classifier():
    traced = probe.trace(Xception(41, output_stride=32), (299, 299))
    assert round((traced.multiply_adds + 2048 * 1000) / 1e9, 3) == 9.204


def test_bowenc0221_reads_the_middle_flow_at_stride_16():
    # The channels that its decoders project, finest first.
    shapes = probe.trace(Xception(65, 'middle_flow', output_stride=32), (65, 65)).shapes
    assert [shapes[f'stride{stride}'][-1] for stride in (4, 8, 16)] == [256, 728, 728]


@pytest.mark.parametrize(
    ('features', 'shortcut', 'stride', 'dilation', 'expected_output', 'expected_inner'),
    [
        # bowenc0221's XceptionBlock with the same variables and input.
        (
            (8, 16, 24),
            'conv',
            2,
            1,
            [1.227171, -0.923902, -0.42037, 0.434317, 1.484499, -3.32453],
            [0.176319, 0.016068, -0.238774, -0.558006],
        ),
        (
            (8, 8, 8),
            'sum',
            1,
            2,
            [-1.066039, -1.390358],
            [0.568853, -0.144049],
        ),
        (
            (16, 16, 24),
            'none',
            1,
            2,
            [4.03865, 0.522068, 5.621958, 1.393901, 0, 0],
            [0, 0, 0, 0.12824],
        ),
    ],
)
def test_modules_are_those_of_bowenc0221(
    features, shortcut, stride, dilation, expected_output, expected_inner
):
    x = np.random.default_rng(0).standard_normal((1, 9, 12, 8)).astype(np.float32)
    module = XceptionModule(
        features, shortcut, stride, (dilation,) * 3, LayerOptions(norm_epsilon=1e-5)
    )
    variables = probe.make_variables(
        jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    )
    output, inner = module.apply(variables, x, train=False)
    np.testing.assert_allclose(output[0, 2, 3, ::4], expected_output, atol=1e-5)
    np.testing.assert_allclose(inner[0, 2, 3, ::4], expected_inner, atol=1e-5)


@pytest.mark.slow
def test_atrous_consistency():
    probe.check_atrous_consistency(functools.partial(Xception, 41, width_multiplier=0.02), (8, 32))


@pytest.mark.parametrize(
    ('output_stride', 'multi_grid', 'middle', 'exit_1', 'exit_2'),
    [(32, (), 1, 1, [1, 1, 1]), (16, (1, 2, 4), 1, 1, [2, 4, 8]), (8, (), 2, 2, [4, 4, 4])],
)
def test_dilations(output_stride, multi_grid, middle, exit_1, exit_2):
    dilations = collections.defaultdict(list)

    def record(next_method, args, kwargs, context):
        module = context.module
        if isinstance(module, Conv) and module.is_depthwise:
            dilations[module.path[0]].append(module.dilation)
        return next_method(*args, **kwargs)

    with nn.intercept_methods(record):
        probe.make_shapes(Xception(41, 'inner', multi_grid, output_stride))
    assert dilations['entry_block3'] == [1, 1, 1]
    assert dilations['middle_block1'] == dilations['middle_block8'] == [middle] * 3
    assert dilations['exit_block1'] == [exit_1] * 3
    assert dilations['exit_block2'] == exit_2


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match='Xception depth must be one of .*, not 50'):
        Xception(50)
    with pytest.raises(
        ValueError, match=r'Xception multi_grid \(1, 2\) must be empty or have three factors'
    ):
        Xception(multi_grid=(1, 2))
