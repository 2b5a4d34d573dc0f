"""Checkpoints: atomic and asynchronous saves, restoring onto any mesh, and reading one for inference."""

import dataclasses
import json
import logging as stdlib_logging
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from pdl_jax.runtime.processes import wait_for_all
from pdl_jax.storage.checksums import check_files, write_checksums
from pdl_jax.training.state import TrainState
from pdl_jax.typing import PyTree

_FOLDER = 'checkpoints'
# Where training puts what it finds damaged.
_DAMAGED_FOLDER = 'damaged_checkpoints'
# So long processes wait for each other's part of a save: where one cannot write, the others learn it by this.
_PATIENCE_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gives back to a run."""

    state: TrainState
    input_position: dict[str, Any]
    description: dict[str, Any]
    step: int


class Checkpointer:
    """Saves a run's state and gives the newest complete one back.

    A save is written beside the finished ones and renamed when complete, so that a run killed at any moment finds its
    last completed save. The newest `keep` and the one with the best score are kept. Where files of the newest were damaged
    later, it is moved to WORKDIR/damaged_checkpoints, and the one before it takes its place.

    Raises:
      ValueError: all checkpoints are damaged.
    """

    def __init__(self, workdir: str, *, keep: int):
        self.directory = _absolute(workdir) / _FOLDER
        self._step_in_flight = None
        if jax.process_index() == 0:
            self._set_damaged_aside()
        # All shall find the same ones.
        wait_for_all('damaged checkpoints are set aside')
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=_get_score,
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
                # Without it metrics are not written, and a resumed run would not know its best checkpoint.
                best_fn=_get_score,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_PATIENCE_SECONDS, post_finalization_callback=self._write_checksums
                ),
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete save, None where there is none."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        *,
        step: int,
        input_position: dict[str, Any],
        description: dict[str, Any],
        score: float | None = None,
    ) -> None:
        """Starts a save; returns when the arrays have left the device.

        Args:
          state: to save.
          step: finished steps.
          input_position: of the training input; the same on every process.
          description: 'config' and 'dataset' as JSON values; enough to predict from the checkpoint alone.
          score: of an evaluation at this very step, in [0, 1]: PQ, or mIoU of a semantic network.

        Raises:
          OSError: this save or the one before it could not be written; saves completed earlier are intact.
        """
        try:
            # Not later: the thread of the save before asks for its step.
            self._manager.wait_until_finished()
            self._step_in_flight = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    input=ocp.args.JsonSave(input_position),
                    description=ocp.args.JsonSave(description),
                ),
                metrics=None if score is None else {'score': score},
                force=True,
            )
        except Exception as error:
            raise self._save_error(error) from error

    def restore(self, abstract_state: TrainState) -> Restored:
        """Reads the newest complete save.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings to restore onto, which may differ from those of the save.

        Raises:
          ValueError: the checkpoint belongs to another architecture or class count.
        """
        step = self.latest_step
        check_structure(abstract_state, read_structure(self.directory / str(step)), self.directory)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_state), input=ocp.args.JsonRestore()
            ),
        )
        description = read_description(self.directory / str(step))
        return Restored(restored.state, restored.input, description, step)

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
        """Finishes the save in flight and frees the manager's threads."""
        self.wait()
        self._manager.close()

    def _write_checksums(self):
        # Called when all processes have written, before the save gets its final name or, on a bucket, its mark.
        folder = self.directory / f'{self._step_in_flight}.orbax-checkpoint-tmp'
        write_checksums(folder if folder.exists() else self.directory / str(self._step_in_flight))

    def _set_damaged_aside(self):
        """Moves the newest saves out of the way, up to the first that is intact.

        Raises:
          ValueError: all of them are damaged.
        """
        damaged = {}
        for step in _list_steps(self.directory):
            try:
                _check_checkpoint(self.directory / str(step))
                break
            except ValueError as error:
                damaged[step] = error
        else:
            if damaged:
                raise ValueError(
                    f'all checkpoints in {self.directory} are damaged, the newest: {damaged[max(damaged)]}. Restore them from a '
                    f'copy, or move them away to start anew'
                )
        for step, error in damaged.items():
            target = self.directory.parent / _DAMAGED_FOLDER / str(step)
            if target.exists():
                target.rmtree()
            target.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(target)
            logging.warning(
                'the checkpoint of step %d is damaged: %s. It lies in %s now, and the one before it is used',
                step,
                error,
                target,
            )

    def _save_error(self, error):
        # Each of the other arrays may have failed too: asyncio would log them all below this error.
        stdlib_logging.getLogger('asyncio').setLevel(stdlib_logging.CRITICAL)
        try:
            steps = ocp.utils.checkpoint_steps(self.directory)
            newest = (
                f'the newest complete one is step {max(steps)}'
                if steps
                else 'there is no complete one'
            )
        except Exception:  # Of several types, where a bucket fails.
            newest = 'but the directory cannot be listed either'
        reason = str(error).partition(' [tensorstore_spec=')[0]
        return OSError(
            f'could not write a checkpoint to {self.directory}: {reason}. Completed checkpoints are intact, {newest}. '
            f'Free disk space or check the permissions if that is the cause, then run the same command again to resume.'
        )


