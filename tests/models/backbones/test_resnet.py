"""ResNets: published sizes, strides and dilations of each convention, features for decoders."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions

COUNTS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _make(depth, stride_convention='torchvision', **attributes):
    block = 'basic' if depth < 50 else 'bottleneck'
    return ResNet(COUNTS[depth], block=block, stride_convention=stride_convention, **attributes)


def _trace(module, size):
    """Lists parameter shapes, and (path, dilation, stride, multiply-adds) of every convolution."""
    convs = []

    def note(call, arguments, keywords, context):
        y = call(*arguments, **keywords)
        if isinstance(context.module, Conv) and context.method_name == '__call__':
            conv = context.module
            work = (
                y.shape[1] * y.shape[2] * y.shape[3] * conv.kernel_size**2 * arguments[0].shape[-1]
            )
            convs.append(('/'.join(conv.path), conv.dilation, conv.stride, work))
        return y

    with nn.intercept_methods(note):
        variables = jax.eval_shape(
            lambda: module.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)
        )
    return variables['params'], convs


def _random_variables(module, image):
    """Draws variables without zeros in NumPy; module.init would compile a program per layer."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))

    def draw(path, x):
        if path[-1].key == 'kernel':
            return rng.normal(0, np.sqrt(1 / np.prod(x.shape[:-1])), x.shape).astype(np.float32)
        low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.3, 0.3)
        return rng.uniform(low, high, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


# Published totals without the classifier, from torchvision, DeepLab2 and the DeepLab papers.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('module', 'parameters', 'size', 'giga_multiply_adds'),
    [
        (_make(18), 11_176_512, (224, 224), 1.8136),
        (_make(34), 21_284_672, (224, 224), 3.6633),
        (_make(50), 23_508_032, (224, 224), 4.0871),
        (_make(101), 42_500_160, (224, 224), 7.7994),
        (_make(152), 58_143_808, (224, 224), 11.5116),
        (_make(50, stem='beta'), 23_631_808, (224, 224), 5.4423),
        (_make(101, stem='beta'), 42_623_936, (224, 224), 9.1545),
        (_make(50), 23_508_032, (1025, 2049), 174.4),
        (_make(50, output_stride=16), 23_508_032, (1025, 2049), 264.3),
        (_make(50, output_stride=8), 23_508_032, (1025, 2049), 806.5),
        (_make(50, stem='beta', output_stride=8), 23_631_808, (1025, 2049), 863.3),
        (
            _make(50, 'detectron2', stem='beta', multi_grid=(1, 2, 4), output_stride=16),
            23_631_808,
            (1025, 2049),
            321.2,
        ),
        (_make(50, 'slim', stem='beta', output_stride=16), 23_631_808, (1025, 2049), 304.15),
        (_make(50, 'deeplab2'), 23_508_032, (1025, 2049), 176.0),
        (_make(101, stem='beta', output_stride=16), 42_623_936, (1025, 2049), 480.0),
    ],
)
def test_parameters_and_multiply_adds(module, parameters, size, giga_multiply_adds):
    params, convs = _trace(module, size)
    assert sum(x.size for x in jax.tree.leaves(params)) == parameters
    np.testing.assert_allclose(sum(conv[-1] for conv in convs) / 1e9, giga_multiply_adds, rtol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('stride_convention', 'output_stride', 'multi_grid', 'stage4', 'stage5'),
    [
        ('deeplab2', 16, (), [1] * 6, [1, 2, 2]),
        ('torchvision', 16, (), [1] * 6, [1, 2, 2]),
        ('torchvision', 8, (), [1, 2, 2, 2, 2, 2], [2, 4, 4]),
        ('torchvision', 4, (), [2, 4, 4, 4, 4, 4], [4, 8, 8]),
        ('detectron2', 16, (), [1] * 6, [2, 2, 2]),
        ('detectron2', 16, (1, 2, 4), [1] * 6, [2, 4, 8]),
        ('detectron2', 8, (1, 2, 4), [2] * 6, [4, 8, 16]),
        ('slim', 32, (1, 2, 4), [1] * 6, [1, 2, 4]),
        ('slim', 16, (1, 2, 4), [1] * 6, [2, 4, 8]),
        ('slim', 8, (1, 2, 4), [2] * 6, [4, 8, 16]),
    ],
)
def test_dilations(stride_convention, output_stride, multi_grid, stage4, stage5):
    module = _make(50, stride_convention, output_stride=output_stride, multi_grid=multi_grid)
    dilations = {path: dilation for path, dilation, _, _ in _trace(module, (33, 33))[1]}
    assert [dilations[f'stage4_block{i}/conv2/conv'] for i in range(1, 7)] == stage4
    assert [dilations[f'stage5_block{i}/conv2/conv'] for i in range(1, 4)] == stage5


