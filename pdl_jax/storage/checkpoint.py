"""One checkpoint of a run: finding it, its description, and the shapes of its arrays."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from pdl_jax.storage.integrity import (
    check_checkpoint,
    explain_damage,
    read_description_values,
    read_score,
)
from pdl_jax.storage.paths import explain_bucket_errors, make_path, refuse_address
from pdl_jax.storage.shipped import find_shipped, list_shipped
from pdl_jax.typing import PyTree

# Version of the layout of checkpoints and their descriptions.
FORMAT = 2
# The folder of a workdir that holds the checkpoints, each in a folder named by its step.
FOLDER = 'checkpoints'


def find_checkpoint(path: str | os.PathLike, step: int | str | None = None) -> epath.Path:
    """Finds the folder of one checkpoint.

    Args:
      path: a workdir, its checkpoints folder, or the folder of one step; local or gs://. It may
        also be WORKDIR/best or WORKDIR/last, or a name of `list_shipped`.
      step: the step in a workdir; 'best' for the one with the highest PQ, or mIoU for a semantic
        network; 'last' or None for the newest that is intact.

    Raises:
      FileNotFoundError: there is no complete checkpoint, or none of that step.
      ValueError: the requested checkpoint is damaged, or all are.
    """
    root = make_absolute(find_shipped(path) or path)
    if step is None and root.name in ('best', 'last') and not root.exists():
        root, step = root.parent, root.name
    if (root / 'state').is_dir():
        if step not in (None, 'last') and str(step) != root.name:
            raise ValueError(f'{root} is one step already: step {step} is looked for in a workdir')
        check_checkpoint(root)
        return root
    step = None if step == 'last' else step
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    steps = list_steps(folder)
    if not steps:
        raise FileNotFoundError(
            f'no checkpoint in {root}: give the --workdir of a run, one step as '
            f'WORKDIR/{FOLDER}/STEP, or a network that comes with the package: '
            f'{", ".join(list_shipped())}'
        )
    if step == 'best':
        step = _find_best(folder, steps)
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f'no checkpoint of step {step} in {folder}; there are {steps[::-1]}'
        )
    if step is not None:
        try:
            check_checkpoint(folder / str(step))
        except ValueError as error:
            raise ValueError(f'{error}. There are the steps {steps[::-1]}') from error
        return folder / str(step)
    damage = None
    for candidate in steps:
        try:
            check_checkpoint(folder / str(candidate))
            return folder / str(candidate)
        except ValueError as error:
            damage = error
            logging.warning('the checkpoint of step %d is damaged: %s', candidate, error)
    raise ValueError(f'no intact checkpoint in {folder}: {damage}')


def read_description(checkpoint: epath.Path) -> dict[str, Any]:
    """Reads the description of a checkpoint.

    Returns:
      'format', the version of its layout (1 before there was one), and as JSON values the 'config'
      and 'dataset' it was saved with, the latter with the names and colours of the classes, the
      'pixels' of its images, and the 'program' that trained it, absent in old ones; converted
      weights also have an 'origin'.

    Raises:
      ValueError: it is damaged, or a later version of this program wrote it.
    """
    description = read_description_values(checkpoint)
    found = description.setdefault('format', 1)
    if not isinstance(found, int) or found > FORMAT:
        raise ValueError(
            f'{checkpoint} has format {found!r}, this version reads up to {FORMAT}: update pdl_jax'
        )
    return description


def read_structure(checkpoint: epath.Path) -> dict[str, tuple[int, ...]]:
    """Reads the shape of every array in a checkpoint, by its path.

    Raises:
      ValueError: the list of arrays is missing or damaged.
    """
    state = checkpoint / 'state'
    with explain_damage(state):
        # Orbax's checkpointer would warn of metadata that only whole checkpoints have.
        return _list_shapes(ocp.PyTreeCheckpointHandler().metadata(state).tree)


def check_structure(
    wanted: PyTree,
    found: Mapping[str, tuple[int, ...]],
    source: str | os.PathLike,
    *,
    is_partial: bool = False,
) -> None:
    """Compares the arrays that a model needs with those in a checkpoint.

    Args:
      wanted: anything with shapes.
      found: shapes in the checkpoint, see `read_structure`.
      source: the checkpoint, for the error message.
      is_partial: accept arrays in the checkpoint that the model does not need.

    Raises:
      ValueError: arrays differ; the message names the first of them and the remedy.
    """
    shapes = _list_shapes(wanted)
    missing = _sort_params_first(set(shapes) - set(found))
    unexpected = [] if is_partial else _sort_params_first(set(found) - set(shapes))
    different = _sort_params_first(
        name for name in set(shapes) & set(found) if shapes[name] != found[name]
    )
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
        f'the checkpoint in {os.fspath(source)} does not fit the model: {len(different)} arrays '
        f'differ in shape, {len(missing)} are missing, {len(unexpected)} unexpected, among them '
        f'{"; ".join(lines[:3])}. A semantic_head of another shape means another class count. Use '
        f'the configuration that the checkpoint was trained with, or another --workdir.'
    )


def list_steps(folder: epath.Path) -> list[int]:
    """Lists the steps of the complete checkpoints in a folder, the newest first."""
    # Orbax tells which are complete: on a bucket an unfinished save already has its final name.
    return sorted(ocp.utils.checkpoint_steps(folder), reverse=True) if folder.is_dir() else []


def is_run(workdir: str | os.PathLike) -> bool:
    """Returns true for the directory of a run, which has checkpoints."""
    folder = make_absolute(workdir) / FOLDER
    with explain_bucket_errors(folder):
        return folder.is_dir()


def check_output(output: str | os.PathLike) -> None:
    """Checks that a directory can be written and holds no checkpoints yet.

    Raises:
      ValueError: it is an address that cannot be written.
      FileExistsError: the directory holds some.
    """
    folder = make_path(output) / FOLDER
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f'{folder} holds checkpoints already: choose another --output or delete it'
        )


def get_score(metrics: Mapping[str, float]) -> float:
    """Returns the score among the metrics of a checkpoint."""
    return metrics['score']


def make_absolute(path: str | os.PathLike) -> epath.Path:
    """Makes a path absolute, as Orbax requires; buckets are absolute already.

    Raises:
      ValueError: see `refuse_address`.
    """
    refuse_address(path)
    name = os.fspath(path)
    return epath.Path(name if '://' in name else os.path.abspath(os.path.expanduser(name)))


def _find_best(folder: epath.Path, steps: list[int]) -> int:
    scores, damage = {}, None
    for step in steps:
        try:
            scores[step] = read_score(folder / str(step))
        except ValueError as error:
            damage = error
            logging.warning('step %d may be the best, but its score is lost: %s', step, error)
    scores = {step: score for step, score in scores.items() if score is not None}
    if scores:
        return max(scores, key=lambda step: scores[step])
    if damage is not None:
        raise ValueError(f'no intact score in {folder}: {damage}')
    raise FileNotFoundError(
        f'no checkpoint in {folder} was evaluated; there are the steps {steps[::-1]}'
    )


def _sort_params_first(names: Iterable[str]) -> list[str]:
    """Sorts paths; the optimiser's moments and the averages only repeat differences of params."""
    return sorted(names, key=lambda name: (not name.startswith('params/'), name))


def _list_shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _path_name(path: tuple[Any, ...]) -> str:
    """Joins the path of a leaf to a/b/0.

    The name is the same for dicts, dataclasses, and tuples, which Orbax restores as lists.
    """
    parts = []
    for entry in path:
        for attribute in ('key', 'name', 'idx'):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return '/'.join(parts)
