"""A limit on the time of training: the steps that fit into it, and the end of the run."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging

from pdl_jax.data.pipeline import TrainIterator
from pdl_jax.experiment import Experiment
from pdl_jax.runtime.compiled import CompiledOnFirstCall
from pdl_jax.runtime.processes import share_array
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import shard_batch
from pdl_jax.systems.system import System
from pdl_jax.training.distillation import Teacher, list_arguments
from pdl_jax.training.program import StepProgram, make_step_program

# Steps are timed for this share of the limit, but at least so many of them and at most so many.
_TIMED_SHARE = 0.02
_MIN_TIMED_STEPS = 3
_MAX_TIMED_STEPS = 1000
# Steps vary: fewer are planned than fit, so that the schedule ends before the time does.
_PLANNED_SHARE = 0.95
# Several processes agree on the time at every so many steps, by a message.
_AGREE_EVERY_STEPS = 10


class TimeLimit:
    """The clock of a run, which starts behind its first step and stands still during evaluations.

    Compiling does not count: it may take longer than all that a small network is given.

    Args:
      minutes: the limit; 0 for none.
    """

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes or math.inf
        self._num_asked = 0
        self.start()

    def start(self) -> None:
        """Starts the clock anew."""
        self._start = time.monotonic()
        self._paused_seconds = 0.0

    @property
    def seconds_left(self) -> float:
        """Time that is left in this process; infinite without a limit."""
        return self._seconds - (time.monotonic() - self._start - self._paused_seconds)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock inside the context."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused_seconds += time.monotonic() - start

    def is_over(self) -> bool:
        """Tells all processes the same: that of process 0; every process asks equally often."""
        if self._seconds == math.inf:
            return False
        if jax.process_count() == 1:
            return self.seconds_left <= 0
        self._num_asked += 1
        if self._num_asked % _AGREE_EVERY_STEPS:
            return False
        return bool(share_array(np.array([self.seconds_left <= 0]))[0])


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An experiment whose schedule fits into the limit, and its program.

    Attributes:
      experiment: the experiment with its number of steps.
      program: its train step.
      step: the same, compiled at its first call.
      fields: `train.num_steps` and `optimizer.warmup_steps` as [asked for, fitted], for the
        description of the checkpoint; empty where the schedule is the one asked for.
      teacher: the network that the student learns from, if any.
    """

    experiment: Experiment
    program: StepProgram
    step: CompiledOnFirstCall
    fields: Mapping[str, Any]
    teacher: Teacher | None = None

    @classmethod
    def unchanged(
        cls,
        experiment: Experiment,
        system: System,
        mesh: jax.sharding.Mesh,
        fields: Mapping[str, Any] = MappingProxyType({}),
        teacher: Teacher | None = None,
    ) -> 'Fitted':
        """Takes the schedule of an experiment as it is; the fields say how it came about."""
        taught_by = None if teacher is None else teacher.system
        program = make_step_program(experiment, system, mesh, taught_by)
        step = CompiledOnFirstCall(program.step, name='the train step')
        return cls(experiment, program, step, fields, teacher)


def fit_new_run(
    asked: Fitted,
    system: System,
    mesh: jax.sharding.Mesh,
    iterator: TrainIterator,
    limit: TimeLimit,
) -> Fitted:
    """Times the first steps of a new run, and shortens its schedule to the steps that fit.

    The timed steps are thrown away: the run is the one that a configuration with the fitted numbers
    gives, bit for bit. The warm-up is shortened in proportion.

    Args:
      asked: the experiment as it is asked for, with `train.max_minutes`.
      system: the experiment's.
      mesh: the devices.
      iterator: the training batches; its position is restored.
      limit: the clock, which is started anew with the run.
    """
    experiment = asked.experiment
    position = iterator.get_state()
    with stage('timing the first steps'):
        seconds_per_step = _time_steps(asked, mesh, iterator, limit)
    iterator.set_state(position)
    wanted = experiment.train.num_steps
    planned = _PLANNED_SHARE * 60 * experiment.train.max_minutes
    num_steps = int(np.clip(planned / seconds_per_step, 1, wanted))
    num_steps = int(share_array(np.array([num_steps]))[0])
    minutes = experiment.train.max_minutes
    told = f'config.train.max_minutes (={minutes:g}) at {seconds_per_step:.3g} s per step'
    if num_steps == wanted:
        logging.info('all %d steps fit into %s', num_steps, told)
        return asked
    warmup_steps = experiment.optimizer.warmup_steps * num_steps // wanted
    fields = {
        'train.num_steps': [wanted, num_steps],
        'optimizer.warmup_steps': [experiment.optimizer.warmup_steps, warmup_steps],
    }
    logging.info(
        '%d of %d steps fit into %s: the learning rate decays within them, as with '
        '--config.train.num_steps=%d --config.optimizer.warmup_steps=%d',
        num_steps,
        wanted,
        told,
        num_steps,
        warmup_steps,
    )
    experiment = _replace_schedule(experiment, num_steps, warmup_steps)
    return Fitted.unchanged(experiment, system, mesh, fields, asked.teacher)


def keep_fitted(experiment: Experiment, fields: Any) -> tuple[Experiment, dict[str, Any]]:
    """Lets a resumed run with a limit go on with the schedule that was fitted when it started.

    A number other than the one that was asked for then is a new wish, and counts.

    Args:
      experiment: what is asked for now.
      fields: `Fitted.fields` as the checkpoint has them, which is not trusted; None without any.

    Returns:
      The experiment, and the fields for the checkpoints to come.
    """
    if not experiment.train.max_minutes or not isinstance(fields, Mapping):
        return experiment, {}
    numbers = [experiment.train.num_steps, experiment.optimizer.warmup_steps]
    kept = {}
    for i, name in enumerate(('train.num_steps', 'optimizer.warmup_steps')):
        pair = fields.get(name)
        if not isinstance(pair, list) or len(pair) != 2:
            continue
        # A schedule has at least one step; its warm-up may have none.
        is_valid = all(type(number) is int and number >= 1 - i for number in pair)
        if is_valid and numbers[i] in pair:
            numbers[i], kept[name] = pair[1], pair
    return _replace_schedule(experiment, *numbers), kept


def _time_steps(
    asked: Fitted, mesh: jax.sharding.Mesh, iterator: TrainIterator, limit: TimeLimit
) -> float:
    """Returns the mean seconds of some steps, after one that is compiled and one more."""
    state = asked.program.init()

    def run(num_steps: int) -> float:
        nonlocal state
        start = time.monotonic()
        for _ in range(num_steps):
            batch = shard_batch(next(iterator), mesh)
            batch.pop('num_unreadable', None)
            state, _ = asked.step(state, batch, *list_arguments(asked.teacher))
        jax.block_until_ready(state)
        return time.monotonic() - start

    run(1)
    limit.start()
    share = _TIMED_SHARE * limit.seconds_left / max(run(1), 1e-6)
    num_steps = int(np.clip(share, _MIN_TIMED_STEPS, _MAX_TIMED_STEPS))
    num_steps = int(share_array(np.array([num_steps]))[0])
    return max(run(num_steps) / num_steps, 1e-6)


def _replace_schedule(experiment: Experiment, num_steps: int, warmup_steps: int) -> Experiment:
    return dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, num_steps=num_steps),
        optimizer=dataclasses.replace(experiment.optimizer, warmup_steps=warmup_steps),
    )
