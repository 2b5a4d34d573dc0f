"""The integrity of a checkpoint: complete and as it was written, or an error that names the part.

CHECKPOINT/state/             arrays
CHECKPOINT/description/       JSON: the configuration and the classes
CHECKPOINT/input/             JSON: the position of the training input
CHECKPOINT/metrics/           JSON: the score, if there was an evaluation at this step
CHECKPOINT/checksums.json     sizes and checksums of these files
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from pdl_jax.storage.checksums import check_files
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES
from pdl_jax.storage.outside_files import read_outside_file, refuse_irregular
from pdl_jax.storage.paths import explain_bucket_errors, is_remote
from pdl_jax.typing import Device

# The name of the file that Orbax keeps JSON values in.
_JSON_FILE = 'metadata'
METRICS_FILE = 'metrics'


def check_checkpoint(checkpoint: epath.Path) -> None:
    """Checks that a checkpoint is complete and as it was written.

    Everything in a local checkpoint without checksums is read, because only that shows damage.

    Raises:
      ValueError: a part of it is missing or damaged.
      OSError: the files cannot be read now.
    """
    for item in ('state', 'description'):
        if not (checkpoint / item).is_dir():
            raise ValueError(f'{checkpoint / item} is missing')
    _refuse_special_files(checkpoint)
    if not check_files(checkpoint) and not is_remote(checkpoint):
        _read_everything(checkpoint)


def check_listing(checkpoint: epath.Path) -> None:
    """Checks the parts of a checkpoint that are read even where another one is restored.

    Raises:
      ValueError: the score or the time of the save is damaged, or there is a pipe or a device,
        which readers would wait for forever.
      OSError: the files cannot be read now.
    """
    _refuse_special_files(checkpoint)
    read_score(checkpoint)
    step = ocp.path.step.standard_name_format().find_step(checkpoint.parent, int(checkpoint.name))
    with explain_damage(checkpoint / '_CHECKPOINT_METADATA'):
        # Orbax reads it here.
        _ = step.commit_timestamp


def _refuse_special_files(checkpoint: epath.Path) -> None:
    if is_remote(checkpoint):
        return
    for folder, _, names in os.walk(checkpoint):
        for name in names:
            refuse_irregular(os.path.join(folder, name))


@contextlib.contextmanager
def explain_damage(path: epath.Path) -> Iterator[None]:
    """Turns the many kinds of errors that damaged files cause in their readers into one.

    Args:
      path: the part of a checkpoint that is read.

    Raises:
      ValueError: the part is damaged; the message names it.
      OSError: the files cannot be read now.
    """
    try:
        yield
    except (ImportError, jax.errors.JaxRuntimeError):
        # A missing package, or a device without the memory for the arrays.
        raise
    except Exception as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, OSError) and not is_missing:
            raise
        if is_remote(path):
            with explain_bucket_errors(path):
                raise
        kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
        reason = ' '.join(str(error).partition(' [tensorstore_spec=')[0].split())[:300]
        raise ValueError(f'{path} is damaged: {kind}{reason}') from error


def read_json(checkpoint: epath.Path, item: str, file: str = _JSON_FILE) -> dict[str, Any]:
    """Reads a JSON item of a checkpoint.

    Raises:
      ValueError: it is missing or damaged.
      OSError: it cannot be read now.
    """
    path = checkpoint / item / file
    with explain_damage(path):
        content = read_outside_file(path, max_bytes=MAX_DESCRIPTION_BYTES)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: {type(error).__name__}: {error}') from error
    if not isinstance(values, dict):
        raise ValueError(f'{path} is damaged: it holds {str(values)[:40]!r}, no JSON object')
    return values


def read_description_values(checkpoint: epath.Path) -> dict[str, Any]:
    """Reads the description of a checkpoint, whatever version wrote it.

    Raises:
      ValueError: it is missing or damaged.
      OSError: it cannot be read now.
    """
    values = read_json(checkpoint, 'description')
    for key in ('config', 'dataset', 'origin', 'pixels'):
        if not isinstance(values.get(key, {}), dict):
            raise ValueError(
                f'{checkpoint}/description is damaged: {key} is {str(values[key])[:40]!r}, no JSON '
                f'object'
            )
    return values


def read_score(checkpoint: epath.Path) -> float | None:
    """Reads the score of a checkpoint; None where it was not evaluated.

    Raises:
      ValueError: the score is damaged.
      OSError: it cannot be read now.
    """
    with explain_bucket_errors(checkpoint):
        if not (checkpoint / METRICS_FILE / METRICS_FILE).exists():
            return None
    metrics = read_json(checkpoint, METRICS_FILE, METRICS_FILE)
    score = metrics.get('score')
    if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
        return float(score)
    path = checkpoint / METRICS_FILE / METRICS_FILE
    raise ValueError(f'{path} is damaged: the score is {score!r}, no number')


def _read_everything(checkpoint: epath.Path) -> None:
    read_description_values(checkpoint)
    read_json(checkpoint, 'input')
    state = checkpoint / 'state'
    with explain_damage(state):
        _read_arrays(state)


def _read_arrays(state: epath.Path) -> None:
    """Reads all arrays; raises whatever damage causes."""
    # First one after the other, since Orbax would go on printing errors of the others after the
    # first. It is Orbax that requires this package.
    import tensorstore

    metadata = json.loads((state / '_METADATA').read_bytes())
    files = {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{os.fspath(state)}/'}}
    context = tensorstore.Context()
    for entry in metadata['tree_metadata'].values():
        if entry['value_metadata'].get('skip_deserialize'):
            continue
        name = '.'.join(str(part['key']) for part in entry['key_metadata'])
        spec = {
            'driver': 'zarr3' if metadata.get('use_zarr3') else 'zarr',
            'kvstore': {**files, 'path': f'{name}/'},
        }
        tensorstore.open(spec, open=True, context=context).result().read().result()
    for path in (state / 'array_metadatas').iterdir():
        if not isinstance(json.loads(path.read_bytes())['array_metadatas'], list):
            raise ValueError(f'{path.name} lists no arrays')
    if (state / '_sharding').exists():
        json.loads((state / '_sharding').read_bytes())
    # Then as training will, which needs more of the metadata. The handler alone has no barriers, so
    # one process can check for all.
    handler = ocp.PyTreeCheckpointHandler()
    sharding = jax.sharding.SingleDeviceSharding(_find_host_device())
    arguments = jax.tree.map(
        lambda _: ocp.ArrayRestoreArgs(sharding=sharding), handler.metadata(state).tree
    )
    handler.restore(state, args=ocp.args.PyTreeRestore(restore_args=arguments))


def _find_host_device() -> Device:
    try:
        return jax.local_devices(backend='cpu')[0]
    except RuntimeError:
        # JAX was told to use another platform only.
        return jax.local_devices()[0]
