"""The gradients of a batch from those of its parts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.training.gradient_accumulation import accumulate_gradients
from pdl_jax.training.loop import train
from tests import tiny
from tests.process_group import BARE_NETWORK


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


@pytest.mark.slow
def test_batch_of_two_in_two_parts_is_two_batches_of_one(data, tmp_path):
    """With a rate of next to nothing, the same images give the same losses, part by part."""

    def read_losses(batch_size, num_steps, **fields):
        experiment = tiny.make_experiment(
            data,
            **BARE_NETWORK,
            **fields,
            # The whole image at its own size: nothing is random.
            augment__crop_height_px=49,
            augment__crop_width_px=65,
            augment__min_scale=1.0,
            augment__max_scale=1.0,
            augment__flip_probability=0.0,
            model__dropout_rate=0.0,
            optimizer__learning_rate=1e-30,
            train__batch_size=batch_size,
            train__num_steps=num_steps,
            train__checkpoint_every_steps=100,
        )
        workdir = tmp_path / str(batch_size)
        assert train(experiment, str(workdir), devices=tiny.one_device())
        lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
        return [line['loss'] for line in lines if 'loss' in line]

    ones = read_losses(1, 6)
    assert len(set(ones)) == 6
    pairs = read_losses(2, 3, train__accumulation_steps=2)
    np.testing.assert_allclose(pairs, np.reshape(ones, (3, 2)).mean(axis=1), rtol=1e-5)
