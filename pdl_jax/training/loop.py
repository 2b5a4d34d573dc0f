"""The training loop: steps, and hooks that log, draw, evaluate and save."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from pdl_jax.evaluation.report import find_score, format_report
from pdl_jax.evaluation.report_files import write_evaluation
from pdl_jax.experiment import Experiment
from pdl_jax.runtime.sharding import shard_batch
from pdl_jax.storage.metrics import summarize_report
from pdl_jax.training.early_stopping import EarlyStopping
from pdl_jax.training.run import Run, setup
from pdl_jax.training.scalar_watch import ScalarWatch
from pdl_jax.training.state import TrainState
from pdl_jax.typing import Device


def train(
    experiment: Experiment,
    workdir: str,
    *,
    allow_changed: bool = False,
    devices: Sequence[Device] | None = None,
) -> dict[str, Any] | None:
    """Trains `train.num_steps` or `train.max_minutes`, from the newest checkpoint in `workdir` on.

    Each difference from the configuration of that checkpoint is logged.

    Args:
      experiment: what the configuration says.
      workdir: directory of checkpoints, logs, pictures and the final report; local or gs://.
      allow_changed: go on also where the experiment changes the meaning of the checkpoint's
        variables.
      devices: by default all of them, on all processes.

    Returns:
      The report of the final evaluation, or None if the run was told to stop before its end
      (SIGTERM).

    Raises:
      ValueError: a field of the configuration, the data or the checkpoint does not fit.
      FloatingPointError: the loss or its gradient is not finite.
      OSError: a checkpoint could not be written, or another program trains in `workdir`.
    """
    with setup(experiment, workdir, allow_changed=allow_changed, devices=devices) as run:
        return _Loop(run).execute()


@dataclasses.dataclass(frozen=True)
class Every:
    """A hook that runs every so many steps, 0 for never.

    Attributes:
      steps: the interval.
      action: called as action(step, state).
      at_end: whether it also runs after the last step.
    """

    steps: int
    action: Callable[[int, TrainState], None]
    at_end: bool = False

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Tells if the hook runs after this step."""
        return (self.at_end and is_last) or (self.steps > 0 and step % self.steps == 0)


