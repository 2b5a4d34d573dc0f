"""The train step computes what a plain PyTorch program does from the same weights and batches."""

import jax
import numpy as np
import optax
import pytest

from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.presets import make_options
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab, PanopticDeepLabOptions
from pdl_jax.training.optim import OptimizerOptions, make_optimizer, make_schedule
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import StepOptions, init_state, make_train_step, make_training_samples
from pdl_jax.typing import LabelFormat
from tests import torch_reference
from tests.torch_reference import (
    ASPP_RATES,
    WIDTH,
    Rules,
    flatten,
    load_variables,
    read_gradients,
    read_statistics,
    torch,
)

# Each compares with a PyTorch program that is trained too.
pytestmark = pytest.mark.slow

NUM_STEPS = 20
NUM_BATCHES = 4
SIZE = 65
TOLERANCE = 1e-3
FORMAT = LabelFormat(num_classes=4, thing_classes=(2, 3), ignore_label=255, label_divisor=100)
OPTIONS = StepOptions(
    # Nothing is drawn: every image is its own crop.
    augment=AugmentOptions((SIZE, SIZE), min_scale=1.0, max_scale=1.0, flip_probability=0.0),
)
# A rate of fine-tuning: at 1e-4 PyTorch parts from itself by 5e-4 in 20 steps if its weights change
# in their last bit, because ReLUs have kinks and training enlarges what float32 rounds off; at this
# rate by 1e-6.
OPTIMIZER = OptimizerOptions(learning_rate=5e-5)


def _make_system() -> PanopticDeepLab:
    model = make_options(
        'deeplab2/resnet50_os16',
        backbone='resnet18',
        width_multiplier=0.125,
        aspp_rates=ASPP_RATES,
        dropout_rate=0.0,
        semantic_features=WIDTH,
        semantic_low_level_features=(WIDTH, WIDTH),
        semantic_aspp_features=WIDTH,
        semantic_head_features=WIDTH,
        instance_features=WIDTH,
        instance_low_level_features=(WIDTH, WIDTH),
        instance_aspp_features=WIDTH,
        instance_head_features=WIDTH,
        semantic_head='conv3x3',
        center_head='conv3x3',
        offset_head='conv3x3',
    )
    targets = TargetOptions(sigma_px=3.0, max_instances=8, small_instance_area_px=500)
    options = PanopticDeepLabOptions((SIZE, SIZE), 'float32', model=model, targets=targets)
    return options.make_system(FORMAT)


def _make_batches():
    """Pairs of images of coloured blocks, with stuff, things, a crowd and void."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 100, 200, 201, 202, 301, 25500], np.int32)
    colors = rng.integers(0, 255, (len(labels), 3))
    batches = []
    for _ in range(NUM_BATCHES):
        blocks = rng.integers(0, len(labels), (2, 6, 6))
        index = blocks.repeat(12, 1).repeat(12, 2)[:, :SIZE, :SIZE]
        noise = rng.normal(0, 30, (2, SIZE, SIZE, 3))
        image = np.clip(colors[index] + noise, 0, 255).astype(np.uint8)
        size = np.full((2, 2), SIZE, np.int32)
        batches.append({'image': image, 'panoptic': labels[index], 'size': size})
    return batches


def _make_state(system, optimizer) -> TrainState:
    """Draws parameters; BatchNorm scales of zero would hide the gradients before them."""
    state = jax.eval_shape(lambda: init_state(system, optimizer, OPTIONS))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == 'scale':
            value = rng.uniform(0.5, 1.5, leaf.shape)
        elif path[-1].key == 'bias':
            value = rng.uniform(-0.1, 0.1, leaf.shape)
        else:
            # The last kernels start small, as ours do.
            deviation = 0.01 if path[-2].key == 'predict' else np.sqrt(2 / np.prod(leaf.shape[:3]))
            value = rng.normal(0, deviation, leaf.shape)
        return value.astype(np.float32)

    def fill(path, leaf):
        return np.full(leaf.shape, float(path[-1].key == 'var'), np.float32)

    params = jax.tree_util.tree_map_with_path(draw, state.params)
    statistics = jax.tree_util.tree_map_with_path(fill, state.batch_stats)
    return TrainState(
        np.zeros((), np.int32), params, statistics, jax.device_get(optimizer.init(params))
    )


def _make_network(state, rules):
    network = torch_reference.PanopticDeepLab(FORMAT.num_classes, rules)
    load_variables(network, state.params, state.batch_stats)
    return network.train()


def _torch_loss(network, sample):
    images, targets = sample
    image = torch.tensor(images.transpose(0, 3, 1, 2))
    targets = {key: torch.tensor(value) for key, value in targets.items()}
    return torch_reference.loss_of(network(image), targets, FORMAT.ignore_label, network.rules)


@pytest.fixture(scope='module')
def samples():
    """The images and targets of each batch, as PyTorch gets them; our step makes them again."""
    system = _make_system()

    @jax.jit
    def make_samples(batch):
        samples = make_training_samples(batch, 0, label_format=FORMAT, options=OPTIONS)
        return samples.image, system.make_targets(samples.panoptic)

    samples = [jax.device_get(make_samples(batch)) for batch in _make_batches()]
    # Both weights are there, and nothing was drawn.
    assert set(np.unique(samples[0][1]['semantic_weight'])) == {1, 3}
    np.testing.assert_allclose(samples[0][0], _make_batches()[0]['image'] / 127.5 - 1, atol=1e-6)
    return samples


@pytest.fixture(scope='module')
def ours():
    """Our run: the states before it, after one step and after all of them, and the losses."""
    system = _make_system()
    optimizer = make_optimizer(OPTIMIZER, NUM_STEPS)
    step = make_train_step(system, optimizer, make_schedule(OPTIMIZER, NUM_STEPS), OPTIONS)
    # So few steps do not pay for better machine code; the arithmetic is that of the same program.
    step = jax.jit(step, compiler_options={'xla_backend_optimization_level': 0})
    batches = _make_batches()
    start = state = _make_state(system, optimizer)
    losses = []
    for i in range(NUM_STEPS):
        state, scalars = step(state, batches[i % NUM_BATCHES])
        if i == 0:
            first = jax.device_get(state)
        losses.append(float(scalars['loss']))
    return {'start': start, 'first': first, 'last': jax.device_get(state), 'losses': losses}


def _train_torch(
    start,
    samples,
    *,
    power=OPTIMIZER.poly_power,
    epsilon=OPTIMIZER.adam_epsilon,
    b1=OPTIMIZER.adam_b1,
):
    """PyTorch's run from the same variables: the network after it, and the losses."""
    network = _make_network(start, Rules())
    optimizer = torch.optim.Adam(
        network.parameters(), OPTIMIZER.learning_rate, (b1, OPTIMIZER.adam_b2), epsilon
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 - step / NUM_STEPS) ** power
    )
    losses = []
    for i in range(NUM_STEPS):
        loss = _torch_loss(network, samples[i % NUM_BATCHES])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network, losses


