"""Losses of mask transformers against the original's values and gradients, and their properties."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.mask_statistics import mask_statistics
from pdl_jax.losses.mask_transformer import (
    MaskLossOptions,
    mask_transformer_loss,
    prediction_losses,
)
from pdl_jax.losses.segment_queries import match_queries
from pdl_jax.ops.platforms import pin_platform
from pdl_jax.ops.resize import resize_bilinear
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


@pytest.fixture(autouse=True)
def implementations_of_one_platform():
    """Traces the implementations of one platform, which takes less time than those of all."""
    with pin_platform('cpu'):
        yield


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


def make_case(seed=0, queries=6, classes=3, size=(8, 9)):
    """Random outputs of a final and an auxiliary prediction, and targets of vertical stripes."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)

    def predict(height, width):
        feature = draw(height, width, 4)
        return {
            'mask_logits': draw(height, width, queries),
            'class_logits': draw(queries, classes + 1),
            'pixel_feature': feature / jnp.linalg.norm(feature, axis=-1, keepdims=True),
        }

    segment = jnp.broadcast_to(jnp.arange(size[1]) // 2 - 1, (2, *size)).astype(jnp.int32)
    label = jnp.broadcast_to(jnp.array([0, 2, 2, 0]), (2, 4)).astype(jnp.int32)
    semantic = jnp.where(segment < 0, -1, jnp.array([0, 2, 2, 0])[segment])
    targets = MaskTargets(
        segment=segment,
        label=label,
        valid=jnp.arange(4) < jnp.array([[4], [3]]),
        is_small=jnp.zeros((2, 4), bool).at[0, 1].set(True),
        count=jnp.array([4, 3]),
        semantic=semantic,
    )
    # The second image has no fourth segment.
    targets = targets._replace(
        segment=jnp.where(segment == 3, targets.valid[:, 3, None, None] * 4 - 1, segment)
    )
    return predict(*size), [predict(*size)], draw(*size, classes + 1), targets


@functools.partial(jax.jit, static_argnums=4)
def total_loss(final, auxiliary, semantic, targets, options):
    return mask_transformer_loss(
        final, auxiliary, semantic, targets, num_classes=3, options=options, rng=jax.random.key(0)
    )


OPTIONS = MaskLossOptions(instance_samples_px=30, semantic_samples_px=0, small_instance_weight=3.0)


def test_order_of_the_queries_does_not_matter():
    final, auxiliary, semantic, targets = make_case()
    order = np.random.default_rng(1).permutation(6)

    def permute(prediction):
        return {
            **prediction,
            'mask_logits': prediction['mask_logits'][..., order],
            'class_logits': prediction['class_logits'][:, order],
        }

    total, terms = total_loss(final, auxiliary, semantic, targets, OPTIONS)
    other, other_terms = total_loss(
        permute(final), [permute(x) for x in auxiliary], semantic, targets, OPTIONS
    )
    np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-6)
    np.testing.assert_allclose(total, other, rtol=1e-5)
    for key in terms:
        np.testing.assert_allclose(terms[key], other_terms[key], rtol=1e-5, err_msg=key)


