"""Losses against the values of DeepLab2's own program, and their edge cases."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.panoptic_deeplab import LossOptions, _kth_largest, panoptic_loss, top_k_mean

CASES = (
    'all_ignored',
    'basic',
    'coco_ignore0',
    'mostly_ignored',
    'no_things',
    'topk_rounding_odd',
)


@pytest.mark.slow
@pytest.mark.parametrize('convention', ['deeplab2', 'bowen', 'd2'])
@pytest.mark.parametrize('case', CASES)
def test_equals_the_originals(find_golden, case, convention):
    scope = 'image' if convention == 'deeplab2' else 'batch'
    # Results of the originals; for DeepLab2 of an exact NumPy version.
    suffix = '_np' if convention == 'deeplab2' else ''
    golden = np.load(find_golden('losses', case))
    params = json.loads(str(golden['params']))
    outputs = {
        'semantic': jnp.asarray(golden['logits'].transpose(0, 2, 3, 1)),
        'center': jnp.asarray(golden['center'])[..., None],
        'offset': jnp.asarray(golden['offset'].transpose(0, 2, 3, 1)),
    }
    targets = {
        'semantic': jnp.asarray(golden['labels']),
        'semantic_weight': jnp.asarray(golden['sem_weights']),
        'center': jnp.asarray(golden['center_gt']),
        'center_weight': jnp.asarray(golden['center_weights']),
        'offset': jnp.asarray(golden['offset_gt'].transpose(0, 2, 3, 1)),
        'offset_weight': jnp.asarray(golden['offset_weights']),
    }
    for fraction in params['top_k']:
        total, terms = panoptic_loss(
            outputs,
            targets,
            ignore_label=params['ignore_label'],
            options=LossOptions(1.0, 1.0, 1.0, fraction, scope),
        )
        expected = {
            'semantic': golden[f'{convention}_sem_top{fraction:g}{suffix}'],
            'center': golden[f'{convention}_center_mse{suffix}'],
            'offset': golden[f'{convention}_offset_l1{suffix}'],
        }
        for key, value in expected.items():
            np.testing.assert_allclose(terms[key], value.mean(), rtol=1e-5, atol=1e-7, err_msg=key)
        np.testing.assert_allclose(total, sum(v.mean() for v in expected.values()), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('case', ['basic', 'mostly_ignored', 'no_things'])
def test_gradients_equal_those_of_bowenc0221(find_golden, case):
    golden = np.load(find_golden('losses', case))
    params = json.loads(str(golden['params']))
    targets = {
        'semantic': jnp.asarray(golden['labels']),
        'semantic_weight': jnp.asarray(golden['sem_weights']),
        'center': jnp.asarray(golden['center_gt']),
        'center_weight': jnp.asarray(golden['center_weights']),
        'offset': jnp.asarray(golden['offset_gt'].transpose(0, 2, 3, 1)),
        'offset_weight': jnp.asarray(golden['offset_weights']),
    }
    outputs = {
        'semantic': jnp.asarray(golden['logits'].transpose(0, 2, 3, 1)),
        'center': jnp.asarray(golden['center'])[..., None],
        'offset': jnp.asarray(golden['offset'].transpose(0, 2, 3, 1)),
    }

    def loss(outputs):
        options = LossOptions(1.0, 1.0, 1.0, 0.2, 'batch')
        return panoptic_loss(
            outputs, targets, ignore_label=params['ignore_label'], options=options
        )[0]

    gradients = jax.grad(loss)(outputs)
    expected = {
        'semantic': golden['grad_bowen_logits_top0.2'].transpose(0, 2, 3, 1),
        'center': golden['grad_bowen_center'][..., None],
        'offset': golden['grad_bowen_offset'].transpose(0, 2, 3, 1),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(
            gradients[key], value, atol=1e-5 * max(np.abs(value).max(), 1e-6), err_msg=key
        )


def test_top_k_equals_a_sort():
    losses = np.random.default_rng(0).exponential(size=(3, 11, 13)).astype(np.float32)
    kept = round(0.2 * 11 * 13)
    expected = np.sort(losses.reshape(3, -1), axis=1)[:, -kept:].mean(axis=1)
    np.testing.assert_allclose(top_k_mean(jnp.asarray(losses), 0.2), expected, rtol=1e-6)


@pytest.mark.parametrize('k', [1, 2, 77, 199, 200])
def test_threshold_is_exact_to_the_last_bit(k):
    rng = np.random.default_rng(0)
    # All magnitudes, neighbours in the last bit, zeros and infinity.
    losses = np.exp(rng.uniform(-80, 80, (2, 200))).astype(np.float32)
    losses[:, 1::3] = np.nextafter(losses[:, ::3][:, :67], np.float32(np.inf))[
        :, : losses[:, 1::3].shape[1]
    ]
    losses[:, 50:60], losses[0, 3], losses[1, 7] = 0, np.inf, -1e-7
    expected = np.sort(np.maximum(losses, 0), axis=1)[:, -k]
    np.testing.assert_array_equal(_kth_largest(jnp.asarray(losses), k), expected)


def test_ties_at_the_threshold_share_their_gradient():
    losses = jnp.array([[[4.0, 2.0, 2.0, 2.0, 1.0]]])
    value, gradient = jax.value_and_grad(lambda x: top_k_mean(x, 0.4)[0])(losses)
    np.testing.assert_allclose(value, 3.0, rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], [1 / 2, 1 / 6, 1 / 6, 1 / 6, 0], rtol=1e-6)


def test_overflowing_logits_on_void_do_no_harm():
    logits = jnp.zeros((1, 1, 2, 3)).at[0, 0, 0, :2].set(jnp.array([3e38, -3e38]))
    targets = {'semantic': jnp.array([[[255, 1]]]), 'semantic_weight': jnp.ones((1, 1, 2))}
    _, terms = panoptic_loss(
        {'semantic': logits}, targets, ignore_label=255, options=LossOptions(top_k_fraction=1.0)
    )
    np.testing.assert_allclose(terms['semantic'], np.log(3), rtol=1e-6)


def test_nan_is_not_hidden():
    assert np.isnan(top_k_mean(jnp.array([[[1.0, jnp.nan, 2.0, 0.5, 0.25]]]), 0.4))[0]
