"""Losses of mask transformers against the original's values and gradients, and their properties."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.mask_transformer import (
    MaskLossOptions,
    prediction_losses,
)
from pdl_jax.typing import MaskTargets

CASES = ('all_pixels', 'more_gt_than_queries', 'no_void_stride2', 'one_segment', 'sampled')
TERMS = {
    'class': 'ce',
    'mask_id': 'mask',
    'mask_dice': 'dice',
    'instance_discrimination': 'pixel_insdis',
    'semantic': 'aux_semantic',
}
GRADIENTS = (
    ('class', 'class_logits', 'pred_logits'),
    ('mask_id', 'mask_logits', 'pred_masks'),
    ('mask_dice', 'mask_logits', 'pred_masks'),
    ('instance_discrimination', 'pixel_feature', 'pixel_feature'),
)


def to_last(x):
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def read_targets(golden, rows):
    """The masks of a golden file as targets with a list of `rows` segments."""
    batch = []
    for image in range(2):
        masks, labels = golden[f'gt_masks_{image}'] > 0, golden[f'gt_labels_{image}']
        assert masks.sum(0).max() == 1
        valid = np.arange(rows) < len(labels)
        batch.append(
            MaskTargets(
                segment=np.where(masks.any(0), masks.argmax(0), -1).astype(np.int32),
                label=np.pad(labels, (0, rows - len(labels))).astype(np.int32),
                valid=valid,
                is_small=np.zeros(rows, bool),
                count=np.int32(len(labels)),
                semantic=golden[f'gt_semantic_{image}'].astype(np.int32),
            )
        )
    return jax.tree.map(lambda *x: jnp.stack(x), *batch)


def read_prediction(golden, layer):
    return {
        'mask_logits': to_last(golden[f'{layer}_pred_masks']),
        'class_logits': jnp.asarray(golden[f'{layer}_pred_logits']),
        'pixel_feature': to_last(golden[f'{layer}_pixel_feature']),
    }


def read_case(golden):
    """Predictions, semantic logits, targets, options and noise of a golden file."""
    params = json.loads(str(golden['params']))
    layers = [x for x in ('final', 'aux0', 'aux1') if f'{x}_pred_masks' in golden]
    uniform = iter(
        golden[f'uniform_{i}'] for i in range(len(layers) + 1) if f'uniform_{i}' in golden
    )
    noise = [{'instance': next(uniform)}]
    if params['semantic_sample_k']:
        noise[0]['semantic'] = next(uniform)
    noise += [{'instance': values} for values in uniform]
    options = MaskLossOptions(
        instance_samples_px=params['insdis_sample_k'],
        semantic_samples_px=params['semantic_sample_k'],
    )
    return (
        [read_prediction(golden, layer) for layer in layers],
        to_last(golden['aux_semantic_pred']),
        read_targets(golden, rows=7),
        options,
        noise,
    )


@functools.partial(jax.jit, static_argnums=4)
def compute(predictions, semantic, targets, noise, options):
    """Losses by prediction, and the gradient of every term of the first."""

    def losses(final, semantic):
        return prediction_losses(
            [final, *predictions[1:]],
            semantic,
            targets,
            num_classes=7,
            options=options,
            noise=noise,
        )

    values, pull_back = jax.vjp(losses, predictions[0], semantic)
    gradients = {}
    for term in TERMS:
        seed = jax.tree.map(jnp.zeros_like, values)
        seed[0][term] = jnp.ones(())
        gradients[term] = pull_back(seed)
    return values, gradients


@pytest.mark.parametrize(
    'case', ['random', *(pytest.param(c, marks=pytest.mark.slow) for c in CASES)]
)
def test_equals_the_original(shared_dir, case):
    golden = np.load(shared_dir / 'golden' / 'kmax' / f'loss_{case}.npz')
    predictions, semantic, targets, options, noise = read_case(golden)
    values, gradients = compute(predictions, semantic, targets, noise, options)
    total = 0.0
    for number, terms in enumerate(values):
        for term, value in terms.items():
            name = f'value_loss_{TERMS[term]}' + (f'_{number - 1}' if number else '')
            np.testing.assert_allclose(value, golden[name], rtol=1e-5, err_msg=name)
            total += getattr(options, f'{term}_weight') * value
    np.testing.assert_allclose(total, golden['value_total'], rtol=1e-5)
    for term, key, name in GRADIENTS:
        expected = golden[f'grad_loss_{TERMS[term]}__{name}']
        expected = expected if expected.ndim == 3 else np.moveaxis(expected, 1, -1)
        limit = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradients[term][0][key], expected, atol=limit, err_msg=term)
    expected = np.moveaxis(golden['grad_loss_aux_semantic__aux_semantic_pred'], 1, -1)
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(gradients['semantic'][1], expected, atol=limit)
