"""The schedule and the optimiser."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from pdl_jax.systems.system import ParameterGroup
from pdl_jax.training.optim import OptimizerOptions, make_optimizer, make_schedule


def test_cosine_and_step_schedules():
    cosine = OptimizerOptions(learning_rate=0.5, schedule='cosine')
    found = [float(make_schedule(cosine, 100)(jnp.asarray(step))) for step in (0, 25, 50, 100)]
    np.testing.assert_allclose(found, 0.25 * (1 + np.cos(np.pi * np.array([0, 0.25, 0.5, 1]))))
    # Caffe: the rate falls once so many steps are done.
    steps = OptimizerOptions(
        learning_rate=0.5, schedule='step', decay_at_steps=(20, 40), warmup_steps=2
    )
    schedule = make_schedule(steps, 100)
    found = [float(schedule(jnp.asarray(step))) for step in (0, 1, 2, 19, 20, 39, 40, 99)]
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005], rtol=1e-6)


@pytest.mark.parametrize('step', [0, 1, 9, 10, 50, 99, 100])
def test_schedule_is_deeplab2s(step):
    schedule = make_schedule(OptimizerOptions(learning_rate=0.5, warmup_steps=10), 100)
    expected = 0.5 * step / 10 if step < 10 else 0.5 * (1 - step / 100) ** 0.9
    np.testing.assert_allclose(schedule(jnp.asarray(step)), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('step', [0, 3, 9, 10, 99])
def test_warmup_from_a_thousandth_is_pytorch_kmaxs(step):
    options = OptimizerOptions(learning_rate=0.5, warmup_steps=10, warmup_start_factor=0.001)
    done = step / 10
    expected = 0.5 * (0.001 * (1 - done) + done if step < 10 else (1 - step / 100) ** 0.9)
    np.testing.assert_allclose(make_schedule(options, 100)(jnp.asarray(step)), expected, rtol=1e-5)


def test_adam_equals_its_definition():
    options = OptimizerOptions(learning_rate=0.1, adam_epsilon=1e-7)
    optimizer = make_optimizer(options, 10)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    m = v = np.zeros(2)
    expected = np.array([1.0, -2.0])
    for t, gradient in enumerate([[0.5, -3.0], [0.1, 2.0], [-1.0, 0.0]], 1):
        gradient = np.array(gradient)
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = params + updates
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.1 * (1 - (t - 1) / 10) ** 0.9
        expected -= rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
    np.testing.assert_allclose(params, expected, rtol=1e-5)


KMAX = OptimizerOptions(
    kind='adamw',
    learning_rate=0.01,
    backbone_learning_rate_factor=0.1,
    warmup_steps=3,
    weight_decay=0.5,
    adam_epsilon=1e-8,
)
# Path -> whether it is decayed.
KINDS = {
    'backbone/stem/kernel': True,
    'backbone/depthwise/kernel': True,
    'backbone/norm/scale': False,
    'backbone/stem/bias': False,
    'decoder/dense/kernel': True,
    'decoder/attention/output_weight': True,
    'decoder/attention/relative_position': False,
    'decoder/queries': False,
}


def _draw_tree(seed):
    """Values for `KINDS`, nested as in a network, by path too."""
    rng = np.random.default_rng(seed)
    shapes = {path: (1, 1, 1, 5) if 'depthwise' in path else (3, 4) for path in KINDS}
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    return traverse_util.unflatten_dict(flat, sep='/'), flat


@pytest.mark.slow
def test_adamw_equals_that_of_pytorch():
    """Over a warm-up and a decay, with another rate in the backbone."""
    torch = pytest.importorskip('torch')
    params, flat = _draw_tree(0)
    tensors = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in flat.items()}
    schedule = make_schedule(KMAX, 8)
    groups = [
        {
            'params': [tensor],
            'weight_decay': 0.5 if is_decayed else 0.0,
            'factor': 0.1 if 'backbone' in path else 1.0,
        }
        for (path, tensor), is_decayed in zip(tensors.items(), KINDS.values(), strict=True)
    ]
    reference = torch.optim.AdamW(groups, lr=1.0, eps=1e-8)
    optimizer = make_optimizer(KMAX, 8)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(6):
        gradients, flat_gradients = _draw_tree(step + 1)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for group in reference.param_groups:
            group['lr'] = group['factor'] * float(schedule(step))
        for path, tensor in tensors.items():
            tensor.grad = torch.tensor(flat_gradients[path])
        reference.step()
    for path, value in traverse_util.flatten_dict(params, sep='/').items():
        assert np.abs(value - flat[path]).max() > 1e-4
        np.testing.assert_allclose(value, tensors[path].detach().numpy(), atol=1e-6, err_msg=path)


def test_adamw_equals_that_of_optax():
    options = dataclasses.replace(KMAX, backbone_learning_rate_factor=1.0)
    reference = optax.adamw(
        make_schedule(options, 8),
        eps=1e-8,
        weight_decay=0.5,
        mask=traverse_util.unflatten_dict(KINDS, sep='/'),
    )
    results = []
    for optimizer in (reference, make_optimizer(options, 8)):
        params, _ = _draw_tree(0)
        state = optimizer.init(params)
        for step in range(3):
            updates, state = optimizer.update(_draw_tree(step + 1)[0], state, params)
            params = optax.apply_updates(params, updates)
        results.append((params, state))
    # The state too: either can go on from a checkpoint of the other.
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_clipping_bounds_the_global_norm():
    options = OptimizerOptions(learning_rate=1.0, clip_norm=1.0, adam_b1=0.0)
    optimizer = make_optimizer(options, 10)
    gradients = {'a': jnp.array([30.0]), 'b': jnp.array([40.0])}
    _, state = optimizer.update(gradients, optimizer.init(gradients), gradients)
    moments = [x for x in jax.tree.leaves(state) if x.shape == (1,)]
    np.testing.assert_allclose(sorted(float(x[0]) for x in moments)[-2:], [0.6, 0.8], rtol=1e-5)


def test_sgd_with_weight_decay_equals_its_definition():
    """Gradients of dense kernels get the penalty; depthwise kernels and biases have none."""
    options = OptimizerOptions(kind='sgd', learning_rate=0.1, momentum=0.5, weight_decay=0.01)
    optimizer = make_optimizer(options, 10)
    params = {
        'dense': jnp.full((1, 1, 2, 1), 4.0),
        'depthwise': jnp.full((1, 1, 1, 2), 4.0),
        'bias': jnp.full(2, 4.0),
    }
    state = optimizer.init(params)
    expected = {'dense': 4.0, 'depthwise': 4.0, 'bias': 4.0}
    trace = dict.fromkeys(expected, 0.0)
    for t in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for key in expected:
            gradient = 1.0 + (0.01 * expected[key] if key == 'dense' else 0.0)
            trace[key] = 0.5 * trace[key] + gradient
            expected[key] -= 0.1 * (1 - t / 10) ** 0.9 * trace[key]
    for key, value in expected.items():
        np.testing.assert_allclose(params[key], jnp.full_like(params[key], value), rtol=1e-5)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind .*'lamb'.* must be one of"):
        make_optimizer(OptimizerOptions(kind='lamb'), 10)


PARAMS = {
    'backbone': {'kernel': jnp.full((1, 1, 2, 3), 4.0), 'bias': jnp.full(3, 4.0)},
    'head': {'kernel': jnp.full((1, 1, 2, 3), 4.0)},
}


def _update(options, groups=(), gradient=1.0):
    """Updates of the first step of SGD, one number for each parameter."""
    optimizer = make_optimizer(options, 10, groups)
    gradients = jax.tree.map(lambda x: jnp.full_like(x, gradient), PARAMS)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator='/'): np.unique(update)
        for path, update in jax.tree.leaves_with_path(updates)
    }
    assert all(len(values) == 1 for values in flat.values())
    return {key: values.item() for key, values in flat.items()}


SGD = OptimizerOptions(kind='sgd', learning_rate=0.5)


def test_a_group_has_its_own_learning_rate():
    found = _update(SGD, (ParameterGroup('head/', learning_rate_factor=10.0),))
    assert found == pytest.approx(
        {'backbone/kernel': -0.5, 'backbone/bias': -0.5, 'head/kernel': -5.0}
    )
    adam = OptimizerOptions(learning_rate=0.5)
    found = _update(adam, (ParameterGroup('head/', learning_rate_factor=0.1),))
    plain = _update(adam)
    assert found == pytest.approx({**plain, 'head/kernel': 0.1 * plain['head/kernel']})


def test_a_group_has_its_own_weight_decay():
    options = OptimizerOptions(kind='sgd', learning_rate=0.5, weight_decay=0.25)
    plain = {'backbone/kernel': -0.5 * (1 + 1.0), 'backbone/bias': -0.5}
    assert _update(options) == pytest.approx({**plain, 'head/kernel': -0.5 * (1 + 1.0)})
    for decay, expected in ((0.5, 1 + 2.0), (0.0, 1.0), (None, 1 + 1.0)):
        found = _update(options, (ParameterGroup('head/', weight_decay=decay),))
        assert found == pytest.approx({**plain, 'head/kernel': -0.5 * expected})
    # A group may be the only one that has any; biases have none in a group either.
    found = _update(SGD, (ParameterGroup('backbone/', weight_decay=0.5),))
    assert found == pytest.approx(
        {'backbone/kernel': -0.5 * (1 + 2.0), 'backbone/bias': -0.5, 'head/kernel': -0.5}
    )


def test_a_frozen_group_stays_and_leaves_the_clipped_norm_to_the_others():
    options = OptimizerOptions(kind='sgd', learning_rate=1.0, clip_norm=1.0, weight_decay=0.25)
    found = _update(options, (ParameterGroup('backbone/', learning_rate_factor=0.0),), 100.0)
    # Six equal gradients of norm 1 together, and the penalty.
    assert found == pytest.approx(
        {'backbone/kernel': 0.0, 'backbone/bias': 0.0, 'head/kernel': -(1 / np.sqrt(6) + 1.0)}
    )


def test_the_factor_of_the_backbone_is_on_top_of_the_groups():
    options = dataclasses.replace(SGD, backbone_learning_rate_factor=0.1)
    found = _update(options, (ParameterGroup('kernel', learning_rate_factor=2.0),))
    assert found == pytest.approx(
        {'backbone/kernel': -0.1, 'backbone/bias': -0.05, 'head/kernel': -1.0}
    )
    # With a factor of 0 it leaves the clipped norm to the head, whose six gradients are equal.
    options = dataclasses.replace(options, backbone_learning_rate_factor=0.0, clip_norm=1.0)
    assert _update(options) == pytest.approx(
        {'backbone/kernel': 0.0, 'backbone/bias': 0.0, 'head/kernel': -0.5 / np.sqrt(6)}
    )


def test_a_network_without_backbone_has_no_factor_for_it():
    options = dataclasses.replace(SGD, backbone_learning_rate_factor=0.1)
    with pytest.raises(ValueError, match=r"factor \(=0.1\): no parameter .* '\^encoder/'"):
        make_optimizer(options, 10, backbone_regex='^encoder/').init(PARAMS)


def test_the_first_group_that_matches_decides():
    groups = (
        ParameterGroup('kernel$', learning_rate_factor=2.0),
        ParameterGroup('backbone', learning_rate_factor=0.0),
    )
    assert _update(SGD, groups) == pytest.approx(
        {'backbone/kernel': -1.0, 'backbone/bias': 0.0, 'head/kernel': -1.0}
    )


def test_without_groups_the_state_is_that_of_the_plain_optimizer():
    """Checkpoints of runs without groups can be restored."""
    schedule = make_schedule(OptimizerOptions(), 10)

    def find_structure(optimizer):
        return jax.tree.structure(jax.eval_shape(optimizer.init, PARAMS))

    plain = find_structure(optax.adam(schedule))
    assert find_structure(make_optimizer(OptimizerOptions(), 10)) == plain
    options = OptimizerOptions(clip_norm=1.0, weight_decay=0.1)
    masked = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.1, mask=lambda params: jax.tree.map(jnp.ndim, params)),
        optax.adam(schedule),
    )
    assert find_structure(make_optimizer(options, 10)) == find_structure(masked)
