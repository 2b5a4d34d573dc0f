"""Relaxation of masks and classes against the values of the reference and the identities."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.mask_transformer import MaskLossOptions, prediction_losses
from pdl_jax.losses.remask import relax_classes, relax_masks
from pdl_jax.losses.segment_queries import match_queries
from pdl_jax.ops.platforms import pin_platform
from tests.losses.test_mask_transformer_loss import read_targets, to_last

MASKS = jnp.array([[1, -2, 0.5], [-1, 2, 0.3]]).T[None, None]
CLASSES = jnp.array([[[2.0, -1], [-1, 1.5]]])
SEMANTIC = jnp.array([[[[1.0, -1], [0, 2], [-2, 0.5]]]])


def test_relaxed_masks_by_hand():
    expected = [[1.716244, -3.354563, 0.636199], [-1.416492, 3.709176, 0.462290]]
    relaxed = relax_masks(MASKS, CLASSES, SEMANTIC)
    np.testing.assert_allclose(relaxed[0, 0].T, expected, rtol=2e-6)


def test_relaxed_classes_by_hand():
    # The third class is void, which no pixel has.
    labels, semantic = jnp.eye(3)[None, :2], jnp.array([[[0, 1, 1]]])
    relaxed = relax_classes(labels, MASKS, semantic, eta=0.1)
    np.testing.assert_allclose(relaxed[0, :, :2], [[1, 0.037083], [0.026894, 1]], atol=1e-6)
    relaxed = relax_classes(jnp.zeros((1, 2, 3)), MASKS, semantic, eta=1.0)
    expected = [[0.731051, 0.370829, 0], [0.268939, 0.727616, 0]]
    np.testing.assert_allclose(relaxed[0], expected, rtol=2e-5)


def test_no_agreement_and_no_relaxation_are_the_identity():
    nothing = jnp.full_like(SEMANTIC, -jnp.inf)
    np.testing.assert_array_equal(relax_masks(MASKS, CLASSES, nothing), MASKS)
    labels = jnp.eye(3)[None, :2]
    relaxed = relax_classes(labels, MASKS, jnp.array([[[0, 1, -1]]]), eta=0.0)
    np.testing.assert_array_equal(relaxed, labels)


def test_only_the_mask_logits_have_a_gradient():
    def total(*logits):
        labels = relax_classes(jnp.eye(3)[None, :2], logits[0], jnp.array([[[0, 1, 1]]]), eta=0.1)
        return jnp.sum(relax_masks(*logits)) + jnp.sum(labels)

    gradients = jax.grad(total, argnums=(0, 1, 2))(MASKS, CLASSES, SEMANTIC)
    expected = relax_masks(jnp.ones_like(MASKS), CLASSES, SEMANTIC)
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-6)
    assert not gradients[1].any() and not gradients[2].any()


@functools.partial(jax.jit, static_argnums=2)
def compute(prediction, targets, options):
    noise = {'instance': jnp.zeros((2, 357)), 'relaxation': jnp.zeros((2, 357))}

    def total(prediction):
        (terms,) = prediction_losses(
            [prediction], None, targets, num_classes=6, options=options, noise=[noise]
        )
        value = sum(getattr(options, f'{key}_weight') * term for key, term in terms.items())
        return value, terms

    gradient, terms = jax.grad(total, has_aux=True)(prediction)
    masks = relax_masks(*(prediction[f'{k}_logits'] for k in ('mask', 'class', 'semantic')))
    return terms, gradient, masks, match_queries(masks, prediction['class_logits'], targets)


@pytest.mark.slow
def test_equals_the_reference(shared_dir):
    golden = np.load(shared_dir / 'golden' / 'kmax' / 'remax.npz')
    prediction = {
        'mask_logits': to_last(golden['mask_logits']),
        'class_logits': jnp.asarray(golden['class_logits']),
        'semantic_logits': to_last(golden['semantic_logits']),
        'pixel_feature': jnp.ones((2, 17, 21, 1)),
    }
    options = MaskLossOptions(
        class_relaxation=json.loads(str(golden['params']))['eta'],
        instance_discrimination_weight=0,
        semantic_weight=0,
        instance_samples_px=8,
    )
    targets = read_targets(golden, rows=8)
    with pin_platform('cpu'):
        terms, gradient, masks, match = compute(prediction, targets, options)
    np.testing.assert_allclose(masks, to_last(golden['relaxed_masks']), rtol=1e-5, atol=1e-6)
    for key, name in (('class', 'class'), ('mask_id', 'mask'), ('mask_dice', 'dice')):
        np.testing.assert_allclose(terms[key], golden[f'value_{name}'], rtol=1e-5, err_msg=name)
    for image in range(2):
        query = match.query[image, golden[f'match_gt_{image}']]
        np.testing.assert_array_equal(query, golden[f'match_query_{image}'])
    labels = jax.nn.one_hot(match.label, 7)
    soft = relax_classes(labels, prediction['mask_logits'], targets.semantic, eta=0.1)
    np.testing.assert_allclose(soft, golden['soft_labels'], rtol=1e-5, atol=1e-7)
    for key, expected in (
        ('mask_logits', to_last(golden['gradient_mask_logits'])),
        ('class_logits', golden['gradient_class_logits']),
    ):
        limit = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient[key], expected, atol=limit, err_msg=key)
    assert not gradient['semantic_logits'].any()
