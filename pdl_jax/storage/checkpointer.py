"""The checkpoints of a run: atomic asynchronous saves, and restoring onto any mesh."""

import dataclasses
import json
import logging as stdlib_logging
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from pdl_jax import __version__
from pdl_jax.runtime.processes import wait_for_all
from pdl_jax.storage.checkpoint import (
    FOLDER,
    FORMAT,
    check_structure,
    get_score,
    list_steps,
    make_absolute,
    read_description,
    read_structure,
)
from pdl_jax.storage.checksums import add_checksum, write_checksums
from pdl_jax.storage.integrity import (
    METRICS_FILE,
    check_checkpoint,
    check_listing,
    explain_damage,
    read_json,
    read_score,
)
from pdl_jax.storage.orbax_messages import quiet_orbax
from pdl_jax.storage.paths import write_whole
from pdl_jax.typing import PyTree

# Training moves damaged checkpoints here.
_DAMAGED_FOLDER = 'damaged_checkpoints'
# Timeout for the other processes' part of a save. If one cannot write, the others fail after this.
_SAVE_TIMEOUT_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Restored:
    """The content of a checkpoint that a run resumes from.

    Attributes:
      state: the training state.
      input_position: position of the training input, as it was saved.
      description: 'config' and 'dataset' as JSON values.
      step: finished steps.
    """

    state: PyTree
    input_position: dict[str, Any]
    description: dict[str, Any]
    step: int


