"""The gradients of a batch from those of its parts."""

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.training.gradient_accumulation import accumulate_gradients


def _loss(params, batch_stats, samples, dropout_key):
    """Squared errors, noise of the key, and statistics that depend on the order of the parts."""
    error = jnp.mean((samples['x'] @ params['w'] - samples['y']) ** 2)
    noise = jax.random.uniform(dropout_key)
    return error, (
        {'error': error, 'noise': noise},
        {'mean': 0.5 * batch_stats['mean'] + jnp.mean(samples['x'])},
    )


def test_gradients_are_those_of_the_whole_batch():
    rng = np.random.default_rng(0)
    samples = {'x': jnp.asarray(rng.normal(size=(12, 5))), 'y': jnp.asarray(rng.normal(size=12))}
    params, batch_stats = {'w': jnp.asarray(rng.normal(size=5))}, {'mean': jnp.float32(2)}
    gradient = jax.value_and_grad(_loss, has_aux=True)
    arguments = params, batch_stats, samples, jax.random.key(0)
    (loss, (terms, _)), expected = gradient(*arguments)
    (actual_loss, (actual_terms, stats)), actual = jax.jit(accumulate_gradients(gradient, 3))(
        *arguments
    )
    np.testing.assert_allclose(actual_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(actual_terms['error'], terms['error'], rtol=1e-6)
    np.testing.assert_allclose(actual['w'], expected['w'], rtol=1e-5)
    # Each part draws by itself, and passes statistics on to the next.
    noises = [jax.random.uniform(key) for key in jax.random.split(jax.random.key(0), 3)]
    np.testing.assert_allclose(actual_terms['noise'], np.mean(noises), rtol=1e-6)
    means = [np.mean(samples['x'][i::3]) for i in range(3)]
    np.testing.assert_allclose(
        stats['mean'], 0.125 * 2 + 0.25 * means[0] + 0.5 * means[1] + means[2], rtol=1e-5
    )
