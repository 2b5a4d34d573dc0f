"""Networks that halt: whole networks of the original program, counts, frozen positions."""

import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.adaptive_computation import (
    HaltingOptions,
    UnitCost,
    list_stages,
    ponder_cost,
    run_adaptive_stage,
)
from pdl_jax.models.backbones import BACKBONES
from pdl_jax.models.backbones.preactivation_resnet import PreactivationResNet
from pdl_jax.models.blocks import LayerOptions, UnitFeatures
from pdl_jax.models.classifier import Classifier
from pdl_jax.models.summary import add_up, summarize
from pdl_jax.ops.platforms import pin_platform
from pdl_jax.presets import make_options
from tests.convert.compiling import compiling_fast, run_fast
from tests.golden_rule import load_rule

NARROW = 'resnet11_v2'
NETWORKS = {
    'cifar_resnet32_vanilla': ('cifar_resnet32', '', 10),
    'cifar_resnet32_act': ('cifar_resnet32', 'act', 10),
    'cifar_resnet32_sact': ('cifar_resnet32', 'sact', 10),
    'imagenet_2_3_4_2_sact': (NARROW, 'sact', 10),
    'imagenet_resnet50_vanilla_bc64': ('resnet50_v2', '', 1000),
}
SIZES = {NARROW: (65, 97), 'resnet50_v2': (64, 64), 'cifar_resnet32': (32, 32)}
# Names of the original, longest first, and ours.
NAMES = (
    ('halting_proba/(local|global)_conv/biases', 'bias'),
    ('halting_proba/(local|global)_(conv|bn)', r'\1_\2'),
    ('/(residual|bottleneck_v2)/', '/'),
    ('(conv[123])/BatchNorm', r'\1/norm'),
    ('BatchNorm|postnorm', 'norm'),
    ('_bn/', '_norm/'),
    ('weights', 'kernel'),
    ('biases', 'bias'),
    ('gamma', 'scale'),
    ('beta', 'bias'),
    ('moving_mean', 'mean'),
    ('moving_variance', 'var'),
)


@pytest.fixture(autouse=True)
def narrow_network(monkeypatch):
    """The network of a golden: base width 16 behind a stem of the usual width."""
    make = functools.partial(
        PreactivationResNet, block_counts=(2, 3, 4, 2), stage_width_multiplier=0.25
    )
    monkeypatch.setitem(BACKBONES, NARROW, make)


def make_network(backbone, kind, num_classes):
    preset = 'imagenet/cifar_resnet32' if 'cifar' in backbone else 'imagenet/resnet50_v2'
    options = make_options(preset, backbone=backbone, adaptive_computation=kind)
    return Classifier(num_classes, options)


def find_path(name):
    """Returns the collection and the path of ours for a variable of the original."""
    is_cifar = name.startswith('resnet_residual')
    name = name.partition('/')[2]
    name = re.sub(r'^Conv/|^conv1/', 'backbone/stem/', name)
    name = re.sub('^logits', 'predict', name)
    has_halting = 'halting_proba' in name
    kind = 'halting' if has_halting else 'block'

    def rename(match):
        stage = int(match[1]) + (0 if is_cifar else 1)
        return f'backbone/stage{stage}_{kind}{match[2]}/'

    name = re.sub(r'^block_?(\d+)/unit_(\d+)/', rename, name)
    for old, new in NAMES:
        name = re.sub(old, new, name)
    name = re.sub('^norm', 'norm' if is_cifar else 'backbone/norm', name)
    # A convolution with BatchNorm, which has no bias.
    name = re.sub(r'(conv1|conv2)/kernel$', r'\1/conv/kernel', name)
    if is_cifar:
        name = name.replace('conv2/conv/kernel', 'conv2/kernel')
    collection = 'batch_stats' if name.endswith(('mean', 'var')) else 'params'
    return (collection, *name.split('/'))


def draw(rule, name, shape):
    """Draws a variable by the rule for names of TensorFlow."""
    z = rule.draw(name, shape)
    last = name.rsplit('/', 1)[-1]
    value = {
        'moving_mean': 0.1 * z,
        'moving_variance': np.exp(0.2 * z),
        'gamma': 1 + 0.1 * z,
        'beta': 0.1 * z,
        'biases': 0.1 * z,
        'weights': z / np.sqrt(np.prod(shape[:-1])),
    }[last]
    if 'halting_proba' in name and last == 'biases':
        value = value - 1
    if 'halting_proba' in name and last == 'weights':
        value = 1.5 * value
    return value.astype(np.float32)


def draw_variables(rule, shapes):
    variables = {}
    for name, shape in shapes.items():
        *path, last = find_path(name)
        node = variables
        for part in path:
            node = node.setdefault(part, {})
        assert last not in node, name
        node[last] = draw(rule, name, shape)
    return variables