@pytest.mark.parametrize(
    ('stride_convention', 'dilations'),
    [('deeplab2', [1, 2, 2, 2]), ('detectron2', [2, 2, 2, 2]), ('slim', [2, 2, 2, 2])],
)
def test_dilations_of_basic_blocks(stride_convention, dilations):
    _, convs = _trace(_make(18, stride_convention, output_stride=16), (33, 33))
    last = [
        dilation
        for path, dilation, _, _ in convs
        if path.startswith('stage5') and 'shortcut' not in path
    ]
    assert last == dilations


@pytest.mark.parametrize(
    ('depth', 'stride_convention', 'strided'),
    [
        (50, 'deeplab2', {f'stage{i}_block1/conv2/conv' for i in (2, 3, 4, 5)}),
        (50, 'torchvision', {f'stage{i}_block1/conv2/conv' for i in (3, 4, 5)}),
        (
            50,
            'slim',
            {'stage2_block3/conv2/conv', 'stage3_block4/conv2/conv', 'stage4_block6/conv2/conv'},
        ),
        (50, 'msra', {f'stage{i}_block1/conv1/conv' for i in (3, 4, 5)}),
        (18, 'detectron2', {f'stage{i}_block1/conv1/conv' for i in (3, 4, 5)}),
        (18, 'slim', {f'stage{i}_block2/conv2/conv' for i in (2, 3, 4)}),
    ],
)
def test_strides(depth, stride_convention, strided):
    _, convs = _trace(_make(depth, stride_convention), (33, 33))
    assert {path for path, _, stride, _ in convs if stride == 2} == strided | {'stem/conv'}