@pytest.mark.slow
def test_upsamples_auxiliary_predictions():
    final, (small,), semantic, targets = make_case()
    small = {**small, **{k: small[k][:, :5, :6] for k in ('mask_logits', 'pixel_feature')}}
    large = {k: x if x.ndim == 3 else resize_bilinear(x, (8, 9)) for k, x in small.items()}
    for x, y in zip(
        *(
            jax.tree.leaves(total_loss(final, [x], semantic, targets, OPTIONS))
            for x in (small, large)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_perfect_outputs_have_hardly_a_loss():
    final, _, _, targets = make_case()
    # Query n + 1 holds segment n, and query 0 the void.
    masks = 30 * jax.nn.one_hot(targets.segment + 1, 6)
    classes = jnp.full((2, 6), 3).at[:, 1:5].set(jnp.where(targets.valid, targets.label, 3))
    final = {
        'mask_logits': masks,
        'class_logits': 30 * jax.nn.one_hot(classes, 4),
        'pixel_feature': jax.nn.one_hot(targets.segment + 1, 6)[..., :4],
    }
    semantic = 30 * jax.nn.one_hot(targets.semantic, 4)
    _, terms = total_loss(final, [final], semantic, targets, OPTIONS)
    for key in ('class', 'mask_id', 'mask_dice', 'semantic'):
        assert terms[key] < 1e-5, (key, terms[key])


def test_small_instances_weigh_more():
    final, auxiliary, semantic, targets = make_case()
    _, terms = total_loss(final, auxiliary, semantic, targets, OPTIONS)
    losses = -np.asarray(jax.nn.log_softmax(semantic))
    labels = np.asarray(targets.semantic)
    losses = np.take_along_axis(losses, np.maximum(labels, 0)[..., None], -1)[..., 0]
    weight = np.where(labels < 0, 0.0, 1.0)
    weight[0][np.asarray(targets.segment[0]) == 1] = 3.0
    counts = (labels >= 0).sum((1, 2))
    expected = np.mean((losses * weight).sum((1, 2)) / counts)
    np.testing.assert_allclose(terms['semantic'], expected, rtol=1e-5)


def test_void_alone_is_no_loss_but_that_of_the_classes():
    final, auxiliary, semantic, targets = make_case()
    targets = targets._replace(
        segment=jnp.full_like(targets.segment, -1),
        semantic=jnp.full_like(targets.semantic, -1),
        valid=jnp.zeros_like(targets.valid),
    )
    _, terms = total_loss(final, auxiliary, semantic, targets, OPTIONS)
    assert terms.pop('class') > 0
    assert not any(terms.values()), terms


def test_similarities_by_hand():
    logits = jnp.array([[2, 0, -1, 0.5], [0, 1.5, 1, -0.5], [-1, -0.5, 0, 1]]).T[None, None]
    owner = jnp.array([[[0, 1, 1, 0]]])
    cross_entropy, total, overlap = jax.jit(mask_statistics)(logits, owner)
    np.testing.assert_allclose(jnp.mean(cross_entropy), 0.496985, rtol=1e-5)
    dice = 1 - (2 * overlap + 1) / (total + jnp.array([2, 2, 0]) + 1)
    np.testing.assert_allclose(dice[0, :2], [0.243587, 0.180006], rtol=1e-5)
    targets = MaskTargets(
        segment=owner,
        label=jnp.zeros((1, 2), jnp.int32),
        valid=jnp.ones((1, 2), bool),
        is_small=jnp.zeros((1, 2), bool),
        count=jnp.array([2]),
        semantic=jnp.zeros_like(owner),
    )
    match = jax.jit(match_queries)(logits, jnp.zeros((1, 3, 2)), targets)
    assert match.query.tolist() == [[0, 1]] and match.label.tolist() == [[0, 0, 1]]
    np.testing.assert_allclose(match.class_weight[0, :2], [0.685383, 0.770503], rtol=1e-5)
    np.testing.assert_allclose(match.mask_weight, [[0.5, 0.5, 0]], rtol=1e-6)


def test_statistics_have_the_gradient_of_plain_sums():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    owner = jnp.asarray(rng.integers(-1, 5, (2, 3, 4)))
    seeds = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 4), (2, 5), (2, 5))]

    def plain(logits, owner):
        members = jax.nn.one_hot(owner, 5)
        inside = jax.nn.softmax(logits) * (owner >= 0)[..., None]
        cross_entropy = -jnp.sum(members * jax.nn.log_softmax(logits), -1)
        return cross_entropy, inside.sum((1, 2)), (inside * members).sum((1, 2))

    def total(function, logits):
        return sum(jnp.sum(s * x) for s, x in zip(seeds, function(logits, owner), strict=True))

    results = [
        jax.jit(jax.value_and_grad(functools.partial(total, function)))(logits)
        for function in (mask_statistics, plain)
    ]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-6)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r'config.loss.mask_id_weight \(=-1\)'):
        MaskLossOptions(mask_id_weight=-1)
    with pytest.raises(ValueError, match=r'config.loss.matched_share \(=2\)'):
        MaskLossOptions(matched_share=2)
    final, auxiliary, semantic, targets = make_case(classes=4)
    with pytest.raises(ValueError, match=r'\(2, 6, 5\).*num_classes \(=3\)'):
        total_loss(final, auxiliary, semantic, targets, OPTIONS)
