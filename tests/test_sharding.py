"""Eight simulated devices compute what one computes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pdl_jax.losses import LossOptions
from pdl_jax.models.decoder import DecoderOptions
from pdl_jax.models.panoptic_deeplab import PanopticDeepLab
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.sharding import make_mesh, replicated, shard_batch
from pdl_jax.train_step import StepOptions, init_state, make_train_step
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(num_classes=4, thing_classes=(2, 3), ignore_label=255, label_divisor=100)


def _keep_gradients() -> optax.GradientTransformation:
    """An optimiser that updates nothing and keeps the gradients as its state."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradients, state, params=None):
        return jax.tree.map(jnp.zeros_like, gradients), gradients

    return optax.GradientTransformation(init, update)


def _run(mesh, crop):
    model = PanopticDeepLab(
        FORMAT.num_classes,
        'mobilenet_v2',
        output_stride=16,
        width_multiplier=0.35,
        aspp_rates=(1, 2, 3),
        dropout_rate=0.0,
        semantic_decoder=DecoderOptions(8, (8, 8), 8),
        instance_decoder=DecoderOptions(8, (8, 8), 8),
        semantic_head_features=8,
        instance_head_features=8,
    )
    options = StepOptions(
        label_format=FORMAT,
        augment=AugmentOptions(crop),
        targets=TargetOptions(sigma_px=3.0, max_instances=8),
        loss=LossOptions(),
    )
    rng = np.random.default_rng(0)
    blocks = rng.choice([0, 100, 201, 202, 301, 25500], size=(8, 8, 10))
    batch = {
        'image': rng.integers(0, 255, (8, 64, 80, 3)).astype(np.uint8),
        'panoptic': np.repeat(np.repeat(blocks, 8, 1), 8, 2).astype(np.int32),
        'size': np.tile(np.array([[64, 80]], np.int32), (8, 1)),
    }
    optimizer = _keep_gradients()
    with jax.set_mesh(mesh):
        state = jax.jit(
            lambda: init_state(model, optimizer, options), out_shardings=replicated(mesh)
        )()
        step = jax.jit(
            make_train_step(model, optimizer, lambda step: 1.0, options),
            out_shardings=replicated(mesh),
        )
        state, scalars = step(state, shard_batch(batch, mesh))
    return jax.device_get((scalars['loss'], state.opt_state, state.batch_stats))


@pytest.fixture(scope='module')
def one_device():
    return _run(make_mesh(devices=jax.devices()[:1]), (65, 65))


@pytest.mark.parametrize(('data', 'space'), [(8, 1), (2, 4)])
def test_loss_and_gradients_equal_those_of_one_device(one_device, data, space):
    loss, gradients, statistics = _run(make_mesh(data, space), (65, 65))
    expected_loss, expected_gradients, expected_statistics = one_device
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    difference = optax.global_norm(jax.tree.map(np.subtract, gradients, expected_gradients))
    norm = optax.global_norm(expected_gradients)
    assert float(difference / norm) < 1e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        statistics,
        expected_statistics,
    )


@pytest.mark.parametrize(
    ('data', 'space', 'message'),
    [(3, 1, 'must equal the number of devices'), (-1, 3, 'must divide the number of devices')],
)
def test_impossible_meshes_are_refused(data, space, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(data, space)
