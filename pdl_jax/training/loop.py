"""Training: build everything, resume if there is something to resume, loop, leave cleanly."""

import contextlib
import json
import os
import signal
import tempfile
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from pdl_jax import config as config_lib
from pdl_jax.data.pipeline import make_train_iterator
from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.records import open_split
from pdl_jax.data.scenes import dataset as scenes
from pdl_jax.data.split_directory import is_complete
from pdl_jax.evaluation.evaluator import Evaluator, check_same_classes
from pdl_jax.evaluation.report import find_score, format_report, write_report
from pdl_jax.runtime.processes import compile_together, wait_for_all
from pdl_jax.runtime.sharding import find_batch_shard, make_mesh, shard_batch
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.paths import is_remote, make_path
from pdl_jax.training.initialize import load_initial_variables, merge_variables
from pdl_jax.training.pictures import PictureMaker
from pdl_jax.training.program import make_step_program
from pdl_jax.training.state import TrainState
from pdl_jax.training.writers import make_writer


def train(config: ConfigDict, workdir: str) -> dict[str, Any] | None:
    """Trains until `config.train.num_steps`, continuing from the newest checkpoint in `workdir`.

    Args:
      config: see configs/common.py.
      workdir: directory of checkpoints, logs, pictures and the final report; local or gs://.

    Returns:
      The report of the final evaluation, or None where the run was told to stop before its end (SIGTERM).

    Raises:
      ValueError: a field of the configuration, the data or the checkpoint does not fit.
      FloatingPointError: the loss or its gradient is not finite.
      OSError: a checkpoint could not be written.
    """
    config_lib.validate_config(config)
    make_scenes(config)
    mesh = make_mesh(config.mesh.data, config.mesh.space)
    with jax.set_mesh(mesh), _Preemption() as preemption:
        return _Job(config, workdir, mesh, preemption).execute()


def make_scenes(config: ConfigDict) -> None:
    """Generates and prepares the scenes of `config.data.scenes` where nothing is at `config.data.path` yet."""
    options = config.data.scenes
    if not options.num_train:
        return
    # One process decides: by the time that another looked, the scenes might have been finished.
    if jax.process_index() == 0 and not all(
        is_complete(make_path(config.data.path) / split) for split in ('train', 'val')
    ):
        with contextlib.ExitStack() as stack:
            raw = config.data.path.rstrip('/') + '_raw'
            if is_remote(config.data.path):
                raw = stack.enter_context(tempfile.TemporaryDirectory(prefix='pdl_jax_scenes_'))
            scenes.write_scenes(
                raw,
                num_train=options.num_train,
                num_val=options.num_eval,
                height_px=options.height_px,
                width_px=options.width_px,
                seed=options.seed,
            )
            for split in ('train', 'val'):
                prepare_panoptic_folder(
                    images_dir=os.path.join(raw, split, 'images'),
                    panoptic_dir=os.path.join(raw, split, f'panoptic_{split}'),
                    json_path=os.path.join(raw, split, f'panoptic_{split}.json'),
                    out_dir=config.data.path,
                    split=split,
                )
    wait_for_all('the scenes are there')


