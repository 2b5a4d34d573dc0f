"""The compiled train step of a configuration on a mesh: what training runs and `plan` asks the compiler about."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pdl_jax.config import make_model, make_optimizer_options, make_step_options
from pdl_jax.runtime.compiler_options import single_use_compiler_options, train_compiler_options
from pdl_jax.runtime.sharding import place_state, replicated
from pdl_jax.training.optim import make_optimizer, make_schedule
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import init_state, make_train_step
from pdl_jax.typing import Array, LabelFormat


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """One train step.

    Attributes:
      init: jitted, draws the first state.
      step: jitted (state, batch) -> (state, scalars); the state that comes in is used up.
      abstract_state: shapes, types and shardings of the state.
      crop_size: (height, width) in pixels of the images that the network sees.
    """

    init: Callable[[], TrainState]
    step: Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]
    abstract_state: TrainState
    crop_size: tuple[int, int]


def make_step_program(config: ConfigDict, mesh: Mesh, label_format: LabelFormat) -> StepProgram:
    """Makes the train step; compiles nothing yet.

    Raises:
      ValueError: the batch cannot be split over the mesh.
    """
    devices, parts = mesh.shape['data'], config.train.accumulation_steps
    batch_size, least = config.train.batch_size, devices * parts
    if batch_size % least:
        parts_text = f' times config.train.accumulation_steps (={parts})' if parts > 1 else ''
        raise ValueError(
            f'config.train.batch_size (={batch_size}) must be a multiple of the {devices} devices along the batch{parts_text}: '
            f'set it to {-(-batch_size // least) * least}, or put more devices along image rows (config.mesh.space)'
        )
    options = make_step_options(config, label_format)
    model = make_model(config, label_format.num_classes)
    optimizer_options = make_optimizer_options(config)
    optimizer = make_optimizer(optimizer_options, config.train.num_steps)
    init = functools.partial(init_state, model, optimizer, options)
    abstract_state = place_state(jax.eval_shape(init), mesh, config.mesh.param_rules)
    sharding = jax.tree.map(lambda x: x.sharding, abstract_state)
    platform = mesh.devices.flat[0].platform
    step = jax.jit(
        make_train_step(
            model, optimizer, make_schedule(optimizer_options, config.train.num_steps), options
        ),
        donate_argnums=0,
        out_shardings=(sharding, replicated(mesh)),
        compiler_options=train_compiler_options(platform),
    )
    init = jax.jit(
        init, out_shardings=sharding, compiler_options=single_use_compiler_options(platform)
    )
    return StepProgram(init, step, abstract_state, options.augment.crop_size)
