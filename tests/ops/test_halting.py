"""The halting recurrence: published cases, gradients, and values of the original program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops.halting import advance_halting, start_halting


def run(scores, **options):
    """Returns the last state and the weights f32[L, ...] of scores f32[L - 1, ...]."""
    state, weights = start_halting(scores.shape[1:]), []
    for score in (*scores, jnp.ones(scores.shape[1:])):
        state, weight = advance_halting(state, score, **options)
        weights.append(weight)
    return state, jnp.stack(weights)


# Four units whose results are 1, 2, 3, 4.
@pytest.mark.parametrize(
    ('scores', 'num_units', 'ponder', 'weights', 'output'),
    [
        ((0.4, 0.7, 0.2), 2, 2.6, (0.4, 0.6, 0, 0), 1.6),
        ((0.995, 0.1, 0.1), 1, 2.0, (1, 0, 0, 0), 1.0),
        ((0, 0, 0), 4, 5.0, (0, 0, 0, 1), 4.0),
        ((0.1, 0.1, 0.1), 4, 4.7, (0.1, 0.1, 0.1, 0.7), 3.4),
        ((0.3, 0.3, 0.3), 4, 4.1, (0.3, 0.3, 0.3, 0.1), 2.2),
    ],
)
def test_published_cases(scores, num_units, ponder, weights, output):
    scores = jnp.array(scores, jnp.float32)
    state, found = run(scores)
    assert state.num_units == num_units
    np.testing.assert_allclose(state.ponder, ponder, atol=1e-6)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    np.testing.assert_allclose(found @ jnp.arange(1.0, 5), output, atol=1e-6)
    # Through the remainder alone: -1 for each unit before the one that halts.
    gradient = jax.grad(lambda x: run(x)[0].ponder)(scores)
    np.testing.assert_array_equal(gradient, -(np.arange(3) < num_units - 1).astype(float))


def test_pictures_halt_as_in_the_original(find_golden):
    golden = np.load(find_golden('sact', 'recurrence_act'))
    scores = jnp.array(golden['halting'].T)
    state, weights = run(scores)
    np.testing.assert_array_equal(state.num_units, golden['num_units'])
    np.testing.assert_allclose(state.ponder, golden['ponder_cost'], atol=1e-6)
    np.testing.assert_allclose(weights.T, golden['halting_distribution'], atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(run(x)[0].ponder))(scores)
    np.testing.assert_allclose(gradient.T, golden['gradient_of_sum'], atol=1e-6)


def test_positions_halt_as_in_the_original(find_golden):
    golden = np.load(find_golden('sact', 'recurrence_sact'))
    residuals, factors = jnp.array(golden['residuals']), jnp.array(golden['output_weights'])

    def compute(halting):
        state = start_halting(halting.shape[1:-1])
        x, output, weights = jnp.zeros(residuals.shape[1:]), 0.0, []
        scores = (*halting[..., 0], jnp.ones(halting.shape[1:-1]))
        for residual, score in zip(residuals, scores, strict=True):
            x = jnp.where(state.is_halted[..., None], x, x + residual)
            state, weight = advance_halting(state, score)
            output = output + weight[..., None] * x
            weights.append(weight)
        loss = jnp.sum(output * factors) + 0.3 * jnp.mean(state.ponder)
        return loss, (state, output, jnp.stack(weights, axis=-1))

    (loss, (state, output, weights)), gradient = jax.jit(jax.value_and_grad(compute, has_aux=True))(
        jnp.array(golden['halting'])
    )
    np.testing.assert_array_equal(state.num_units, golden['num_units'])
    np.testing.assert_allclose(state.ponder, golden['ponder_cost'], atol=1e-6)
    np.testing.assert_allclose(weights, golden['halting_distribution'], atol=1e-6)
    np.testing.assert_allclose(output, golden['outputs'], atol=1e-6)
    np.testing.assert_allclose(loss, golden['loss'], atol=1e-5)
    np.testing.assert_allclose(gradient, golden['gradient'], atol=1e-6)


def test_an_image_halts_altogether_when_few_of_its_positions_go_on():
    """The limit counts positions of one image, and the weights still add up to 1."""
    scores = np.full((3, 2, 2, 5), 0.3, np.float32)
    scores[0, 0, :, 1:] = 1.0  # Two of ten positions of the first image go on, all of the second.
    state, weights = run(jnp.array(scores), min_active_share=0.25)
    np.testing.assert_array_equal(state.num_units[0], 1)
    np.testing.assert_array_equal(state.num_units[1], 4)
    np.testing.assert_allclose(jnp.sum(weights, axis=0), 1.0, atol=1e-6)
    state, _ = run(jnp.array(scores), min_active_share=0.2)
    assert state.num_units[0].tolist() == [[4, 1, 1, 1, 1]] * 2
