"""The training of students one after the other, in memory, on the same crops."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from pdl_jax.experiment import Experiment
from pdl_jax.losses.distillation import Lesson
from pdl_jax.search.memory import Images, draw_batches
from pdl_jax.systems.distillation import ask_teacher
from pdl_jax.systems.pixel_grid import PixelGrid
from pdl_jax.systems.system import Outputs, Samples, System, Variables
from pdl_jax.training.distillation import Teacher
from pdl_jax.training.optim import make_optimizer, make_schedule
from pdl_jax.training.program import make_step_options
from pdl_jax.training.step import init_state, make_training_samples, make_update
from pdl_jax.typing import Array, LabelFormat

# Crops and outputs of the teacher are kept for the next student if all of them take less.
_MAX_KEPT_BYTES = 2**31
# LLVM takes longer to optimise a program that runs once than the program to run.
_SINGLE_USE = {'xla_backend_optimization_level': '0'}


class Course:
    """The training that all students take: the same crops, and a teacher's outputs for them.

    Crops and outputs are computed for the first student and kept, if they are not too large.

    Args:
      experiment: the training.
      label_format: of the images.
      images: to train on.
      teacher: what students learn from beside the labels, if anything.
    """

    def __init__(
        self,
        experiment: Experiment,
        label_format: LabelFormat,
        images: Images,
        teacher: Teacher | None,
    ) -> None:
        self._experiment = experiment
        self._options = make_step_options(experiment)
        self._images = images
        self._teacher = teacher
        train = experiment.train
        self._order = draw_batches(images.count, train.batch_size, train.num_steps, experiment.seed)
        self._sample = jax.jit(
            functools.partial(
                make_training_samples, label_format=label_format, options=self._options
            )
        )
        self._ask = (
            None if teacher is None else jax.jit(functools.partial(ask_teacher, teacher.system))
        )
        self._kept: list[tuple[Any, ...]] = []

    def train(self, system: System) -> Variables:
        """Trains a student from scratch; returns the variables to score."""
        options, num_steps = self._experiment.optimizer, len(self._order)
        optimizer = make_optimizer(
            options, num_steps, system.parameter_groups, system.backbone_regex
        )
        recorded = None if self._teacher is None else _Recorded(self._teacher.system)
        update = make_update(
            system,
            optimizer,
            make_schedule(options, num_steps),
            self._options,
            # All that it asks of a teacher.
            cast(System, recorded),
        )
        init = jax.jit(
            functools.partial(init_state, system, optimizer, self._options),
            compiler_options=_SINGLE_USE if jax.default_backend() == 'cpu' else None,
        )
        state = init()
        update = jax.jit(update, donate_argnums=0)
        for step in range(num_steps):
            state, _ = update(state, *self._find_lesson(step))
        return state.eval_variables

    def _find_lesson(self, step: int) -> tuple[Any, ...]:
        """Returns the samples of a step and, with a teacher, its outputs for them."""
        if step < len(self._kept):
            return self._kept[step]
        batch = jax.tree.map(lambda x: x[self._order[step]], self._images._asdict())
        samples: Samples = self._sample(batch, jnp.int32(step))
        lesson: tuple[Any, ...] = (samples,)
        if self._ask is not None and self._teacher is not None:
            lesson = samples, self._ask(self._teacher.variables, samples.image)
        num_bytes = sum(x.nbytes for x in jax.tree.leaves(lesson))
        if num_bytes * len(self._order) <= _MAX_KEPT_BYTES and step == len(self._kept):
            self._kept.append(lesson)
        return lesson


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """The part of a teacher's system that a train step asks, with outputs for variables."""

    system: System

    @property
    def grid(self) -> PixelGrid:
        return self.system.grid

    def outputs(self, variables: Outputs, images: Array) -> Outputs:
        del images
        return variables

    def lessons(self, outputs: Outputs, *, size: tuple[int, int]) -> dict[str, Lesson]:
        return self.system.lessons(outputs, size=size)
