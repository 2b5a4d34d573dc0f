"""Eight simulated devices compute the same as one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pdl_jax.ops.placement import split_rows
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.presets import make_options
from pdl_jax.runtime.sharding import make_mesh, place_state, replicated, shard_batch
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab, PanopticDeepLabOptions
from pdl_jax.systems.system import Samples
from pdl_jax.training.step import StepOptions, make_training_samples
from pdl_jax.typing import LabelFormat
from tests.quick_compiler import EXACT

FORMAT = LabelFormat(num_classes=4, thing_classes=(2, 3), ignore_label=255, label_divisor=100)


OPTIONS = StepOptions(augment=AugmentOptions((65, 65)))
# These programs run once: compiling costs more than what it would save.
QUICK = {'xla_backend_optimization_level': 0}


class _Double(PanopticDeepLab):
    """A system that computes in float64, from samples with targets in the place of label maps."""

    @property
    def network(self):
        return super().network.clone(dtype=jnp.float64)

    def make_targets(self, panoptic):
        return panoptic


def _make_options() -> PanopticDeepLabOptions:
    model = make_options(
        'deeplab2/resnet50_os16',
        backbone='mobilenet_v3_small_minimalistic',
        width_multiplier=0.35,
        aspp_rates=(1, 2, 3),
        dropout_rate=0.0,
        semantic_features=8,
        semantic_low_level_features=(8, 8),
        semantic_aspp_features=8,
        semantic_head_features=8,
        instance_features=8,
        instance_low_level_features=(8, 8),
        instance_aspp_features=8,
        instance_head_features=8,
    )
    targets = TargetOptions(sigma_px=3.0, max_instances=8)
    return PanopticDeepLabOptions((65, 65), model=model, targets=targets)


@functools.cache
def _draw_variables():
    with jax.enable_x64(True):
        init = jax.jit(_Double(FORMAT, _make_options()).init, compiler_options=QUICK)
        return jax.device_get(init(jax.random.key(0)))


def _run(mesh, given=None):
    """Returns samples, and loss, gradients and BatchNorm statistics of these or of the given."""
    rng = np.random.default_rng(0)
    blocks = rng.choice([0, 100, 201, 202, 301, 25500], size=(8, 8, 10))
    batch = {
        'image': rng.integers(0, 255, (8, 64, 80, 3)).astype(np.uint8),
        'panoptic': np.repeat(np.repeat(blocks, 8, 1), 8, 2).astype(np.int32),
        'size': np.tile(np.array([[64, 80]], np.int32), (8, 1)),
    }
    system = _make_options().make_system(FORMAT)
    double = _Double(FORMAT, _make_options())

    def make_samples(batch):
        samples = make_training_samples(batch, 3, label_format=FORMAT, options=OPTIONS)
        return Samples(samples.image, system.make_targets(samples.panoptic))

    def loss_of(params, batch_stats, samples):
        variables = {'params': params, 'batch_stats': batch_stats}
        samples = split_rows(samples)
        loss, (_, updates) = double.loss(variables, samples, rng=jax.random.key(0))
        return loss, updates['batch_stats']

    with jax.set_mesh(mesh):
        samples = jax.device_get(jax.jit(make_samples)(shard_batch(batch, mesh)))
    given = samples if given is None else given
    # In float64, because ReLUs and the choice of hard pixels have kinks: a difference in the last
    # bit of a float32 moves a few units across theirs, which changes their whole gradient. For the
    # same reason all meshes differentiate the same samples.
    variables = _draw_variables()
    with jax.enable_x64(True), jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(loss_of, has_aux=True),
            out_shardings=replicated(mesh),
            compiler_options=QUICK,
        )
        (loss, statistics), gradients = step(
            variables['params'], variables['batch_stats'], shard_batch(given, mesh)
        )
        return samples, *jax.device_get((loss, gradients, statistics))


@pytest.fixture(scope='module')
def one_device():
    return _run(make_mesh(devices=jax.devices()[:1]))


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'space'), [(8, 1), (2, 4)])
def test_loss_and_gradients_equal_those_of_one_device(one_device, data, space):
    expected_samples, expected_loss, expected_gradients, expected_statistics = one_device
    samples, loss, gradients, statistics = _run(make_mesh(data, space), expected_samples)
    # Compilers may contract a product and a sum in one program and not in the other.
    np.testing.assert_allclose(samples.image, expected_samples.image, rtol=0, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, samples.panoptic, expected_samples.panoptic)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert expected_loss > 1
    leaves = jax.tree_util.tree_leaves_with_path(expected_gradients)
    norm = optax.global_norm(expected_gradients)
    for (path, expected), actual in zip(leaves, jax.tree.leaves(gradients), strict=True):
        error = np.linalg.norm(actual - expected)
        # Gradients of biases before a BatchNorm are zero except for rounding.
        assert error < 1e-5 * np.linalg.norm(expected) + 1e-8 * norm, jax.tree_util.keystr(path)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        statistics,
        expected_statistics,
    )


ALL_DISTORTIONS = AugmentOptions(
    (65, 65),
    vertical_flip_probability=0.5,
    quarter_turn_probability=0.5,
    max_rotation_degrees=20.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    max_blur_sigma_px=1.0,
    max_noise_deviation=10.0,
)
# Samples of other devices take part.
COPY_PASTE = AugmentOptions(
    (33, 33), color_policy='simple_classification', copy_paste_probability=0.7
)


@pytest.mark.slow
@pytest.mark.parametrize('options', [ALL_DISTORTIONS, COPY_PASTE])
def test_every_augmentation_is_drawn_alike_on_all_meshes(options):
    rng = np.random.default_rng(0)
    batch = {
        'image': rng.integers(0, 255, (8, 48, 56, 3)).astype(np.uint8),
        'panoptic': rng.choice([0, 100, 201, 25500], size=(8, 48, 56)).astype(np.int32),
        'size': np.tile(np.array([[48, 56]], np.int32), (8, 1)),
    }
    options = StepOptions(augment=options)
    make = jax.jit(
        lambda batch: make_training_samples(batch, 3, label_format=FORMAT, options=options),
        compiler_options=EXACT,
    )
    results = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(8, 1), make_mesh(2, 4)):
        with jax.set_mesh(mesh):
            results.append(jax.device_get(make(shard_batch(batch, mesh))))
    for other in results[1:]:
        np.testing.assert_allclose(other.image, results[0].image, atol=1e-4)
        np.testing.assert_array_equal(other.panoptic, results[0].panoptic)
    assert len({float(np.abs(image).sum()) for image in results[0].image}) == 8


@pytest.mark.parametrize(
    ('data', 'space', 'message'),
    [(3, 1, 'must equal the number of devices'), (-1, 3, 'must divide the number of devices')],
)
def test_impossible_meshes_are_refused(data, space, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(data, space)


def test_first_rule_that_matches_places_an_array():
    mesh = make_mesh(4, 2)
    state = {
        'params': {
            'conv': {'kernel': jnp.zeros((3, 3, 64, 96)), 'bias': jnp.zeros(96)},
            'odd': jnp.zeros((101, 99)),
        },
        'opt_state': {'mu': {'kernel': jnp.zeros((96, 128))}},
    }

    def find_split(rules):
        """Returns the dimension that is split, by path."""
        placed = place_state(state, mesh, rules)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), placed) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        specs = {
            jax.tree_util.keystr(path): x.sharding.spec
            for path, x in jax.tree_util.tree_leaves_with_path(placed)
        }
        return {path: spec.index('data') for path, spec in specs.items() if 'data' in spec}

    kernel, moment = "['params']['conv']['kernel']", "['opt_state']['mu']['kernel']"
    assert find_split(()) == {}
    # Small arrays, and those without a dimension divisible by four, stay whole.
    assert find_split((('.*', 'largest'),)) == {kernel: 3, moment: 1}
    assert find_split((('params/', 'replicated'), ('.*', 'largest'))) == {moment: 1}
    assert find_split((('^params/conv/kernel$', 'largest'),)) == {kernel: 3}
