"""A training step from images and their targets: network, losses, gradients, Adam."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours.compiled import compile_function, count_bytes
from benchmarks.ours.model import count_flops, make_system_options
from benchmarks.ours.postprocess import make_label_format
from benchmarks.ours.weights import load_weights
from benchmarks.program import Program, Setup
from pdl_jax.losses.panoptic_deeplab import LossOptions
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.runtime.compiler_options import train_compiler_options
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab
from pdl_jax.systems.system import Samples
from pdl_jax.training import step as train_step
from pdl_jax.training.optim import OptimizerOptions, make_optimizer, make_schedule
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import StepOptions, make_train_step

_NUM_STEPS = 1000


class _GivenTargets(PanopticDeepLab):
    """A system whose samples have targets in the place of label maps.

    The peers make targets on the host; the suite 'input' compares that.
    """

    def make_targets(self, panoptic):
        return panoptic


def prepare(setup: Setup) -> Program:
    """Makes the training step of `pdl_jax.training`, with a donated state."""
    arguments = setup.arguments
    size, batch = tuple(arguments['size']), arguments['batch']
    # Dropout is off, so that both sides have the same loss.
    system_options = make_system_options(
        setup,
        size=size,
        overrides={'dropout_rate': 0.0},
        # The peers average over the batch.
        loss=LossOptions(scope='batch'),
    )
    system = _GivenTargets(make_label_format(arguments['num_classes']), system_options)
    model = system.network
    variables = load_weights(setup, model)
    options = OptimizerOptions()
    optimizer = make_optimizer(options, _NUM_STEPS)
    step_options = StepOptions(AugmentOptions(size))
    step = make_train_step(system, optimizer, make_schedule(options, _NUM_STEPS), step_options)
    samples = {'image': jax.device_put(setup.load('image'))}
    samples['targets'] = {
        name.removeprefix('target_'): jax.device_put(setup.load(name))
        for name in setup.files
        if name.startswith('target_')
    }
    state = jax.device_put(
        TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables['params'],
            batch_stats=variables['batch_stats'],
            opt_state=optimizer.init(variables['params']),
        )
    )
    options = train_compiler_options(jax.default_backend())
    jitted = jax.jit(step, donate_argnums=0, compiler_options=options)

    def take_samples(batch, *_, **__):
        return Samples(batch['image'], batch['targets'])

    with mock.patch.object(train_step, 'make_training_samples', take_samples):
        compiled, seconds, temp_bytes = compile_function(jitted, state, samples)
    argument_bytes = count_bytes((state, samples))
    state, scalars = compiled(state, samples)
    first_loss = np.asarray(scalars['loss'])

    def run():
        nonlocal state
        state, scalars = compiled(state, samples)
        jax.block_until_ready(scalars)

    return Program(
        run,
        compile_seconds=seconds,
        argument_bytes=argument_bytes,
        temp_bytes=temp_bytes,
        # The backward pass costs two forward passes.
        flops=3 * count_flops(model, size, batch),
        num_items=batch,
        get_outputs=lambda: {'loss': first_loss},
    )