@pytest.fixture(scope='module')
def theirs(ours, samples):
    return _train_torch(ours['start'], samples)


def _compare_first_step(ours, samples, rules):
    """Relative differences of the loss, and of each gradient by its norm."""
    network = _make_network(ours['start'], rules)
    loss = _torch_loss(network, samples[0])
    loss.backward()
    expected = read_gradients(network)
    # The optimiser's first moment after one step is its share of the gradient.
    moment = optax.tree_utils.tree_get(ours['first'].opt_state, 'mu')
    actual = {path: value / (1 - OPTIMIZER.adam_b1) for path, value in flatten(moment)}
    assert actual.keys() == expected.keys()
    differences = {
        path: np.linalg.norm(actual[path] - g) / np.linalg.norm(g) for path, g in expected.items()
    }
    return abs(ours['losses'][0] / loss.item() - 1), differences


def test_loss_and_gradients_of_the_first_step_are_the_same(ours, samples):
    """Float32 leaves 1e-4 in the worst gradient, that of the pooled map's kernel, 1e-5 in most.

    BatchNorm takes the statistics of that map from two values, one per image, and so enlarges what
    rounding did to them.
    """
    loss, gradients = _compare_first_step(ours, samples, Rules())
    assert loss < 1e-5
    for path, difference in gradients.items():
        assert difference < TOLERANCE, path
    assert np.median([*gradients.values()]) < 1e-4


def test_losses_of_all_steps_are_the_same(ours, theirs):
    np.testing.assert_allclose(ours['losses'], theirs[1], rtol=TOLERANCE)
    # Each batch is fitted better the last time than the first.
    assert np.all(
        np.array(ours['losses'][-NUM_BATCHES:]) < 0.995 * np.array(ours['losses'][:NUM_BATCHES])
    )


def test_statistics_after_the_run_are_the_same(ours, theirs):
    """The means as they are, the variances without PyTorch's n / (n - 1)."""
    actual = dict(flatten(ours['last'].batch_stats))
    expected = read_statistics(theirs[0], NUM_STEPS)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        assert np.linalg.norm(actual[path] - value) < TOLERANCE * np.linalg.norm(value), path


@pytest.mark.parametrize(
    'wrong',
    [
        {'norm_epsilon': 1e-5},
        {'last_dilation': 1},
        {'is_corner_aligned': False},
        {'is_pooled_to_mean': False},
        {'is_offset_scaled': False},
        {'top_k_fraction': 1.0},
        {'has_semantic_weight': False},
        {'counts_zero_losses': True},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_another_rule_is_noticed_at_the_first_step(ours, samples, wrong):
    loss, gradients = _compare_first_step(ours, samples, Rules(**wrong))
    assert loss > 1e-5
    assert max(gradients.values()) > 100 * TOLERANCE


@pytest.mark.parametrize(
    'wrong', [{'power': 0.0}, {'epsilon': 1e-3}, {'b1': 0.5}], ids=lambda wrong: next(iter(wrong))
)
def test_another_optimizer_is_noticed_by_the_losses(ours, samples, wrong):
    _, losses = _train_torch(ours['start'], samples, **wrong)
    assert np.max(np.abs(np.array(losses) / ours['losses'] - 1)) > TOLERANCE