def find_checkpoint(path: str, step: int | str | None = None) -> epath.Path:
    """Finds the folder of one checkpoint.

    Args:
      path: a workdir, its checkpoints folder, or the folder of one step; local or gs://.
      step: which step of a workdir, or 'best' for the one with the highest PQ, or mIoU of a semantic network; by default the
        newest that is intact.

    Raises:
      FileNotFoundError: no complete checkpoint is there, or none of that step.
      ValueError: the one that was asked for is damaged, or all are.
    """
    path = _absolute(path)
    if (path / 'state').is_dir():
        _check_checkpoint(path)
        return path
    folder = path / _FOLDER if (path / _FOLDER).is_dir() else path
    steps = _list_steps(folder)
    if not steps:
        raise FileNotFoundError(
            f'no checkpoint in {path}: give the --workdir of a run, or one step as WORKDIR/{_FOLDER}/STEP'
        )
    if step == 'best':
        scored = {n: folder / str(n) / 'metrics' / 'metrics' for n in steps}
        scored = {n: _get_score(json.loads(p.read_text())) for n, p in scored.items() if p.exists()}
        if not scored:
            raise FileNotFoundError(
                f'no checkpoint in {folder} was evaluated; there are the steps {steps}'
            )
        step = max(scored, key=scored.get)
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f'no checkpoint of step {step} in {folder}; there are {steps[::-1]}'
        )
    for candidate in steps if step is None else [step]:
        try:
            _check_checkpoint(folder / str(candidate))
            return folder / str(candidate)
        except ValueError as error:
            damage = error
            logging.warning('the checkpoint of step %d is damaged: %s', candidate, error)
    raise ValueError(
        f'no intact checkpoint in {folder}: {damage}. There are the steps {steps[::-1]}'
    )


def read_description(checkpoint: epath.Path) -> dict[str, Any]:
    """The 'config' and 'dataset' that a checkpoint was saved with."""
    handler = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    return handler.restore(checkpoint / 'description')


def read_structure(checkpoint: epath.Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array in a checkpoint, by its path."""
    metadata = ocp.StandardCheckpointer().metadata(checkpoint / 'state').item_metadata.tree
    leaves = jax.tree_util.tree_leaves_with_path(metadata)
    return {_path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def restore_variables(
    checkpoint: epath.Path, abstract_variables: PyTree, sharding: jax.sharding.Sharding
) -> PyTree:
    """Reads the variables to evaluate and predict with, and nothing of the optimiser.

    Args:
      checkpoint: of `find_checkpoint`.
      abstract_variables: {'params', 'batch_stats'} of ShapeDtypeStructs.
      sharding: where to put them.

    Returns:
      The same tree of arrays; the averaged variables where the run kept them.

    Raises:
      ValueError: the checkpoint belongs to another architecture or class count.
    """
    structure = read_structure(checkpoint)
    has_average = any(name.startswith('ema_variables/') for name in structure)
    wanted = {'ema_variables': abstract_variables} if has_average else abstract_variables
    check_structure(wanted, structure, checkpoint, is_partial=True)
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted
    )
    restored = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
        checkpoint / 'state',
        args=ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        ),
    )
    return restored['ema_variables'] if has_average else restored


def check_structure(
    wanted: PyTree, found: dict[str, tuple[int, ...]], source: Any, *, is_partial: bool = False
) -> None:
    """Compares the arrays that a model needs with those that a checkpoint has.

    Raises:
      ValueError: names the first arrays that differ, and what to do.
    """
    leaves = jax.tree_util.tree_leaves_with_path(wanted)
    shapes = {_path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    def order(names):
        # Parameters first: the optimiser's moments and averages only repeat their differences.
        return sorted(names, key=lambda name: (not name.startswith('params/'), name))

    missing = order(set(shapes) - set(found))
    unexpected = [] if is_partial else order(set(found) - set(shapes))
    different = order(name for name in set(shapes) & set(found) if shapes[name] != found[name])
    if not (missing or unexpected or different):
        return
    lines = [
        f'{name}: the model has {shapes[name]}, the checkpoint {found[name]}' for name in different
    ]
    lines += [f'{name}: not in the checkpoint' for name in missing]
    lines += [f'{name}: only in the checkpoint' for name in unexpected]
    for line in lines[:20]:
        logging.error(line)
    raise ValueError(
        f'the checkpoint in {source} does not fit the model: {len(different)} arrays differ in shape, {len(missing)} are '
        f'missing, {len(unexpected)} unexpected, among them {"; ".join(lines[:3])}. A semantic_head of another shape '
        f'means another class count. Use the configuration that the checkpoint was trained with, or another --workdir.'
    )


def _list_steps(folder):
    """The steps of complete checkpoints, the newest first."""
    # Orbax knows which are complete: on a bucket an unfinished save has its final name.
    return sorted(ocp.utils.checkpoint_steps(folder), reverse=True) if folder.is_dir() else []


def _check_checkpoint(checkpoint):
    for item in ('state', 'description'):
        if not (checkpoint / item).is_dir():
            raise ValueError(f'{checkpoint / item} is missing')
    check_files(checkpoint)


def _get_score(metrics):
    return metrics['score']


def _absolute(path):
    """An absolute path, which Orbax insists on; buckets are absolute already."""
    path = os.fspath(path)
    return epath.Path(path if '://' in path else os.path.abspath(os.path.expanduser(path)))


def _path_name(path):
    """The path of a leaf as a/b/0, the same for dicts, dataclasses and the lists that tuples come back as."""
    parts = []
    for entry in path:
        for attribute in ('key', 'name', 'idx'):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return '/'.join(parts)