@pytest.mark.parametrize(('endpoints', 'padding'), [('outputs', 'symmetric'), ('inner', 'same')])
@pytest.mark.parametrize('stride_convention', ['deeplab2', 'torchvision', 'detectron2', 'slim'])
@pytest.mark.parametrize('output_stride', [4, 16, 32])
def test_shapes(stride_convention, output_stride, endpoints, padding):
    options = LayerOptions(padding=padding)
    module = _make(
        18,
        stride_convention,
        endpoints=endpoints,
        output_stride=output_stride,
        width_multiplier=0.25,
        options=options,
    )
    image = jnp.zeros((2, 50, 65, 3))
    features = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=True)[0], image
    )
    strides = [s for s in (4, 8, 16, 32) if s <= output_stride]
    assert set(features) == {'last', 'stem', *(f'stride{s}' for s in strides)}
    for name, stride, channels in (
        ('last', output_stride, 128),
        *((f'stride{s}', s, 4 * s) for s in strides),
    ):
        assert features[name].shape == (2, -(-50 // stride), -(-65 // stride), channels), name


@pytest.mark.slow
@pytest.mark.parametrize(
    'attributes',
    [
        {'block': 'basic', 'stride_convention': 'deeplab2'},
        {'block': 'basic', 'stride_convention': 'torchvision', 'stem': 'beta'},
        {'stride_convention': 'torchvision', 'multi_grid': (1, 2)},
        {'stride_convention': 'slim', 'multi_grid': (1, 2), 'endpoints': 'inner'},
        {'block': 'basic', 'stride_convention': 'slim'},
        {'stride_convention': 'torchvision', 'stem': 'deep', 'shortcut': 'averaged', 'groups': 2},
    ],
)
def test_atrous_consistency(attributes):
    """Checks that a smaller output stride gives the same features, only more of them."""
    image = jax.random.normal(jax.random.key(1), (1, 65, 65, 3))
    make = {
        stride: ResNet((2, 2, 2, 2), output_stride=stride, width_multiplier=0.125, **attributes)
        for stride in (8, 16, 32)
    }
    variables = _random_variables(make[32], image)

    @jax.jit
    def run(variables, image):
        return {
            stride: module.apply(variables, image, train=False) for stride, module in make.items()
        }

    features = run(variables, image)
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


def test_detectron2_is_torchvision_until_a_stride_is_replaced():
    image = jax.random.normal(jax.random.key(1), (1, 33, 33, 3))
    modules = {
        (convention, stride): ResNet(
            (1, 1, 1, 1), stride_convention=convention, output_stride=stride, width_multiplier=0.125
        )
        for convention in ('torchvision', 'detectron2')
        for stride in (16, 32)
    }
    variables = _random_variables(modules['torchvision', 32], image)
    run = jax.jit(
        lambda v, x: {
            key: module.apply(v, x, train=False)['last'] for key, module in modules.items()
        }
    )
    features = run(variables, image)
    np.testing.assert_array_equal(features['detectron2', 32], features['torchvision', 32])
    assert float(jnp.max(jnp.abs(features['detectron2', 16] - features['torchvision', 16]))) > 1e-3


def test_endpoints_of_slim():
    """Endpoints are the residual branch of the last unit before the stride, or its output."""
    image = jax.random.normal(jax.random.key(1), (1, 33, 40, 3))

    def run(endpoints):
        module = ResNet(
            (3, 2, 3, 2),
            stride_convention='slim',
            endpoints=endpoints,
            output_stride=16,
            width_multiplier=0.125,
        )

        @jax.jit
        def apply(variables, image):
            layers = {}

            def note(call, arguments, keywords, context):
                y = call(*arguments, **keywords)
                if isinstance(context.module, ConvNorm) and context.method_name == '__call__':
                    layers['/'.join(context.module.path)] = (arguments[0], y)
                return y

            with nn.intercept_methods(note):
                return module.apply(variables, image, train=False), layers

        return apply(_random_variables(module, image), image)

    inner, layers = run('inner')
    for key, stage, unit in (('stride4', 2, 2), ('stride8', 3, 1), ('stride16', 4, 2)):
        np.testing.assert_array_equal(inner[key], layers[f'stage{stage}_block{unit}/conv3'][1])
        assert float(inner[key].min()) < 0, 'neither added nor activated'
    outputs, layers = run('outputs')
    for key, stage, unit in (('stride4', 2, 3), ('stride8', 3, 2), ('stride16', 4, 3)):
        np.testing.assert_array_equal(outputs[key], layers[f'stage{stage}_block{unit}/conv1'][0])
    np.testing.assert_allclose(inner['last'], outputs['last'], atol=1e-5)


@pytest.mark.parametrize(
    ('padding', 'pooled'), [('symmetric', [[18, 22], [50, 54]]), ('same', [[36, 38], [52, 54]])]
)
def test_max_pool_of_slim_follows_the_padding_and_its_convolutions_do_not(padding, pooled):
    module = ResNet(
        (1, 1, 1, 1),
        stride_convention='slim',
        width_multiplier=0.125,
        options=LayerOptions(padding=padding),
    )
    image = jnp.broadcast_to(jnp.arange(64.0).reshape(1, 8, 8, 1), (1, 8, 8, 3))
    variables = _random_variables(module, image)
    # This stem copies every second pixel; with TensorFlow's SAME it would begin with the second.
    variables['params']['stem']['conv']['kernel'] = jnp.zeros((7, 7, 3, 8)).at[3, 3, 0].set(1)
    norms = {'scale': jnp.ones(8), 'bias': jnp.zeros(8)}, {'mean': jnp.zeros(8), 'var': jnp.ones(8)}
    variables['params']['stem']['norm'], variables['batch_stats']['stem']['norm'] = norms

    @jax.jit
    def pool(variables, image):
        seen = []

        def note(call, arguments, keywords, context):
            if context.module.name == 'stage2_block1' and context.method_name == '__call__':
                seen.append(arguments[0])
            return call(*arguments, **keywords)

        with nn.intercept_methods(note):
            module.apply(variables, image, train=False)
        return seen[0]

    np.testing.assert_allclose(
        pool(variables, image)[0, :, :, 0] * np.sqrt(1.001), pooled, rtol=1e-5
    )


def test_wrong_attributes_are_named():
    with pytest.raises(ValueError, match=r"stride_convention must be one of .*'slim'.*not 'keras'"):
        _make(50, 'keras')
    with pytest.raises(ValueError, match="stem must be one of .*'beta'.*not 'wide'"):
        _make(50, stem='wide')
    with pytest.raises(ValueError, match='output_stride must be one of .*not 12'):
        _make(50, output_stride=12)
    with pytest.raises(
        ValueError,
        match=r'multi_grid \(1, 2\) must be empty or have one factor for each of the 3 units',
    ):
        _make(50, multi_grid=(1, 2))
    with pytest.raises(ValueError, match="endpoints='inner' needs two units in every stage"):
        ResNet((1, 2, 2, 2), endpoints='inner')


def test_groups_are_convolved_apart():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 7, 9, 12)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 4, 15)).astype(np.float32)
    weights = rng.normal(size=(1, 4, 5, 15)).astype(np.float32)

    def convolve(x, kernel, groups):
        conv = Conv(kernel.shape[-1], 3, 2, 2, groups=groups)
        return conv.apply({'params': {'kernel': kernel}}, x)

    def total(x, kernel):
        return jnp.sum(convolve(x, kernel, 3) * weights)

    def total_apart(x, kernel):
        parts = zip(jnp.split(x, 3, -1), jnp.split(kernel, 3, -1), strict=True)
        return jnp.sum(jnp.concatenate([convolve(*part, 1) for part in parts], -1) * weights)

    found, expected = (jax.value_and_grad(f, (0, 1))(x, kernel) for f in (total, total_apart))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def test_groups_need_bottlenecks():
    with pytest.raises(ValueError, match='are of bottlenecks'):
        ResNet((2, 2, 2, 2), block='basic', groups=2)
