"""DeeperLab's losses against sums over pixels in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.keypoint_maps import (
    KeypointLossOptions,
    bootstrapped_mean,
    keypoint_map_losses,
)
from pdl_jax.ops.keypoints import EDGES

_WEIGHTS = {'semantic': 2.0, 'keypoint': 3.0, 'short': 0.5, 'middle': 0.25, 'long': 0.125}
OPTIONS = KeypointLossOptions(
    **{f'{key}_weight': value for key, value in _WEIGHTS.items()}, top_k_fraction=0.3
)


@pytest.fixture(scope='module')
def case():
    rng = np.random.default_rng(0)
    size = (2, 5, 6)
    outputs = {
        'semantic': rng.normal(size=(*size, 4)),
        'keypoint': rng.normal(size=(*size, 5)),
        'short': rng.normal(size=(*size, 10)),
        'middle': rng.normal(size=(*size, 16)),
        'long': rng.normal(size=(*size, 10)),
    }
    targets = {
        'semantic': rng.choice([0, 1, 3, 255], size),
        'semantic_weight': rng.choice([1.0, 3.0], size),
        'keypoint': rng.choice([0.0, 1.0], (*size, 5)),
        'keypoint_weight': rng.choice([0.0, 1.0], size),
        'short': rng.normal(size=(*size, 5, 2)),
        'middle': rng.normal(size=(*size, 8, 2)),
        'long': rng.normal(size=(*size, 5, 2)),
        'long_weight': rng.choice([0.0, 1.0], size),
    }
    # The second image has no instance.
    for key in ('keypoint', 'long_weight'):
        targets[key][1] = 0
    return outputs, targets


def to_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, 'int32' if x.dtype == int else 'float32'), tree)


def run(outputs, targets, options=OPTIONS):
    return keypoint_map_losses(
        *to_jax((outputs, targets)), ignore_label=255, options=options, resize='half_pixel'
    )


def mean(values, weights):
    return (values * weights).sum() / max(weights.sum(), 1)


def test_equals_sums_over_pixels(case):
    outputs, targets = case
    losses = run(outputs, targets)
    for i in range(2):
        output, target = ({k: x[i] for k, x in tree.items()} for tree in case)
        heat = 1 / (1 + np.exp(-output['keypoint']))
        truth = target['keypoint']
        entropy = -truth * np.log(heat) - (1 - truth) * np.log(1 - heat)
        weight = np.broadcast_to(target['keypoint_weight'][..., None], entropy.shape)
        expected = {'keypoint': mean(entropy, weight)}
        regions = {
            'short': truth,
            'middle': truth[..., [start for start, _ in EDGES]],
            'long': np.broadcast_to(target['long_weight'][..., None], truth.shape),
        }
        for key, region in regions.items():
            error = np.abs(output[key].reshape(target[key].shape) - target[key])
            expected[key] = mean(error, np.stack([region, region], -1))
        for key, value in expected.items():
            np.testing.assert_allclose(losses[key][i], _WEIGHTS[key] * value, rtol=1e-5)
    assert losses['short'][1] == losses['long'][1] == 0


def test_the_hardest_pixels_are_chosen_before_they_are_weighted(case):
    outputs, targets = case
    losses = run(outputs, targets)
    logits = outputs['semantic']
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = targets['semantic']
    known = np.where(labels == 255, 0, labels)
    entropy = -np.take_along_axis(log_probability, known[..., None], -1)[..., 0]
    entropy[labels == 255] = 0
    for i in range(2):
        hardest = np.argsort(-entropy[i].ravel())[:9]
        value = (entropy[i] * targets['semantic_weight'][i]).ravel()[hardest].sum() / 9
        np.testing.assert_allclose(losses['semantic'][i], 2 * value, rtol=1e-5)
    # One pixel of three; the heavy one is not the hardest.
    one = bootstrapped_mean(jnp.array([[[1.0, 2.0, 0.5]]]), jnp.array([[[3.0, 1.0, 3.0]]]), 0.34)
    np.testing.assert_allclose(one, [2.0])


def test_exact_offsets_have_no_gradient(case):
    outputs, targets = case
    exact = {**outputs, **{k: targets[k].reshape(outputs[k].shape) for k in ('short', 'long')}}
    targets = to_jax(targets)

    def total(outputs):
        return sum(jnp.sum(run(outputs, targets)[key]) for key in ('short', 'long'))

    value, gradient = jax.value_and_grad(total)(to_jax(exact))
    assert value == 0 and not any(np.any(x) for x in jax.tree.leaves(gradient))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match='top_k_fraction'):
        KeypointLossOptions(top_k_fraction=0.0)
    with pytest.raises(ValueError, match='long_weight'):
        KeypointLossOptions(long_weight=-1.0)
