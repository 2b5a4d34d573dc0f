"""Checkpoints of Model Garden are mapped with nothing left over; its networks give its outputs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.convert.conversion import guess_network, load
from pdl_jax.convert.readers import Contents, read_file
from pdl_jax.convert.rules import find_targets
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.preprocess.normalize import normalize_image
from pdl_jax.presets import make_options
from tests.convert.compiling import run_fast
from tests.convert.model_garden_networks import (
    BACKBONES,
    INDEX,
    SUFFIX,
    fill_checkpoint,
    list_keys,
)

SOURCE = SOURCES['model_garden']
TAIL = {'mobilenet_v3_large': (16, 17), 'mobilenet_v3_small': (12, 13)}
# All values, those that are trained, and the number of variables.
COUNTS = {
    'resnet50': (40_227_580, 40_162_684, 507),
    'resnet101': (68_206_588, 68_089_468, 830),
    'mobilenet_v3_large': (5_698_364, 5_662_572, 432),
    'mobilenet_v3_small': (2_832_684, 2_809_180, 376),
}


def _is_tail(key, backbone):
    numbers = TAIL.get(backbone, ())
    return key.startswith(tuple(f'backbone/layer_with_weights-{n}/' for n in numbers))


@functools.cache
def _convert(shared_dir, backbone):
    arrays = fill_checkpoint(shared_dir, backbone)
    contents = Contents(arrays)
    conversion = guess_network(contents, SOURCE)
    assert conversion.network.name == f'model_garden/{backbone}_os16'
    assert conversion.num_classes == 201
    return conversion.network.options, load(conversion, contents)


def _count(shapes):
    return sum(map(math.prod, shapes))


@pytest.mark.parametrize(
    'backbone',
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name.endswith(('101', 'large'))))
        for name in BACKBONES
    ],
)
def test_keys_and_parameters_are_the_originals(backbone, shared_dir):
    keys = list_keys(shared_dir, backbone)
    variables = {key: shape for key, shape in keys.items() if key != INDEX}
    total, trained, number = COUNTS[backbone]
    assert (len(variables), _count(variables.values())) == (number, total)
    contents = Contents({k: np.broadcast_to(np.float32(0), shape) for k, shape in keys.items()})
    conversion = guess_network(contents, SOURCE)
    assert conversion.network.name == f'model_garden/{backbone}_os16'
    ignored = sum(conversion.account.ignored.values(), [])
    tail = [key for key in variables if _is_tail(key, backbone)]
    assert sorted(ignored) == sorted([*tail, INDEX])
    assert not conversion.account.num_faults

    model = DeepLab(201, conversion.network.options)
    found = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    params, statistics = (
        [x.shape for x in jax.tree.leaves(found[name])] for name in ('params', 'batch_stats')
    )
    tail_trained = _count(variables[key] for key in tail if '/moving_' not in key)
    tail_total = _count(variables[key] for key in tail)
    assert _count(params) == trained - tail_trained
    assert _count(params) + _count(statistics) == total - tail_total
    assert len(params) + len(statistics) == number - len(tail)


def test_slots_and_counters_of_a_training_checkpoint_are_left_out(shared_dir):
    keys = list_keys(shared_dir, 'mobilenet_v3_small')
    slots = {
        key.replace(SUFFIX, f'/.OPTIMIZER_SLOT/optimizer/{slot}{SUFFIX}'): shape
        for key, shape in keys.items()
        if key != INDEX
        for slot in ('m', 'v')
    }
    names = ('iter', 'learning_rate', 'beta_1', 'beta_2', 'decay')
    others = [f'optimizer/{name}{SUFFIX}' for name in names]
    others += [f'global_step{SUFFIX}', f'save_counter{SUFFIX}']
    shapes = {**keys, **slots, **dict.fromkeys(others, ())}
    contents = Contents({k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()})
    conversion = guess_network(contents, SOURCE)
    assert not conversion.account.num_faults
    assert set(sum(conversion.account.ignored.values(), [])) >= {*slots, *others}


@pytest.mark.parametrize('backbone', ['resnet50', 'mobilenet_v3_small'])
def test_a_backbone_alone_is_converted(backbone, shared_dir):
    keys = {k: s for k, s in list_keys(shared_dir, backbone).items() if k.startswith('backbone/')}
    contents = Contents({k: np.broadcast_to(np.float32(0), shape) for k, shape in keys.items()})
    conversion = guess_network(contents, SOURCE)
    suffix = '_beta' if backbone == 'resnet50' else ''
    assert conversion.network.name == f'imagenet/{backbone}{suffix}'
    assert conversion.is_backbone_only
    options = conversion.network.options
    gate = 'sigmoid' if backbone == 'resnet50' else 'rounded_hard_sigmoid'
    assert (options.backbone.squeeze_excite_gate, options.normalization) == (gate, 'imagenet')


def _run(shared_dir, find_golden, backbone, case, pool_crop=None, *, is_training=False):
    with np.load(find_golden('model_garden', f'net_{backbone}_{case}')) as golden:
        golden = dict(golden)
    options, variables = _convert(shared_dir, backbone)
    if is_training:
        options = make_options(f'model_garden/{backbone}_os16', dropout_rate=0.0)
    model = DeepLab(201, options, pool_crop=pool_crop)

    def is_compared(module, method):
        return method == '__call__' and module.name in ('backbone', 'aspp')

    def run(variables, image):
        size = jnp.array(image.shape[1:3])
        image = jax.vmap(lambda x: normalize_image(x, size, kind='imagenet'))(image)
        return model.apply(
            variables,
            image,
            train=is_training,
            mutable=['batch_stats', 'intermediates'],
            capture_intermediates=is_compared,
        )

    outputs, state = run_fast(run, variables, golden['image'])
    return golden, outputs, state


def _check_outputs(golden, outputs, tolerance):
    for key in ('semantic', 'center', 'offset'):
        limit = tolerance * np.abs(golden[key]).max()
        np.testing.assert_allclose(outputs[key], golden[key], rtol=0, atol=limit, err_msg=key)


def _check_features(golden, state, tolerance):
    features = state['intermediates']
    found = {
        f'level{i}': features['backbone']['__call__'][0][key]
        for i, key in ((2, 'stride4'), (3, 'stride8'), (4, 'last'))
    }
    found['aspp_semantic'] = features['semantic_decoder']['aspp']['__call__'][0]
    for key, value in found.items():
        expected = golden[f'{key}_channel_mean']
        limit = tolerance * np.abs(expected).max()
        mean = np.asarray(value).mean((0, 1, 2))
        np.testing.assert_allclose(mean, expected, rtol=0, atol=limit, err_msg=key)


# Values of the large MobileNet reach 9,500.
@pytest.mark.parametrize(
    ('backbone', 'case', 'pool_crop', 'tolerance'),
    [
        ('mobilenet_v3_small', '128x128', None, 2e-5),
        ('mobilenet_v3_small', '128x128_pool64', (64, 64), 1e-5),
        pytest.param('mobilenet_v3_small', '96x160', None, 2e-5, marks=pytest.mark.slow),
        pytest.param('mobilenet_v3_large', '64x96', None, 3e-4, marks=pytest.mark.slow),
        pytest.param('resnet50', '128x128', None, 2e-5, marks=pytest.mark.slow),
        pytest.param('resnet50', '96x160', None, 2e-5, marks=pytest.mark.slow),
        pytest.param('resnet101', '64x96', None, 2e-5, marks=pytest.mark.slow),
    ],
)
def test_networks_give_the_outputs_of_the_originals(
    backbone, case, pool_crop, tolerance, shared_dir, find_golden
):
    golden, outputs, state = _run(shared_dir, find_golden, backbone, case, pool_crop)
    _check_outputs(golden, outputs, tolerance)
    _check_features(golden, state, tolerance)


def test_training_uses_and_averages_the_statistics_of_the_batch(shared_dir, find_golden):
    golden, outputs, state = _run(
        shared_dir, find_golden, 'mobilenet_v3_small', '64x64_training', is_training=True
    )
    _check_outputs(golden, outputs, 1e-4)
    keys = {key: value for key, value in golden.items() if key.startswith('after/')}
    assert len(keys) == 7
    arrays = {f'{key.removeprefix("after/")}{SUFFIX}': value for key, value in keys.items()}
    options = make_options('model_garden/mobilenet_v3_small_os16')
    for key, found in find_targets(SOURCE.make_rules(options, arrays), arrays).items():
        assert found is not None
        value = state['batch_stats']
        for part in found[1][0].path.split('/'):
            value = value[part]
        limit = 1e-4 * np.abs(arrays[key]).max()
        np.testing.assert_allclose(value, arrays[key], rtol=0, atol=limit, err_msg=key)


def _build(tf, node):
    """Makes objects with the attributes of Keras' layers; numbered layers are attributes too."""
    module = tf.Module()
    for name, child in node.items():
        if isinstance(child, dict):
            is_list = all(part.isdecimal() for part in child)
            child = [_build(tf, child[str(i)]) for i in range(len(child))] if is_list else child
            child = _build(tf, child) if isinstance(child, dict) else child
        else:
            child = tf.Variable(child)
        setattr(module, name, child)
    return module


def test_a_checkpoint_of_tensorflow_is_read_and_mapped(tmp_path, shared_dir):
    tf = pytest.importorskip(
        'tensorflow', reason="needs TensorFlow: pip install 'pdl_jax[tensorflow]'"
    )
    arrays = fill_checkpoint(shared_dir, 'mobilenet_v3_small')
    root = {}
    for key, value in arrays.items():
        if key == INDEX:
            continue
        *parents, name = key.removesuffix(SUFFIX).split('/')
        node = root
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = value
    items = {name: _build(tf, child) for name, child in root.items()}
    checkpoint = tf.train.Checkpoint(**items)
    contents = read_file(checkpoint.write(str(tmp_path / 'ckpt')))
    assert sorted(contents.arrays) == sorted(arrays)
    conversion = guess_network(contents, SOURCE)
    assert conversion.network.name == 'model_garden/mobilenet_v3_small_os16'
    assert not conversion.account.num_faults
    _, expected = _convert(shared_dir, 'mobilenet_v3_small')
    jax.tree.map(np.testing.assert_array_equal, load(conversion, contents), expected)