class _Loop:
    """The steps of a run, and what its hooks share."""

    def __init__(self, run: Run):
        self._run = run
        self._watch = ScalarWatch(run.checkpointer)
        self._stopping = EarlyStopping.resume(run.experiment, run.workdir, step=run.first_step)
        self._num_unreadable: Any = 0
        self._report: dict[str, Any] | None = None
        self._evaluated_step: int | None = None
        self._is_stopped = False
        self._is_time_over = False

    def execute(self) -> dict[str, Any] | None:
        """Steps to the end, or until nothing improves; None if the run was told to stop."""
        run, train = self._run, self._run.experiment.train
        log = Every(train.log_every_steps, self._log, at_end=True)
        draw = Every(train.picture_every_steps, self._draw)
        evaluate = Every(train.evaluate_every_steps, self._evaluate, at_end=True)
        save = Every(train.checkpoint_every_steps, self._save, at_end=True)
        state, step = run.state, run.first_step
        is_unfinished = step < train.num_steps and not self._stopping.is_due
        if not is_unfinished or (evaluate.is_due(step, is_last=False) and self._is_unscored()):
            self._evaluate_start(step, state)
        while step < train.num_steps and not self._is_ended():
            batch = self._next_batch()
            step += 1
            # Fail if a host scalar reaches the step by accident: it would be copied on every call.
            with jax.transfer_guard('disallow'):
                state, scalars = run.step(state, batch, *run.arguments)
            if step == run.first_step + 1:
                # It has been compiled by now.
                run.time_limit.start()
            run.writer.show_progress(step, self._watch.push(step, scalars).get('loss'))
            self._is_time_over = run.time_limit.is_over()
            is_last = step == train.num_steps or self._is_time_over
            self._is_stopped = run.preemption.is_requested()
            if log.is_due(step, is_last=is_last) or self._is_stopped:
                log.action(step, state)
            if draw.is_due(step, is_last=is_last):
                draw.action(step, state)
            is_evaluated = evaluate.is_due(step, is_last=is_last)
            if is_evaluated and not self._is_stopped:
                evaluate.action(step, state)
            if save.is_due(step, is_last=is_last) or is_evaluated or self._is_stopped:
                save.action(step, state)
            if self._is_stopped:
                run.checkpointer.wait()
                logging.warning('told to stop: saved step %d; the same command resumes there', step)
                return None
        if self._stopping.is_due:
            logging.info('stopped after step %d: %s', step, self._stopping.describe())
        elif self._is_time_over and step < train.num_steps:
            logging.info(
                'stopped after step %d of %d: the time is over (config.train.max_minutes=%g); the '
                'same command goes on from there',
                step,
                train.num_steps,
                train.max_minutes,
            )
        return None if self._is_stopped else self._finish(step)

    def _is_ended(self) -> bool:
        return self._is_stopped or self._is_time_over or self._stopping.is_due

    def _next_batch(self) -> dict[str, jax.Array]:
        batch = shard_batch(next(self._run.iterator), self._run.mesh)
        if 'num_unreadable' in batch:
            # The batch is global, so this sum covers all processes.
            self._num_unreadable += jnp.sum(batch.pop('num_unreadable'))
        return batch

    def _log(self, step: int, state: TrainState) -> None:
        scalars = self._watch.read()
        if self._run.experiment.data.skip_unreadable:
            scalars['num_unreadable'] = int(self._num_unreadable)
        self._write(self._run.writer.write_scalars, step, scalars)

    def _draw(self, step: int, state: TrainState) -> None:
        self._write(self._run.writer.write_images, step, self._run.pictures(state.eval_variables))

    def _write(self, write: Callable[[int, Any], None], step: int, values: Any) -> None:
        try:
            write(step, values)
        except OSError as error:
            # A full disk ends no training before a checkpoint is due.
            logging.warning('step %d is missing from the logs: %s', step, error)

    def _evaluate(self, step: int, state: TrainState, *, is_written: bool = True) -> None:
        """Scores a state, unless the run is told to stop meanwhile; writes the numbers."""
        self._watch.read()
        run = self._run
        try:
            with run.time_limit.paused():
                report = run.evaluator(state.eval_variables, is_stopped=run.preemption.is_requested)
        except Exception:
            # Save first, so that an unreadable image does not cost the steps since the last save.
            # One of several processes cannot save alone.
            if jax.process_count() == 1:
                self._save(step, state)
                run.checkpointer.wait()
            raise
        if report is None:
            self._is_stopped = True
            return
        self._report, self._evaluated_step = {'step': step, **report}, step
        if not is_written:
            return
        quality = report['pq'] or {}
        averages = ('miou', 'pixel_accuracy', 'top1', 'top5')
        scalars = {f'eval/{key}': report.get(key) for key in averages}
        for group, suffix in (('All', ''), ('Things', '_things'), ('Stuff', '_stuff')):
            scalars[f'eval/pq{suffix}'] = quality.get(group, {}).get('pq')
        for name, row in quality.get('per_class', {}).items():
            scalars[f'eval/pq/{name}'] = row['pq']
        for term, value in report.get('loss', {}).items():
            scalars['eval/loss' if term == 'total' else f'eval/loss_{term}'] = value
        scalars = {key: value for key, value in scalars.items() if value is not None}
        self._write(run.writer.write_scalars, step, scalars)
        self._stopping.push(step, scalars)

    def _is_unscored(self) -> bool:
        """Tells if the run goes on from a checkpoint that has no score."""
        checkpointer = self._run.checkpointer
        return checkpointer.latest_step is not None and checkpointer.latest_score is None

    def _evaluate_start(self, step: int, state: TrainState) -> None:
        """Scores what the run starts from: it was complete, or SIGTERM cut the evaluation short."""
        is_unscored = self._is_unscored()
        # The numbers of a score are in the logs already.
        self._evaluate(step, state, is_written=is_unscored)
        if self._is_stopped:
            logging.warning('told to stop: the same command resumes at step %d', step)
        elif is_unscored and self._report is not None:
            self._run.checkpointer.add_score(
                find_score(self._report), summarize_report(self._report)
            )

    def _save(self, step: int, state: TrainState) -> None:
        # Parameters follow from this step's gradient: only a finite one makes a good checkpoint.
        self._watch.read()
        run = self._run
        if step == run.checkpointer.latest_step:
            return
        report = self._report if step == self._evaluated_step else None
        run.checkpointer.save(
            state,
            step=step,
            input_position=run.iterator.get_state(),
            description=run.description,
            score=None if report is None else find_score(report),
            metrics=None if report is None else summarize_report(report),
        )

    def _finish(self, step: int) -> dict[str, Any] | None:
        """Completes the last save and writes the report."""
        self._run.checkpointer.wait()
        analysis = self._run.evaluator.analyze()
        if jax.process_index() == 0 and self._report is not None:
            write_evaluation(self._report, analysis, self._run.workdir)
            logging.info('result at step %d:\n%s', step, format_report(self._report))
        return self._report
