"""The structured SVM and k-means."""

import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.proposals import learning


def make_examples(seed, is_separable):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (12, 300, 4)) * [1, 0.1, 2, 100]
    truth = np.array([2.0, 5.0, 0.5, 0.01])
    targets = rng.normal(0, 1, (12, 3, 4)) * [1, 0.1, 2, 100] + 8 * truth * [0.2, 0.01, 1, 2e3]
    if not is_separable:
        targets = targets / 20
    losses = rng.uniform(0.2, 1, (12, 300))
    valid = rng.random((12, 300)) < 0.9
    is_target = np.arange(3) < rng.integers(1, 4, (12, 1))
    arrays = (features, losses, valid, targets, is_target)
    return learning.Examples(
        *(jnp.asarray(a, a.dtype if a.dtype == bool else 'f4') for a in arrays)
    )


def find_slack(weights, examples):
    """The slack of weights, by going through all candidates."""
    f, losses, valid, targets, is_target = (np.asarray(a, np.float64) for a in examples)
    worst = np.where(valid, f @ weights + losses, -np.inf).max(axis=1)
    return max(((worst[:, None] - targets @ weights) * is_target).sum() / is_target.sum(), 0)


@pytest.mark.parametrize('is_separable', [True, False])
def test_the_fit_is_the_minimum(is_separable):
    examples = make_examples(0, is_separable)
    fit = learning.fit_weights(examples, regularization=10.0)
    assert float(fit.gap) <= 1e-3 and int(fit.num_cuts) < learning.MAX_CUTS
    weights = np.asarray(fit.weights, np.float64)
    slack = find_slack(weights, examples)
    np.testing.assert_allclose(float(fit.slack), slack, atol=2e-3)
    assert (slack < 0.05) == is_separable
    # The norm counts in units of the features' deviations.
    scale = np.asarray(examples.features)[np.asarray(examples.valid)].std(axis=0)

    def objective(w):
        return np.sum((w * scale) ** 2) / 2 + 10 * find_slack(w, examples)

    rng = np.random.default_rng(1)
    best = objective(weights)
    for size in (0.01, 0.1, 1):
        for _ in range(100):
            assert objective(weights + size * rng.normal(size=4) / scale) > best - 0.03


def test_frames_without_candidates_or_objects_count_nothing():
    examples = make_examples(0, True)
    fit = learning.fit_weights(examples, regularization=10.0)
    more = learning.Examples(*(jnp.concatenate([a, a[:2]]) for a in examples))
    more = more._replace(
        valid=more.valid.at[-1].set(False), is_target=more.is_target.at[-2].set(False)
    )
    # The standard deviations differ a little.
    again = learning.fit_weights(more, regularization=10.0)
    np.testing.assert_allclose(again.weights, fit.weights, rtol=0.1)


def test_kmeans_finds_clusters():
    rng = np.random.default_rng(0)
    centers = np.array([[1.0, 1.7, 0.6], [4.0, 1.5, 1.6], [7.0, 2.5, 2.2]])
    sizes = np.concatenate(
        [c + rng.normal(0, 0.1, (n, 3)) for c, n in zip(centers, (40, 90, 25), strict=True)]
    )
    found = learning.cluster_sizes(jnp.asarray(sizes, jnp.float32), num_templates=3)
    np.testing.assert_allclose(found, centers, atol=0.1)
    one = learning.cluster_sizes(jnp.asarray(sizes[:1], jnp.float32), num_templates=3)
    np.testing.assert_allclose(one, np.repeat(sizes[:1], 3, axis=0), rtol=1e-5)
