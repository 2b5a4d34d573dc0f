"""The terms of a teacher against reference numbers and properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.distillation import (
    DistillationOptions,
    Lesson,
    blend_losses,
    compare_lessons,
    divergence,
)


def test_equals_the_reference(find_golden):
    golden = np.load(find_golden('akd', 'own_loss_reward'))
    teacher, student = (jnp.asarray(golden[k], jnp.float32) for k in ('teacher', 'student'))
    log_probability = jax.nn.log_softmax(student)
    chosen = jnp.take_along_axis(log_probability, golden['labels'][:, None], axis=1)
    cross_entropy = -jnp.mean(chosen)
    for alpha, temperature, expected_ce, expected_kl, expected in golden['losses']:
        divergences = divergence(student, teacher, temperature=temperature)
        np.testing.assert_allclose(jnp.mean(divergences), expected_kl, rtol=1e-5)
        np.testing.assert_allclose(cross_entropy, expected_ce, rtol=1e-5)
        terms = compare_lessons(
            {'semantic': Lesson('classes', student[:, None, None])},
            {'semantic': Lesson('classes', teacher[:, None, None])},
            temperature=temperature,
        )
        loss, blended = blend_losses(
            cross_entropy, {'semantic': cross_entropy}, terms, weight=alpha
        )
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(sum(blended.values()), expected, rtol=1e-5)


def draw(kind, seed, shape=(2, 4, 6, 5), **fields):
    return Lesson(kind, jax.random.normal(jax.random.key(seed), shape), **fields)


@pytest.mark.parametrize('kind', ['classes', 'chances', 'heat', 'offsets'])
def test_terms_are_zero_only_where_both_agree(kind):
    ours, theirs = draw(kind, 0), draw(kind, 1)
    same = compare_lessons({'x': ours}, {'x': ours}, temperature=2.0)
    assert float(same['x']) == pytest.approx(0, abs=1e-7)
    assert float(compare_lessons({'x': ours}, {'x': theirs}, temperature=2.0)['x']) > 0.01


def test_the_chances_of_certain_logits_stay_finite():
    ours = Lesson('chances', jnp.full((1, 1, 1, 1), -500.0))
    theirs = Lesson('chances', jnp.full((1, 1, 1, 1), 500.0))
    gradient = jax.grad(
        lambda x: compare_lessons({'x': ours._replace(values=x)}, {'x': theirs}, temperature=1.0)[
            'x'
        ]
    )(ours.values)
    assert np.isfinite(gradient).all()


def test_offsets_count_where_the_teacher_says():
    share = jnp.zeros((2, 4, 6)).at[:, 1].set(1.0)
    ours, theirs = draw('offsets', 0, weight=3.0), draw('offsets', 1, share=share)
    term = compare_lessons({'x': ours}, {'x': theirs}, temperature=1.0)['x']
    expected = 3 * jnp.mean(jnp.abs(ours.values - theirs.values)[:, 1])
    np.testing.assert_allclose(term, expected, rtol=1e-6)


def test_maps_of_another_size_are_resized():
    ours = draw('heat', 0)
    theirs = Lesson('heat', jnp.repeat(jnp.repeat(ours.values, 2, 1), 2, 2))
    term = compare_lessons({'x': ours}, {'x': theirs}, temperature=1.0)['x']
    assert float(term) == pytest.approx(0, abs=1e-10)


def test_queries_are_compared_in_any_order_and_number():
    masks = 6 * jax.random.normal(jax.random.key(0), (2, 4, 6, 5))
    classes = 6 * jax.random.normal(jax.random.key(1), (2, 5, 4))
    order = jnp.array([3, 0, 4, 1, 2])
    ours = Lesson('queries', masks, classes=classes)
    theirs = Lesson('queries', masks[..., order], classes=classes[:, order])
    fewer = Lesson('queries', masks[..., :3], classes=classes[:, :3])

    @jax.jit
    def compare():
        pairs = ((ours, theirs), (ours, fewer), (fewer, ours))
        return [compare_lessons({'mask': a}, {'mask': b}, temperature=1.5) for a, b in pairs]

    same, *others = compare()
    for value in same.values():
        assert float(value) == pytest.approx(0, abs=1e-5)
    for found in others:
        assert set(found) == {'mask', 'mask_class'}
        assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize('fields', [{'temperature': 0.0}, {'weight': 1.5}])
def test_wrong_options_are_named(fields):
    with pytest.raises(ValueError, match=f'config.distill.{next(iter(fields))}'):
        DistillationOptions(**fields)