def count_flops(network, size, stages):
    """Counts the floating point operations of each image, i64[B]."""
    dense = add_up(summarize(network, size)).multiply_adds
    skipped = sum(
        np.asarray(x.skipped, np.int64) @ np.asarray(x.multiply_adds, np.int64) for x in stages
    )
    return 2 * (dense - skipped)


@pytest.mark.parametrize('case', NETWORKS)
def test_networks_are_the_originals(case, find_golden, shared_dir):
    golden = np.load(find_golden('sact', case))
    rule = load_rule(shared_dir)
    backbone, kind, num_classes = NETWORKS[case]
    network, size = make_network(backbone, kind, num_classes), SIZES[backbone]
    shapes = json.loads(str(golden['variables']))
    variables = draw_variables(rule, shapes)
    num_images = len(golden['logits'])
    image = rule.image('image', (num_images, 3, *size), 0).transpose(0, 2, 3, 1)
    expected = jax.eval_shape(network.init, jax.random.key(0), image)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(expected))
    sizes = [x.size for x in jax.tree.leaves(variables['params'])]
    assert sum(sizes) == golden['num_parameters']

    def compute(params):
        logits, collections = network.apply(
            {**variables, 'params': params}, image, mutable=['computation']
        )
        stages = list_stages(collections)
        log_probabilities = jax.nn.log_softmax(logits)
        cross_entropy = -jnp.mean(log_probabilities[jnp.arange(num_images), jnp.arange(num_images)])
        total = cross_entropy + 0.01 * ponder_cost(stages)
        return total, (logits, stages, cross_entropy)

    with compiling_fast():
        function = jax.value_and_grad(compute, has_aux=True) if kind else compute
        results = jax.jit(function)(variables['params'])
    (total, (logits, stages, cross_entropy)), gradients = results if kind else (results, None)
    np.testing.assert_allclose(logits, golden['logits'], atol=1e-4)
    flops = golden['flops']
    np.testing.assert_array_equal(
        count_flops(network, size, stages), flops[:, 0] if kind == 'sact' else flops
    )
    if not kind:
        return
    for i, stage in enumerate(stages, 1):
        name = f'block_{i}' if 'cifar' in case else f'block{i}'
        squeeze = (lambda x: x[:, 0, 0]) if kind == 'act' else np.asarray
        np.testing.assert_array_equal(squeeze(stage.num_units), golden[f'{name}_num_units'])
        np.testing.assert_allclose(squeeze(stage.ponder), golden[f'{name}_ponder_cost'], atol=1e-4)
        np.testing.assert_allclose(
            squeeze(stage.weights), golden[f'{name}_halting_distribution'], atol=1e-4
        )
    np.testing.assert_allclose(ponder_cost(stages), golden['ponder'], atol=1e-4)
    np.testing.assert_allclose(cross_entropy, golden['cross_entropy'], atol=1e-4)
    np.testing.assert_allclose(total, golden['total'], atol=1e-4)
    probes = json.loads(str(golden['gradients']))
    assert set(probes) == {name for name in shapes if find_path(name)[0] == 'params'}
    for name, probe in probes.items():
        gradient = functools.reduce(lambda x, key: x[key], find_path(name)[1:], gradients)
        gradient = np.asarray(gradient, np.float64)
        norm = np.linalg.norm(gradient)
        assert abs(norm - probe['norm']) <= 1e-4 * probe['norm'], name
        found = np.sum(gradient * rule.draw(name + '/probe', gradient.shape))
        assert abs(found - probe['probe']) <= 1e-4 * probe['norm'], name


@pytest.mark.parametrize(
    ('backbone', 'kind', 'num_parameters'),
    [
        ('cifar_resnet32', '', 464_730),
        ('cifar_resnet32', 'act', 466_086),
        ('cifar_resnet32', 'sact', 471_014),
        ('resnet50_v2', '', 25_568_360),
    ],
)
def test_published_counts(backbone, kind, num_parameters):
    network = make_network(backbone, kind, 1000 if backbone == 'resnet50_v2' else 10)
    total = add_up(summarize(network, SIZES[backbone]))
    assert total.parameters == num_parameters
    if not kind:
        flops = {'cifar_resnet32': 137_725_184, 'resnet50_v2': 671_383_552}[backbone]
        assert 2 * total.multiply_adds == flops


class LeftUnit(nn.Module):
    """Adds the feature of the pixel to the left."""

    cost = UnitCost(0, 1)

    @nn.compact
    def __call__(self, x, *, train):
        total = x + jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
        return UnitFeatures(total, total, total)


class Stage(nn.Module):
    """Three units after each other."""

    kind: str = 'sact'
    min_active_share: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False):
        features = run_adaptive_stage(
            self,
            [LeftUnit(name=f'unit{i}') for i in range(3)],
            UnitFeatures(x, x, x),
            name='stage',
            halting=HaltingOptions(self.kind, min_active_share=self.min_active_share),
            options=LayerOptions(norm_epsilon=0.0),
            train=train,
        )
        return features.activated


