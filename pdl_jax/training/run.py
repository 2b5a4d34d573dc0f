"""Everything a training run needs, built once."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import logging

from pdl_jax.data.pipeline import TrainIterator, make_train_iterator
from pdl_jax.data.pixel_counts import count_class_pixels
from pdl_jax.data.records import RecordSource, open_split, unify_label_divisors
from pdl_jax.data.statistics import find_warnings
from pdl_jax.evaluation.evaluator import (
    Evaluator,
    check_channels,
    check_same_classes,
    warn_of_other_range,
)
from pdl_jax.experiment import Experiment
from pdl_jax.prediction.trained import read_trained
from pdl_jax.runtime.compiled import CompiledOnFirstCall
from pdl_jax.runtime.preemption import Preemption
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import find_batch_shard, make_mesh
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.config_changes import check_changes, find_changes
from pdl_jax.storage.workdir_lock import lock_workdir
from pdl_jax.training.distillation import find_teacher, list_arguments
from pdl_jax.training.initialize import initialize
from pdl_jax.training.pictures import PictureMaker
from pdl_jax.training.program import StepProgram
from pdl_jax.training.scenes import ensure_scenes
from pdl_jax.training.state import TrainState
from pdl_jax.training.time_limit import Fitted, TimeLimit, fit_new_run, keep_fitted
from pdl_jax.training.trackers import check_trackers, make_trackers
from pdl_jax.training.writers import MetricWriter, make_writer
from pdl_jax.typing import Device, PyTree

_ADVICE = (
    'Choose another --workdir for another network (config.model.init_checkpoint starts from the '
    'weights of this one), leave out --config to go on as before, or give --allow_changed'
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, ready to step.

    Attributes:
      experiment: what the configuration says.
      workdir: directory of checkpoints, logs, pictures and the final report.
      mesh: the devices.
      program: the train step.
      step: the train step, compiled at its first call.
      arguments: of the step, behind the state and the batch.
      time_limit: the clock of `train.max_minutes`.
      evaluator: scores variables on the eval split.
      pictures: draws fixed images of the eval split.
      iterator: the training batches.
      checkpointer: saves and restores.
      writer: takes numbers and pictures.
      preemption: tells if the run was told to stop.
      description: what a checkpoint says of itself.
      state, first_step: where the run starts.
    """

    experiment: Experiment
    workdir: str
    mesh: jax.sharding.Mesh
    program: StepProgram
    step: CompiledOnFirstCall
    arguments: tuple[PyTree, ...]
    time_limit: TimeLimit
    evaluator: Evaluator
    pictures: PictureMaker
    iterator: TrainIterator
    checkpointer: Checkpointer
    writer: MetricWriter
    preemption: Preemption
    description: dict[str, Any]
    state: TrainState
    first_step: int


@contextlib.contextmanager
def setup(
    experiment: Experiment,
    workdir: str,
    *,
    allow_changed: bool = False,
    devices: Sequence[Device] | None = None,
) -> Iterator[Run]:
    """Opens the data, builds the programs, and restores or draws the state.

    Args:
      experiment: what the configuration says.
      workdir: local or gs://; a local one is locked meanwhile.
      allow_changed: see `loop.train`.
      devices: by default all of them, on all processes.

    Yields:
      The run; what it holds open is closed when the context is left.

    Raises:
      ImportError: a package of `train.writers` is not installed.
      ValueError: a field of the configuration, the data or the checkpoint does not fit.
      OSError: the workdir cannot be written, or another program holds it.
    """
    check_trackers(experiment.train.writers)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.space, devices=devices)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        preemption = stack.enter_context(Preemption())
        if jax.process_index() == 0:
            stack.enter_context(lock_workdir(workdir))
        with stage('reading data'):
            ensure_scenes(experiment.data)
            source = open_split(experiment.data.path, experiment.data.train_split)
            # Opened before the first step: a wrong split is found now and not after hours.
            eval_source = open_split(experiment.data.path, experiment.data.eval_split)
        check_same_classes(source.spec.to_dict(), eval_source, source.directory)
        source, eval_source = unify_label_divisors(source, eval_source)
        _warn_of_labels(source)
        _warn_of_labels(eval_source)
        check_channels(experiment, source)
        warn_of_other_range({'pixels': source.pixels.to_dict()}, eval_source, source)
        _check_instances(experiment, source)
        count_pixels = functools.partial(count_class_pixels, source)
        experiment = experiment.for_data(source.spec.class_names, count_pixels)
        system = experiment.make_system(source.spec.label_format)
        evaluator = Evaluator(experiment, system, eval_source, mesh)
        checkpointer = Checkpointer(workdir, keep=experiment.train.keep_checkpoints)
        stack.callback(checkpointer.close)
        experiment, fields = _check_changes(
            experiment, checkpointer, source, is_allowed=allow_changed
        )
        iterator = _make_iterator(experiment, source, mesh)
        stack.callback(iterator.close)
        limit = TimeLimit(experiment.train.max_minutes)
        teacher = find_teacher(experiment, source.spec, mesh)
        fitted = Fitted.unchanged(experiment, system, mesh, fields, teacher)
        if experiment.train.max_minutes and checkpointer.latest_step is None:
            fitted = fit_new_run(fitted, system, mesh, iterator, limit)
        experiment = fitted.experiment
        description = _describe(fitted, source)
        state, first_step = _start(experiment, fitted.program, checkpointer, iterator)
        writer = _make_writer(experiment, workdir, description, first_step)
        stack.callback(writer.close)
        yield Run(
            experiment=experiment,
            workdir=workdir,
            mesh=mesh,
            program=fitted.program,
            step=fitted.step,
            arguments=list_arguments(teacher),
            time_limit=limit,
            evaluator=evaluator,
            pictures=PictureMaker(evaluator.inference, eval_source, mesh),
            iterator=iterator,
            checkpointer=checkpointer,
            writer=writer,
            preemption=preemption,
            description=description,
            state=state,
            first_step=first_step,
        )


