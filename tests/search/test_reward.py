"""Rewards: the stored values, and that accuracy raises them and latency lowers them."""

import numpy as np
import pytest

from pdl_jax.search.reward import compute_reward


def test_stored_values(find_golden):
    golden = np.load(find_golden('akd', 'own_loss_reward'))
    columns = str(golden['reward_columns']).split()
    rows = dict(zip(columns, golden['rewards'].T, strict=True))
    rewards = compute_reward(rows['accuracy'], rows['latency'], rows['target'], rows['w'])
    np.testing.assert_allclose(rewards, rows['reward'], rtol=1e-6)


def test_accuracy_raises_and_latency_lowers_it():
    accuracies, latencies = np.linspace(0.1, 1, 10)[:, None], np.geomspace(1e5, 1e8, 20)
    rewards = compute_reward(accuracies, latencies, 1e6)
    assert (np.diff(rewards, axis=0) > 0).all()
    assert (np.diff(rewards, axis=1) < 0).all()


def test_the_target_is_worth_the_accuracy():
    assert compute_reward(0.7, 3e6, 3e6) == pytest.approx(0.7)
    assert compute_reward(0.7, 6e6, 3e6) == pytest.approx(0.7 * 2**-0.07)
    assert compute_reward(0.7, 6e6, 3e6, 0.0) == 0.7