class Checkpointer:
    """Saves a run's state and restores the newest complete one.

    A save is written beside the finished ones and renamed when complete, so that a run killed at
    any moment finds its last completed save. The newest `keep` and the one with the best score are
    kept. If files of the newest were damaged later, it is moved to WORKDIR/damaged_checkpoints, and
    the one before it takes its place; an older one is moved if its score is damaged.

    Args:
      workdir: the folder of the run; local or gs://.
      keep: number of newest saves to keep.

    Raises:
      ValueError: all checkpoints are damaged.
    """

    def __init__(self, workdir: str, *, keep: int):
        quiet_orbax()
        self.directory = make_absolute(workdir) / FOLDER
        self._step_in_flight: int | None = None
        if jax.process_index() == 0:
            self._set_damaged_aside()
        # No process may list the checkpoints before the damaged ones have been moved.
        wait_for_all('damaged checkpoints are set aside')
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=get_score,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_SAVE_TIMEOUT_SECONDS,
                    post_finalization_callback=self._write_checksums,
                ),
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete save; None without any."""
        return self._manager.latest_step()

    @property
    def latest_score(self) -> float | None:
        """Score of the newest complete save; None if it was not evaluated."""
        step = self.latest_step
        return None if step is None else read_score(self.directory / str(step))

    def save(
        self,
        state: PyTree,
        *,
        step: int,
        input_position: dict[str, Any],
        description: dict[str, Any],
        score: float | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts a save; returns when the arrays have left the device.

        Args:
          state: the tree of arrays to save.
          step: finished steps.
          input_position: position of the training input; the same on every process.
          description: 'config' and 'dataset' as JSON values; enough to predict from the checkpoint
            alone.
          score: result of an evaluation at this very step, in [0, 1]: PQ, or mIoU for a semantic
            network.
          metrics: the numbers of that evaluation, see `metrics.summarize_report`.

        Raises:
          OSError: this save or the one before it could not be written; saves completed earlier are
            intact.
        """
        evaluation = None if score is None else {'score': score, **_list_metrics(metrics)}
        items: dict[str, Any] = {
            'state': ocp.args.StandardSave(state),
            'input': ocp.args.JsonSave(input_position),
            'description': ocp.args.JsonSave(
                {'format': FORMAT, 'program': f'pdl_jax {__version__}', **description}
            ),
        }
        if evaluation is not None:
            # An item of ours: as a metric that Orbax tracks it would be missed, with a warning, in
            # every save without an evaluation.
            items[METRICS_FILE] = ocp.args.JsonSave(evaluation)
        try:
            # Wait first: the previous save's callback still reads `_step_in_flight`.
            self._manager.wait_until_finished()
            self._step_in_flight = step
            self._manager.save(
                step, args=ocp.args.Composite(**items), metrics=evaluation, force=True
            )
        except Exception as error:
            raise self._save_error(error) from error

    def restore(self, abstract_state: PyTree) -> Restored:
        """Reads the newest complete save.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings to restore onto, which may differ
            from those of the save.

        Raises:
          FileNotFoundError: there is no complete save.
          ValueError: the checkpoint belongs to another architecture or class count, or is damaged.
        """
        step = self.latest_step
        if step is None:
            raise FileNotFoundError(f'no checkpoint in {self.directory}')
        folder = self.directory / str(step)
        check_structure(abstract_state, read_structure(folder), self.directory)
        input_position, description = read_json(folder, 'input'), read_description(folder)
        with explain_damage(folder / 'state'):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
            )
        return Restored(restored['state'], input_position, description, step)

    def add_score(self, score: float, metrics: Mapping[str, Any] | None = None) -> None:
        """Adds to the newest save the score of an evaluation that was made later; all processes.

        Args:
          score, metrics: see `save`.

        Raises:
          OSError: it could not be written.
        """
        self.wait()
        step = self.latest_step
        if jax.process_index() == 0 and step is not None:
            folder = self.directory / str(step)
            path = folder / METRICS_FILE / METRICS_FILE
            path.parent.mkdir(exist_ok=True)
            values = {'score': score, **_list_metrics(metrics)}
            write_whole(path, json.dumps(values).encode())
            # A file that the checksums do not name yet is no damage: a kill in between is harmless.
            add_checksum(folder, f'{METRICS_FILE}/{METRICS_FILE}')
        wait_for_all('a score is added')
        self._manager.reload()

    def wait(self) -> None:
        """Blocks until the save in flight is complete.

        Raises:
          OSError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._save_error(error) from error

    def close(self) -> None:
        """Finishes the save in flight and frees the manager's threads.

        Raises:
          OSError: the save could not be written.
        """
        try:
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()
        except Exception as error:
            raise self._save_error(error) from error

    def _write_checksums(self) -> None:
        # Orbax calls this when all processes have written, before the save gets its final name or,
        # on a bucket, its commit marker.
        folder = self.directory / f'{self._step_in_flight}.orbax-checkpoint-tmp'
        write_checksums(folder if folder.exists() else self.directory / str(self._step_in_flight))

    def _set_damaged_aside(self) -> None:
        """Moves aside saves newer than the newest intact one, and those whose score is lost.

        Raises:
          ValueError: all of them are damaged.
        """
        damaged, steps = {}, list_steps(self.directory)
        for step in steps:
            folder = self.directory / str(step)
            try:
                # One intact checkpoint is enough to go on from; the scores of all are compared.
                if len(damaged) == steps.index(step):
                    check_checkpoint(folder)
                check_listing(folder)
            except ValueError as error:
                damaged[step] = error
        if steps and len(damaged) == len(steps):
            raise ValueError(
                f'all checkpoints in {self.directory} are damaged, the newest: '
                f'{damaged[steps[0]]}. Restore them from a copy, or move them away to start anew'
            )
        for step, error in damaged.items():
            target = self.directory.parent / _DAMAGED_FOLDER / str(step)
            if target.exists():
                target.rmtree()
            target.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(target)
            logging.warning(
                'the checkpoint of step %d is damaged: %s. It was moved to %s', step, error, target
            )

    def _save_error(self, error: Exception) -> OSError:
        # Other arrays may have failed too: asyncio would log each of them below this error.
        stdlib_logging.getLogger('asyncio').setLevel(stdlib_logging.CRITICAL)
        try:
            steps = ocp.utils.checkpoint_steps(self.directory)
            newest = (
                f'the newest complete one is step {max(steps)}'
                if steps
                else 'there is no complete one'
            )
        except Exception:  # A failing bucket raises errors of several types.
            newest = 'but the directory cannot be listed either'
        reason = str(error).partition(' [tensorstore_spec=')[0]
        return OSError(
            f'could not write a checkpoint to {self.directory}: {reason}. Completed checkpoints '
            f'are intact, {newest}. Free disk space or check the permissions if that is the cause, '
            f'then run the same command again to resume.'
        )


def _list_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    return {'metrics': dict(metrics)} if metrics else {}
