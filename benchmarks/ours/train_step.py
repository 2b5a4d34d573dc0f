"""A train step of `pdl_jax.training` as a program."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours.compiled import compile_function, count_bytes
from benchmarks.program import Program, Setup
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.runtime.compiler_options import train_compiler_options
from pdl_jax.systems.system import Samples, System
from pdl_jax.training import step as train_step
from pdl_jax.training.optim import OptimizerOptions, make_optimizer, make_schedule
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import StepOptions, make_train_step

_NUM_STEPS = 1000


def make_step_program(
    setup: Setup,
    system: System,
    variables: Mapping[str, Any],
    samples: Samples,
    options: OptimizerOptions,
    *,
    flops: float | None = None,
) -> Program:
    """Makes the step, with a donated state and without augmentation.

    Args:
      setup: the case.
      system: the system.
      variables: 'params' and 'batch_stats'.
      samples: images, and what `system` takes for their label maps.
      options: the optimiser.
      flops: see `Program`.
    """
    optimizer = make_optimizer(options, _NUM_STEPS)
    step_options = StepOptions(AugmentOptions(tuple(setup.arguments['size'])))
    step = make_train_step(system, optimizer, make_schedule(options, _NUM_STEPS), step_options)
    batch = jax.device_put({'image': samples.image, 'panoptic': samples.panoptic})
    state = jax.device_put(
        TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables['params'],
            batch_stats=variables['batch_stats'],
            opt_state=optimizer.init(variables['params']),
        )
    )
    compiler_options = train_compiler_options(jax.default_backend())
    jitted = jax.jit(step, donate_argnums=0, compiler_options=compiler_options)

    def take_samples(batch, *_, **__):
        return Samples(batch['image'], batch['panoptic'])

    with mock.patch.object(train_step, 'make_training_samples', take_samples):
        compiled, seconds, temp_bytes = compile_function(jitted, state, batch)
    argument_bytes = count_bytes((state, batch))
    state, scalars = compiled(state, batch)
    first_loss = np.asarray(scalars['loss'])

    def run():
        nonlocal state
        state, scalars = compiled(state, batch)
        jax.block_until_ready(scalars)

    return Program(
        run,
        compile_seconds=seconds,
        argument_bytes=argument_bytes,
        temp_bytes=temp_bytes,
        flops=flops,
        num_items=setup.arguments['batch'],
        get_outputs=lambda: {'loss': first_loss},
    )