def _make_iterator(
    experiment: Experiment, source: RecordSource, mesh: jax.sharding.Mesh
) -> TrainIterator:
    shard_index, shard_count = find_batch_shard(mesh)
    return make_train_iterator(
        source,
        batch_size=experiment.train.batch_size,
        canvas_size=experiment.data.canvas_size(source.max_size),
        seed=experiment.seed,
        num_workers=experiment.data.num_workers,
        skip_unreadable=experiment.data.skip_unreadable,
        shard_index=shard_index,
        shard_count=shard_count,
    )


def _describe(fitted: Fitted, source: RecordSource) -> dict[str, Any]:
    return {
        'config': fitted.experiment.to_json(),
        'dataset': source.spec.to_dict(),
        'pixels': source.pixels.to_dict(),
        **({'fitted': dict(fitted.fields)} if fitted.fields else {}),
    }


def _make_writer(
    experiment: Experiment, workdir: str, description: dict[str, Any], first_step: int
) -> MetricWriter:
    is_main_process = jax.process_index() == 0
    config = description['config']
    writer = make_writer(
        workdir,
        total_steps=experiment.train.num_steps,
        initial_step=first_step,
        batch_size=experiment.train.batch_size,
        is_main_process=is_main_process,
        trackers=make_trackers(
            experiment.train.writers if is_main_process else (),
            workdir,
            config=config,
            is_new=first_step == 0,
        ),
    )
    if first_step == 0:
        writer.write_text(0, 'config', json.dumps(config, indent=2))
    return writer


def _check_changes(
    experiment: Experiment, checkpointer: Checkpointer, source: RecordSource, *, is_allowed: bool
) -> tuple[Experiment, dict[str, Any]]:
    """Compares the experiment and its data with those of the checkpoint to go on from.

    Returns:
      See `keep_fitted`.
    """
    if checkpointer.latest_step is None:
        return experiment, {}
    checkpoint = checkpointer.directory / str(checkpointer.latest_step)
    trained = read_trained(checkpoint)
    experiment, fields = keep_fitted(experiment, trained.description.get('fitted'))
    changes = find_changes(trained.experiment.to_dict(), experiment.to_dict())
    check_changes(changes, is_allowed=is_allowed, advice=_ADVICE)
    check_same_classes(trained.spec.to_dict(), source, checkpointer.directory)
    warn_of_other_range(trained.description, source, checkpointer.directory)
    return experiment, fields


def _start(
    experiment: Experiment,
    program: StepProgram,
    checkpointer: Checkpointer,
    iterator: TrainIterator,
) -> tuple[TrainState, int]:
    """Restores the newest checkpoint and its place in the data, or draws a state."""
    if checkpointer.latest_step is not None:
        restored = checkpointer.restore(program.abstract_state)
        iterator.set_state(restored.input_position)
        logging.info('resuming from step %d of %s', restored.step, checkpointer.directory)
        return restored.state, restored.step
    with stage('drawing the initial variables'):
        state = program.init()
        if experiment.train.init_checkpoint:
            state = initialize(experiment, state)
    return state, 0


def _warn_of_labels(source: RecordSource) -> None:
    if source.statistics is not None:
        for warning in find_warnings(source.statistics, source.spec):
            logging.warning('split %r: %s', source.split, warning)


def _check_instances(experiment: Experiment, source: RecordSource) -> None:
    """Refuses more instances than copy-paste can tell apart, and warns of more than get targets."""
    limit, most = experiment.system.max_instances, source.max_instances
    probability = experiment.augment.copy_paste_probability
    divisor = source.spec.label_divisor
    if probability and most >= divisor // 2:
        raise ValueError(
            f'config.augment.copy_paste_probability (={probability}) needs images of fewer than '
            f'{divisor // 2} instances, half of the label_divisor: one of split {source.split!r} '
            f'has {most}. Set it to 0, or cut the images into tiles'
        )
    if limit is not None and most * (2 if probability else 1) > limit:
        logging.warning(
            'an image has %d instances%s, more than config.%s (=%d): crops with '
            'more than that leave the others out of the instance losses',
            most,
            ', and as many may be pasted' if probability else '',
            experiment.system.max_instances_field,
            limit,
        )
