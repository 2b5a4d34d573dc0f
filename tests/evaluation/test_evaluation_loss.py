"""The loss of the eval split: that of each image, averaged, whatever the batches are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.data.records import open_split
from pdl_jax.evaluation.evaluator import Evaluator
from pdl_jax.losses.panoptic_deeplab import LossOptions, image_losses, panoptic_loss
from pdl_jax.metrics.loss_mean import LossMean
from pdl_jax.runtime.sharding import make_mesh, replicated
from tests import tiny
from tests.process_group import BARE_NETWORK


def _make_batch(seed=0, size=(3, 12, 14)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size).astype(np.int32)
    labels[0, :5] = 255
    outputs = {
        'semantic': rng.normal(size=(*size, 4)).astype(np.float32),
        'center': rng.normal(size=(*size, 1)).astype(np.float32),
        'offset': rng.normal(size=(*size, 2)).astype(np.float32),
    }
    targets = {
        'semantic': labels,
        'semantic_weight': rng.choice([1.0, 3.0], size).astype(np.float32),
        'center': rng.random(size).astype(np.float32),
        'center_weight': rng.integers(0, 2, size).astype(np.float32),
        'offset': rng.normal(size=(*size, 2)).astype(np.float32),
        'offset_weight': rng.integers(0, 2, size).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, (outputs, targets))


@pytest.mark.slow
@pytest.mark.parametrize('scope', ['image', 'batch'])
def test_each_image_has_the_loss_of_a_batch_by_itself(scope):
    outputs, targets = _make_batch()
    options = {'ignore_label': 255, 'options': LossOptions(top_k_fraction=0.3, scope=scope)}
    terms = image_losses(outputs, targets, **options)
    for i in range(3):
        alone = jax.tree.map(lambda x, i=i: x[i : i + 1], (outputs, targets))
        _, expected = panoptic_loss(*alone, **options)
        assert terms.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(terms[key][i], value, rtol=1e-6)
    if scope == 'image':
        # Then the loss of the batch is their mean.
        _, expected = panoptic_loss(outputs, targets, **options)
        for key, value in expected.items():
            np.testing.assert_allclose(np.mean(terms[key]), value, rtol=1e-6)


def test_padding_counts_for_nothing():
    mean = LossMean.empty()
    for values, valid in (([1.0, 2.0], [1, 1]), ([6.0, np.nan], [1, 0])):
        state = LossMean.from_model_output(
            image_losses={'semantic': jnp.array(values), 'center': jnp.ones(2)},
            valid=jnp.array(valid, bool),
        )
        mean = mean.merge(jax.device_get(state))
    assert mean.compute() == {'total': 4.0, 'semantic': 3.0, 'center': 1.0}
    assert mean.terms['semantic'].dtype == np.float64 and mean.count == 3
    assert LossMean.empty().compute() == {'total': 0}


@pytest.fixture(scope='module')
def evaluate(data):
    """Evaluates the same variables, with other batches on other devices."""
    source = open_split(data, 'val')
    variables = None

    def run(batch_size, num_devices=1, **changes):
        nonlocal variables
        experiment = tiny.make_experiment(
            data,
            **BARE_NETWORK,
            **{'evaluate__with_loss': True, 'evaluate__batch_size': batch_size, **changes},
        )
        system = experiment.make_system(source.spec.label_format)
        mesh = make_mesh(devices=jax.devices()[:num_devices])
        if variables is None:
            variables = jax.device_get(jax.jit(system.init)(jax.random.key(0)))
        evaluator = Evaluator(experiment, system, source, mesh)
        return evaluator(jax.device_put(variables, replicated(mesh)))

    return run


@pytest.mark.slow
def test_loss_does_not_depend_on_the_batches(evaluate):
    reports = [evaluate(1), evaluate(4), evaluate(4, num_devices=4)]
    loss = reports[0]['loss']
    assert set(loss) == {'total', 'semantic', 'center', 'offset'}
    np.testing.assert_allclose(
        loss['total'], loss['semantic'] + loss['center'] + loss['offset'], rtol=1e-12
    )
    assert loss['semantic'] > 1
    for report in reports[1:]:
        assert report['num_images'] == 5
        for key, value in loss.items():
            np.testing.assert_allclose(report['loss'][key], value, rtol=1e-5)


@pytest.mark.slow
def test_with_the_truth_or_switched_off_there_is_no_loss(evaluate):
    assert 'loss' not in evaluate(4, evaluate__oracle=('semantic',))
    assert 'loss' not in evaluate(4, evaluate__with_loss=False)