ROW = jnp.array([10.0, 1.0, 0.0, -5.0])[None, None, :, None]


def run_row(**attributes):
    """Runs a stage on `ROW` with the score sigmoid(feature); returns output and computation."""
    stage = Stage(**attributes)
    variables = stage.init(jax.random.key(0), ROW)
    params = jax.tree.map(jnp.zeros_like, variables['params'])
    for scores in params.values():
        scores['local_norm']['scale'] = jnp.ones(1)
        scores['local_conv']['kernel'] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    output, collections = stage.apply({**variables, 'params': params}, ROW, mutable=['computation'])
    return output[0, 0, :, 0], list_stages(collections)[0]


def test_halted_positions_keep_their_features_and_are_read():
    output, stage = run_row()
    np.testing.assert_array_equal(stage.num_units[0, 0], [1, 1, 2, 3])
    h = [jax.nn.sigmoid(x) for x in (1.0, -5.0, -4.0)]
    expected = [
        10,
        11,
        h[0] * 1 + (1 - h[0]) * 12,
        # The last unit reads the 12 of a position that has halted.
        h[1] * -5 + h[2] * -4 + (1 - h[1] - h[2]) * 8,
    ]
    np.testing.assert_allclose(output, expected, rtol=1e-6)
    # The first convolution also runs beside active positions.
    np.testing.assert_array_equal(stage.skipped[0], [1, 2, 2, 3])


def test_an_image_halts_where_few_of_its_positions_go_on():
    output, stage = run_row(min_active_share=0.6)
    np.testing.assert_array_equal(stage.num_units[0, 0], 1)
    np.testing.assert_array_equal(output, [10, 11, 1, -5])


def test_one_position_halts_like_a_picture():
    x = jnp.array([0.3, -0.2])[:, None, None, None]
    results = {}
    for kind in ('act', 'sact'):
        stage = Stage(kind)
        variables = stage.init(jax.random.key(0), x)
        params = jax.tree.map(jnp.zeros_like, variables['params'])
        for scores in params.values():
            scores['global_norm']['scale'] = jnp.ones(1)
            scores['global_conv']['kernel'] = jnp.ones((1, 1, 1, 1))
        results[kind] = stage.apply({**variables, 'params': params}, x)
    np.testing.assert_array_equal(results['act'], results['sact'])
    assert np.ptp(results['act']) > 0


def test_units_without_active_positions_are_left_out_at_inference():
    """Programs of other runtimes, which may lack branches, give the same values without them."""
    output, _ = run_row()
    with pin_platform('portable'):
        dense, _ = run_row()
    np.testing.assert_array_equal(output, dense)

    def count_branches(train):
        def run(x):
            variables = Stage().init(jax.random.key(0), x)
            return Stage().apply(variables, x, train=train, mutable=['batch_stats'])[0]

        return str(jax.make_jaxpr(run)(ROW)).count('cond[')

    assert count_branches(train=False) == 2
    assert count_branches(train=True) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('backbone', 'kind', 'fields'),
    [
        ('resnet18', 'sact', {}),
        ('resnet50', 'act', {'output_stride': 16}),
        ('resnet50', 'sact', {'stride_convention': 'detectron2', 'output_stride': 16}),
        ('resnet50_v2', 'sact', {}),
        ('cifar_resnet32', 'sact', {}),
    ],
)
def test_the_cost_of_units_is_that_of_their_convolutions(backbone, kind, fields):
    """Where all positions halt at once, everything behind the first units is skipped."""
    size = (33, 41)
    options = make_options(
        f'imagenet/{backbone}', adaptive_computation=kind, width_multiplier=0.125, **fields
    )
    network = Classifier(3, options)
    image = jnp.zeros((2, *size, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)

    def fill(path, x):
        is_halting = 'halting' in jax.tree_util.keystr(path)
        return jnp.full(x.shape, 100.0 if is_halting and path[-1].key == 'bias' else 1.0, x.dtype)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    stages = list_stages(
        run_fast(lambda v: network.apply(v, image, mutable='computation')[1], variables)
    )
    skipped = sum(np.asarray(x.skipped, np.int64) @ np.asarray(x.multiply_adds) for x in stages)
    expected = 0
    for name, part in summarize(network, size, depth=3).items():
        unit = re.search('/stage._(block|halting)([0-9]+)/(.*)', name)
        if unit and int(unit[2]) > 1 and (kind == 'act' or unit[3] != 'global_conv'):
            expected += part.multiply_adds
    np.testing.assert_array_equal(skipped, expected)
    plain = make_options(f'imagenet/{backbone}', width_multiplier=0.125, **fields)
    plain_shapes = jax.eval_shape(Classifier(3, plain).init, jax.random.key(0), image)
    added = {name for name in shapes['params']['backbone'] if 'halting' in name}
    rest = {k: v for k, v in shapes['params']['backbone'].items() if k not in added}
    assert added and rest == plain_shapes['params']['backbone']
