"""kMaX-DeepLab trains alike on one device and on eight, along the batch and along image rows."""

import jax
import numpy as np
import pytest

from pdl_jax.commands.config_file import load_config
from pdl_jax.experiment import Experiment
from pdl_jax.runtime.sharding import make_mesh, shard_batch
from pdl_jax.training.program import make_step_program
from pdl_jax.typing import LabelFormat
from tests.quick_compiler import EXACT

_FORMAT = LabelFormat(4, (2, 3), 255, 100)
_NUM_STEPS = 20
_FIELDS = {
    'data.path': 'unused',
    'data.num_classes': 0,
    'model.width_multiplier': 0.25,
    'model.decoder_features': (16, 8, 8, 8),
    'model.transformer_depths': (1, 1),
    'model.num_queries': 8,
    'model.query_features': 16,
    'model.mask_features': 8,
    'model.ffn_features': 32,
    'model.num_heads': 2,
    'model.num_relaxed_layers': 1,
    'loss.class_relaxation': 0.1,
    'loss.instance_samples_px': 64,
    'loss.semantic_samples_px': 64,
    'targets.max_segments': 8,
    'augment.crop_height_px': 65,
    'augment.crop_width_px': 65,
    'augment.min_scale': 1.0,
    'augment.max_scale': 1.0,
    'augment.flip_probability': 0.0,
    'train.batch_size': 8,
    'optimizer.learning_rate': 1e-4,
    'optimizer.warmup_steps': 0,
}


def _train(data, space, devices=None):
    """Returns the losses of some steps on the same batch, f64[steps]."""
    config = load_config('scenes_kmax')
    with config.ignore_type():
        config.update_from_flattened_dict(_FIELDS)
    experiment = Experiment.from_config(config)
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 100, 201, 202, 301, 25500], size=(8, 8, 8))
    batch = {
        'image': rng.integers(0, 255, (8, 64, 64, 3)).astype(np.uint8),
        'panoptic': np.repeat(np.repeat(labels, 8, 1), 8, 2).astype(np.int32),
        'size': np.tile(np.array([[64, 64]], np.int32), (8, 1)),
    }
    mesh = make_mesh(data, space, devices=devices)
    program = make_step_program(experiment, experiment.make_system(_FORMAT), mesh)
    with jax.set_mesh(mesh):
        batch = shard_batch(batch, mesh)
        state = program.init.lower().compile(compiler_options=EXACT)()
        step = program.step.lower(state, batch).compile(compiler_options=EXACT)
        losses = []
        for _ in range(_NUM_STEPS):
            state, scalars = step(state, batch)
            losses.append(float(scalars['loss']))
    return np.array(losses)


@pytest.fixture(scope='module')
def one_device():
    return _train(1, 1, jax.devices()[:1])


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'space'), [(8, 1), (4, 2), (2, 4)])
def test_losses_are_those_of_one_device(one_device, data, space):
    losses = _train(data, space)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, one_device, rtol=1e-4)