class _Job:
    """Everything that training needs, built once."""

    def __init__(self, config, workdir, mesh, preemption):
        self.config, self.workdir, self.mesh, self.preemption = config, workdir, mesh, preemption
        self.source = open_split(config.data.path, config.data.train_split)
        if (
            config_lib.has_instances(config)
            and self.source.max_instances > config.targets.max_instances
        ):
            logging.warning(
                'an image has %d instances, more than config.targets.max_instances (=%d): crops with more than that '
                'leave the others out of the instance losses',
                self.source.max_instances,
                config.targets.max_instances,
            )
        spec = self.source.spec
        self.program = make_step_program(config, mesh, spec.label_format)
        # Opened before the first step, so that a wrong split is found now and not after hours.
        eval_source = open_split(config.data.path, config.data.eval_split)
        check_same_classes(spec.to_dict(), eval_source, self.source.directory)
        self.evaluator = Evaluator(config, eval_source, mesh)
        self.pictures = PictureMaker(config, self.source.spec, mesh)
        self.description = {
            'config': config_lib.config_to_json(config),
            'dataset': spec.to_dict(),
        }

    def execute(self):
        config = self.config
        checkpointer = Checkpointer(self.workdir, keep=config.train.keep_checkpoints)
        shard_index, shard_count = find_batch_shard(self.mesh)
        iterator = make_train_iterator(
            self.source,
            batch_size=config.train.batch_size,
            canvas_size=config_lib.canvas_size(config, self.source.max_size),
            seed=config.seed,
            num_workers=config.data.num_workers,
            is_unreadable_skipped=config.data.is_unreadable_skipped,
            shard_index=shard_index,
            shard_count=shard_count,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(checkpointer.close)
            stack.callback(iterator.close)
            state, step = self._start(checkpointer, iterator)
            writer = make_writer(
                self.workdir,
                total_steps=config.train.num_steps,
                initial_step=step,
                batch_size=config.train.batch_size,
                is_main_process=jax.process_index() == 0,
            )
            stack.callback(writer.close)
            if step == 0:
                writer.write_text(0, 'config', json.dumps(self.description['config'], indent=2))
            loop = _Loop(self, checkpointer, iterator, writer)
            return loop.run(state, step)

    def _start(self, checkpointer, iterator):
        """The state to go on from and its step: restored, or drawn anew."""
        if checkpointer.latest_step is not None:
            restored = checkpointer.restore(self.program.abstract_state)
            check_same_classes(restored.description['dataset'], self.source, checkpointer.directory)
            iterator.set_state(restored.input_position)
            logging.info('resuming from step %d of %s', restored.step, checkpointer.directory)
            return restored.state, restored.step
        state = self.program.init()
        if self.config.model.init_checkpoint:
            state = self._initialize(state)
        return state, 0

    def _initialize(self, state: TrainState) -> TrainState:
        """Puts what config.model.init_checkpoint holds of this network in the place of drawn variables."""
        path = self.config.model.init_checkpoint
        variables = {'params': state.params, 'batch_stats': state.batch_stats}
        loaded, report = load_initial_variables(path, variables)
        if report.has_folded_norm and not self.config.model.is_backbone_norm_frozen:
            raise ValueError(
                f'config.model.init_checkpoint (={path!r}) holds a backbone with BatchNorm folded into its kernels, so there '
                f'are no statistics to go on training with: set config.model.is_backbone_norm_frozen=True'
            )
        for difference in report.find_differences(config_lib.make_model_options(self.config)):
            logging.warning('%s: %s', path, difference)
        logging.info(
            '%d of %d variables start from %s',
            len(report.loaded),
            len(jax.tree.leaves(variables)),
            path,
        )
        for name, reason in report.left_out.items():
            logging.info('drawn anew: %s (%s)', name, reason)

        def replace(variables):
            # Copied to the devices anew for each: averaged variables must not share a donated buffer.
            merged = merge_variables(variables, loaded)
            return jax.tree.map(
                lambda x, old: jax.device_put(x, old.sharding, may_alias=x is old),
                merged,
                variables,
            )

        if state.ema_variables is not None:
            state = state.replace(ema_variables=replace(state.ema_variables))
        return state.replace(**replace(variables))


class _Loop:
    """Runs steps; decides when to log, draw, evaluate and save."""

    def __init__(self, job: _Job, checkpointer: Checkpointer, iterator, writer):
        self.job, self.checkpointer, self.iterator, self.writer = (
            job,
            checkpointer,
            iterator,
            writer,
        )
        self.config = job.config.train
        self.num_unreadable = 0
        self.report, self.evaluated_step = None, None

    def run(self, state: TrainState, step: int) -> dict[str, Any] | None:
        job, config = self.job, self.config
        pending, train_step = None, None
        while step < config.num_steps:
            sharded = shard_batch(next(self.iterator), job.mesh)
            if 'num_unreadable' in sharded:
                # Of all processes, since rows are.
                self.num_unreadable += jnp.sum(sharded.pop('num_unreadable'))
            step += 1
            if train_step is None:
                train_step = compile_together(
                    job.program.step, state, sharded, name='the train step'
                )
            # Numbers that slip in from the host would cost a transfer every step.
            with jax.transfer_guard('disallow'):
                state, scalars = train_step(state, sharded)
            # The step before is read while this one runs, so the device never waits for the host.
            if pending is not None:
                self._check(*pending)
            pending = step, scalars
            is_last = step == config.num_steps
            is_stopped = job.preemption.is_requested()
            if is_due(step, config.log_every_steps) or is_last or is_stopped:
                self._log(step, self._check(*pending))
            if is_due(step, config.picture_every_steps):
                self._write(self.writer.write_images, step, job.pictures(state, sharded))
            is_due_evaluation = is_due(step, config.evaluate_every_steps) or is_last
            if is_due(step, config.checkpoint_every_steps) or is_due_evaluation or is_stopped:
                # Parameters follow from this gradient: only a finite one makes a good checkpoint.
                self._check(*pending)
                if is_due_evaluation and not is_stopped:
                    is_stopped = not self._evaluate(state, step)
                self._save(state, step)
            if is_stopped:
                self.checkpointer.wait()
                logging.warning('told to stop: saved step %d; the same command resumes there', step)
                return None
        if self.evaluated_step != step:
            # Everything was done before: say the result again.
            if not self._evaluate(state, step):
                return None
        self.checkpointer.wait()
        if jax.process_index() == 0:
            write_report(self.report, os.path.join(job.workdir, 'report.json'))
            logging.info('result at step %d:\n%s', step, format_report(self.report))
        return self.report

    def _check(self, step, scalars):
        """Reads a step's scalars to the host; stops the run when they are not finite."""
        scalars = {key: float(value) for key, value in jax.device_get(scalars).items()}
        if np.isfinite(scalars['loss']) and np.isfinite(scalars['gradient_norm']):
            return scalars
        with contextlib.suppress(OSError):
            self.checkpointer.wait()
        good = self.checkpointer.latest_step
        where = 'there is no checkpoint yet'
        if good is not None:
            where = f'the last good checkpoint is step {good} in {self.checkpointer.directory}'
        raise FloatingPointError(
            f'step {step} has loss {scalars["loss"]} and gradient norm {scalars["gradient_norm"]}; {where}. Lower '
            f'config.optimizer.learning_rate, raise warmup_steps or set clip_norm, then run again.'
        )

    def _log(self, step, scalars):
        if self.job.config.data.is_unreadable_skipped:
            scalars['num_unreadable'] = int(self.num_unreadable)
        self._write(self.writer.write_scalars, step, scalars)

    def _write(self, write, step, values):
        try:
            write(step, values)
        except OSError as error:
            # A full disk ends no training before a checkpoint is due.
            logging.warning('step %d is missing from the logs: %s', step, error)

    def _evaluate(self, state, step):
        """Scores a state; false where the run was told to stop meanwhile."""
        try:
            report = self.job.evaluator(
                state.eval_variables, is_stopped=self.job.preemption.is_requested
            )
        except Exception:
            # What was trained since the last save must outlive an image that cannot be read. One of several processes cannot
            # save alone.
            if jax.process_count() == 1:
                self._save(state, step)
                self.checkpointer.wait()
            raise
        if report is None:
            return False
        self.report, self.evaluated_step = report, step
        quality = self.report['pq'] or {}
        scalars = {f'eval/{key}': self.report[key] for key in ('miou', 'pixel_accuracy')}
        for group, prefix in (('All', ''), ('Things', '_things'), ('Stuff', '_stuff')):
            scalars[f'eval/pq{prefix}'] = quality.get(group, {}).get('pq')
        scalars = {key: value for key, value in scalars.items() if value is not None}
        self._write(self.writer.write_scalars, step, scalars)
        return True

    def _save(self, state, step):
        if step == self.checkpointer.latest_step:
            return
        is_evaluated = step == self.evaluated_step
        self.checkpointer.save(
            state,
            step=step,
            input_position=self.iterator.get_state(),
            description=self.job.description,
            score=find_score(self.report) if is_evaluated else None,
        )


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; 0 is never."""
    return every > 0 and step % every == 0


class _Preemption:
    """Turns SIGTERM into a question that is asked between two steps."""

    def __enter__(self):
        self._num_asked = 0
        self._requested = threading.Event()
        self._is_handled = threading.current_thread() is threading.main_thread()
        # With several processes JAX's own service agrees on one step for all of them.
        self._is_handled &= jax.process_count() == 1
        if self._is_handled:
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._requested.set())
        return self

    def __exit__(self, *_):
        if self._is_handled:
            signal.signal(signal.SIGTERM, self._previous)

    def is_requested(self) -> bool:
        """Whether to save and leave now; all processes ask equally often and get the same answers."""
        if jax.process_count() == 1:
            return self._requested.is_set()
        self._num_asked += 1
        return multihost_utils.reached_preemption_sync_point(self._num_asked)
