"""The compiled train step of an experiment on a mesh: what training runs and `plan` compiles."""

import dataclasses
import functools

import jax
from jax.sharding import Mesh

from pdl_jax.experiment import Experiment
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.runtime.compiler_options import single_use_compiler_options, train_compiler_options
from pdl_jax.runtime.sharding import place_state, replicated
from pdl_jax.systems.system import System
from pdl_jax.training.optim import make_optimizer, make_schedule
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import StepOptions, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """One train step.

    Attributes:
      init: jitted; draws the first state.
      step: jitted (state, batch) -> (state, scalars); the incoming state is donated. With a teacher
        its variables come third.
      abstract_state: shapes, types and shardings of the state.
      crop_size: (height, width) in pixels of the images that the network sees.
    """

    init: jax.stages.Wrapped
    step: jax.stages.Wrapped
    abstract_state: TrainState
    crop_size: tuple[int, int]


def make_step_options(experiment: Experiment) -> StepOptions:
    """Selects what a train step depends on."""
    return StepOptions(
        augment=experiment.augment,
        ema_decay=experiment.optimizer.ema_decay,
        seed=experiment.seed,
        accumulation_steps=experiment.train.accumulation_steps,
        remat=experiment.train.remat,
        distill=experiment.distill,
    )


def make_step_program(
    experiment: Experiment, system: System, mesh: Mesh, teacher: System | None = None
) -> StepProgram:
    """Makes the train step; compiles nothing yet.

    Raises:
      ValueError: the batch cannot be split over the mesh.
    """
    train = experiment.train
    _check_batch_size(train.batch_size, mesh.shape['data'], train.accumulation_steps)
    options = make_step_options(experiment)
    schedule = make_schedule(experiment.optimizer, train.num_steps)
    optimizer = make_optimizer(
        experiment.optimizer, train.num_steps, system.parameter_groups, system.backbone_regex
    )
    init = functools.partial(init_state, system, optimizer, options)
    abstract_state = place_state(eval_shape(init), mesh, experiment.mesh.param_rules)
    sharding = jax.tree.map(lambda x: x.sharding, abstract_state)
    platform = mesh.devices.flat[0].platform
    step = jax.jit(
        make_train_step(system, optimizer, schedule, options, teacher),
        donate_argnums=0,
        out_shardings=(sharding, replicated(mesh)),
        compiler_options=train_compiler_options(platform),
    )
    init = jax.jit(
        init, out_shardings=sharding, compiler_options=single_use_compiler_options(platform)
    )
    return StepProgram(init, step, abstract_state, experiment.augment.crop_size)


def _check_batch_size(batch_size: int, num_devices: int, num_parts: int) -> None:
    least = num_devices * num_parts
    if batch_size % least:
        parts = f' times config.train.accumulation_steps (={num_parts})' if num_parts > 1 else ''
        raise ValueError(
            f'config.train.batch_size (={batch_size}) must be a multiple of the {num_devices} '
            f'devices along the batch{parts}: set it to {ceil_div(batch_size, least) * least}, or '
            f'put more devices along image rows (config.mesh.space)'
        )
