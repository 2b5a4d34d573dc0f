"""Wide-ResNet-41 and SWideRNet: sizes, atrous consistency, switchable convolutions, drop path."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones.wide_resnet import SwitchableConvNorm, WideResNet, WideUnit
from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions


def _trace(module, size, kind):
    """Lists parameter shapes, and (module, input, output) of every call of a module of `kind`."""
    calls = []

    def note(call, arguments, keywords, context):
        y = call(*arguments, **keywords)
        if isinstance(context.module, kind) and context.method_name == '__call__':
            calls.append((context.module, arguments[0], y))
        return y

    with nn.intercept_methods(note):
        variables = jax.eval_shape(
            lambda: module.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)
        )
    return variables['params'], calls


# Totals of DeepLab2's tests and published checkpoints; multiply-adds exclude the classifier.
@pytest.mark.slow
@pytest.mark.parametrize(
    (
        'depth_multiplier',
        'sac_from_stride',
        'output_stride',
        'size',
        'parameters',
        'giga_multiply_adds',
    ),
    [
        (1, 0, 32, (224, 224), 109_014_080, 53.534),
        (1, 0, 16, (1025, 2049), 109_014_080, 2418.2),
        (3, 0, 32, (224, 224), 333_245_504, 144.63),
        (4.5, 0, 32, (224, 224), 487_453_760, 209.06),
        (1, 32, 16, (33, 33), 112_952_387, None),
        (3, 32, 16, (33, 33), 345_060_425, None),
        (4.5, 32, 16, (33, 33), 504_519_757, None),
    ],
)
def test_parameters_and_multiply_adds(
    depth_multiplier, sac_from_stride, output_stride, size, parameters, giga_multiply_adds
):
    module = WideResNet(
        depth_multiplier=depth_multiplier,
        sac_from_stride=sac_from_stride,
        output_stride=output_stride,
    )
    params, convs = _trace(module, size, Conv)
    assert sum(x.size for x in jax.tree.leaves(params)) == parameters
    if giga_multiply_adds is not None:
        work = sum(
            y.shape[1] * y.shape[2] * y.shape[3] * conv.kernel_size**2 * x.shape[-1]
            for conv, x, y in convs
        )
        np.testing.assert_allclose(work / 1e9, giga_multiply_adds, rtol=1e-4)


def test_multipliers_scale_stem_and_stages_apart():
    params, _ = _trace(WideResNet(0.5, 0.25, 0.7), (33, 33), Conv)
    assert params['stem']['conv']['kernel'].shape == (3, 3, 3, 32)
    assert params['stage1_block3']['conv2']['conv']['kernel'].shape == (3, 3, 64, 64)
    assert params['stage5_block1']['conv2']['conv']['kernel'].shape == (3, 3, 128, 256)
    units = [sum(name.startswith(f'stage{stage}') for name in params) for stage in range(1, 6)]
    assert units == [3, 2, 4, 2, 2]


def test_squeeze_excite_adds_one_layer_to_every_unit():
    params, _ = _trace(WideResNet(has_squeeze_excite=True), (33, 33), Conv)
    widths = [128] * 3 + [256] * 3 + [512] * 6 + [1024] * 3 + [2048] * 3
    assert sum(x.size for x in jax.tree.leaves(params)) == 109_014_080 + sum(
        w * w + w for w in widths
    )


@pytest.mark.parametrize('padding', ['same', 'symmetric'])
@pytest.mark.parametrize('output_stride', [4, 8, 16, 32])
def test_shapes(output_stride, padding):
    module = WideResNet(
        depth_multiplier=0.34,
        has_squeeze_excite=True,
        sac_from_stride=16,
        drop_path_keep_prob=0.5,
        output_stride=output_stride,
        width_multiplier=0.125,
        options=LayerOptions(jnp.bfloat16, padding=padding),
    )
    image = jnp.zeros((2, 50, 65, 3))
    features = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=True)[0], image
    )
    strides = [s for s in (4, 8, 16, 32) if s <= output_stride]
    assert set(features) == {'last', *(f'stride{s}' for s in strides)}
    for name, stride, channels in (
        ('last', output_stride, 256),
        *((f'stride{s}', s, 8 * s) for s in strides),
    ):
        assert features[name].shape == (2, -(-50 // stride), -(-65 // stride), channels), name
        assert features[name].dtype == jnp.bfloat16


def _random_variables(module, *arguments):
    """Draws variables without zeros in NumPy; module.init would compile a program per layer."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, train=False))

    def draw(path, x):
        if path[-1].key == 'kernel':
            return rng.normal(0, np.sqrt(1 / np.prod(x.shape[:-1])), x.shape).astype(np.float32)
        low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.3, 0.3)
        return rng.uniform(low, high, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def test_atrous_consistency():
    """Checks that a smaller output stride gives the same features, only more of them."""
    image = jax.random.normal(jax.random.key(1), (1, 65, 65, 3))
    make = {
        stride: WideResNet(depth_multiplier=0.67, output_stride=stride, width_multiplier=0.125)
        for stride in (8, 16, 32)
    }
    run = jax.jit(
        lambda v, x: {stride: module.apply(v, x, train=False) for stride, module in make.items()}
    )
    features = run(_random_variables(make[32], image), image)
    coarse = features.pop(32)
    scale = float(jnp.max(jnp.abs(coarse['last'])))
    assert scale > 0.1
    for stride, dense in features.items():
        step = 32 // stride
        np.testing.assert_allclose(
            dense['last'][:, ::step, ::step], coarse['last'], atol=1e-4 * scale
        )
        for key in dense.keys() - {'last'}:
            np.testing.assert_allclose(dense[key], coarse[key], atol=1e-4 * scale)


class _Switchable:
    """A linear switchable convolution, switch and contexts at zero, and its plain convolution."""

    def __init__(self):
        self.x = np.random.default_rng(1).normal(size=(2, 11, 12, 5)).astype(np.float32)
        self.module = SwitchableConvNorm(4, dilation=2, activation=None)
        self.variables = _random_variables(self.module, self.x)
        self.params = self.variables['params']
        for name in ('switch', 'context_before', 'context_after'):
            self.params[name] = jax.tree.map(np.zeros_like, self.params[name])

    def apply(self, x):
        return self.module.apply(self.variables, x, train=False)

    def convolve(self, x, dilation):
        variables = {
            **self.variables,
            'params': {key: self.params[key] for key in ('conv', 'norm')},
        }
        return ConvNorm(4, 3, 1, dilation, None).apply(variables, x, train=False)


@pytest.mark.parametrize(('bias', 'dilation'), [(0, 2), (1, 6)])
def test_switch_chooses_the_dilation(bias, dilation):
    sac = _Switchable()
    sac.params['switch']['bias'][:] = bias
    np.testing.assert_allclose(sac.apply(sac.x), sac.convolve(sac.x, dilation), atol=1e-5)


def test_switch_averages_over_pixels_of_the_map_only():
    """On a constant map the switch is the same everywhere, the border included."""
    sac = _Switchable()
    x = np.full_like(sac.x, 0.5)
    sac.params['switch']['kernel'][:] = 0.1
    expected = 0.25 * sac.convolve(x, 6) + 0.75 * sac.convolve(x, 2)
    np.testing.assert_allclose(sac.apply(x), expected, atol=1e-5)


def test_contexts_add_projected_means():
    sac = _Switchable()
    sac.params['context_before']['kernel'][:] = np.eye(5)
    expected = sac.convolve(sac.x + sac.x.mean((1, 2), keepdims=True), 2)
    np.testing.assert_allclose(sac.apply(sac.x), expected, atol=1e-5)
    sac.params['context_after']['bias'][:] = 0.25
    norm, statistics = sac.params['norm'], sac.variables['batch_stats']['norm']
    shift = 0.25 * norm['scale'] / np.sqrt(statistics['var'] + 1e-3)
    np.testing.assert_allclose(sac.apply(sac.x), expected + shift, atol=1e-5)


@pytest.mark.parametrize(
    ('output_stride', 'sac_from_stride', 'switches'),
    [
        (16, 32, {f'stage5_block{i}' for i in (1, 2, 3)}),
        # A strided convolution cannot switch; its contexts remain.
        (32, 32, {f'stage5_block{i}' for i in (2, 3)}),
        (16, 16, {f'stage{stage}_block{i}' for stage in (4, 5) for i in (1, 2, 3)}),
    ],
)
def test_which_units_switch(output_stride, sac_from_stride, switches):
    module = WideResNet(
        sac_from_stride=sac_from_stride, output_stride=output_stride, width_multiplier=0.125
    )
    params, _ = _trace(module, (33, 33), Conv)
    assert {
        name for name, unit in params.items() if any('switch' in layer for layer in unit.values())
    } == switches
    assert 'context_before' in params['stage5_block1']['conv2']


def _make_unit(**attributes):
    attributes = {'has_squeeze_excite': False, 'has_sac': False, 'keep_prob': 1.0, **attributes}
    return WideUnit((8, 8), 1, (1, 1), options=LayerOptions(is_norm_frozen=True), **attributes)


def _scale_branch(variables, factor):
    """Variables of a plain unit whose residual branch is `factor` times as large."""
    params = jax.tree.map(np.copy, {key: variables['params'][key] for key in ('conv1', 'conv2')})
    for key in ('scale', 'bias'):
        params['conv2']['norm'][key] *= factor
    return {**variables, 'params': params}


# Not negative, as behind an activation: a unit without its branch is the identity.
POSITIVE = np.random.default_rng(1).uniform(size=(64, 3, 3, 8)).astype(np.float32)


def test_drop_path_drops_whole_branches_and_scales_the_kept():
    unit = _make_unit(keep_prob=0.75)
    variables = _random_variables(unit, POSITIVE)
    y = jax.jit(lambda v, x, key: unit.apply(v, x, train=True, rngs={'dropout': key}))(
        variables, POSITIVE, jax.random.key(0)
    )
    kept = _make_unit().apply(_scale_branch(variables, 1 / 0.75), POSITIVE, train=False)
    is_dropped = np.array([np.array_equal(*pair) for pair in zip(y, POSITIVE, strict=True)])
    assert 6 <= is_dropped.sum() <= 26, 'about a quarter of 64'
    np.testing.assert_allclose(y[~is_dropped], kept[~is_dropped], atol=1e-5)
    whole = _make_unit().apply(variables, POSITIVE, train=False)
    np.testing.assert_array_equal(unit.apply(variables, POSITIVE, train=False), whole)


def test_squeeze_excite_is_half_open_at_zero_and_closed_at_minus_three():
    unit = _make_unit(has_squeeze_excite=True)
    variables = _random_variables(unit, POSITIVE)
    gate = variables['params']['squeeze_excite']
    gate['kernel'][:], gate['bias'][:] = 0, 0
    half = _make_unit().apply(_scale_branch(variables, 0.5), POSITIVE, train=False)
    np.testing.assert_allclose(unit.apply(variables, POSITIVE, train=False), half, atol=1e-5)
    gate['bias'][:] = -3
    np.testing.assert_array_equal(unit.apply(variables, POSITIVE, train=False), POSITIVE)


@pytest.mark.parametrize(
    ('schedule', 'per_stage'), [('linear', [0.95, 0.9, 0.85, 0.8]), ('constant', [0.8] * 4)]
)
def test_drop_path_schedule(schedule, per_stage):
    """The first unit of a stage counts to the stage before it."""
    module = WideResNet(
        drop_path_keep_prob=0.8, drop_path_schedule=schedule, width_multiplier=0.125
    )
    _, units = _trace(module, (33, 33), WideUnit)
    keep = {unit.name: unit.keep_prob for unit, _, _ in units}
    assert {keep[f'stage1_block{i}'] for i in (1, 2, 3)} == {1.0}
    np.testing.assert_allclose(
        [keep[f'stage{stage}_block1'] for stage in (2, 3, 4, 5)], [1.0, *per_stage[:3]]
    )
    np.testing.assert_allclose([keep[f'stage{stage}_block2'] for stage in (2, 3, 4, 5)], per_stage)


def test_wrong_attributes_are_named():
    with pytest.raises(
        ValueError, match="drop_path_schedule must be one of .*'linear'.*not 'cosine'"
    ):
        WideResNet(drop_path_schedule='cosine')
    with pytest.raises(ValueError, match='output_stride must be one of .*not 64'):
        WideResNet(output_stride=64)
