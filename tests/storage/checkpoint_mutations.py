"""Seeded damage to the files of a checkpoint, and what its readers make of it.

    python -m tests.storage.checkpoint_mutations SEED COUNT

prints how many mutations ended how; the small version of it is a test.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.variables import restore_variables

VALUES = (
    None, True, -1, 0, 1e308, 10**30, float('nan'), '', 'x' * 1000, [], {}, [[[]]], {'a': {}},
    '../../x', '/etc/passwd', '\x00', '\ud800',
)  # fmt: skip
STATE = {
    'step': jnp.asarray(2, jnp.int32),
    'params': {'layer': {'kernel': jnp.arange(96.0).reshape(4, 24)}},
    'batch_stats': {'layer': {'mean': jnp.ones(3)}},
    'opt_state': [jnp.zeros(2), {'mu': jnp.ones(4)}],
}
VARIABLES = {key: STATE[key] for key in ('params', 'batch_stats')}
DESCRIPTION = {'config': {'seed': 1, 'train': {'num_steps': 9}}, 'dataset': {'name': 'x'}}


def write_run(workdir: pathlib.Path) -> None:
    """Writes a run with the checkpoints of steps 1 and 2, both evaluated."""
    checkpointer = Checkpointer(str(workdir), keep=3)
    for step, score in ((1, 0.1), (2, 0.2)):
        checkpointer.save(
            STATE, step=step, input_position={'next_record': step}, description=DESCRIPTION,
            score=score,
        )  # fmt: skip
    checkpointer.close()


def mutate(folder: pathlib.Path, rng: random.Random) -> str:
    """Damages one file below a folder; returns what was done."""
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    path = rng.choice(files)
    kinds = ['flip', 'bytes', 'cut', 'grow', 'empty', 'delete', 'folder', 'pipe', 'swap']
    content = path.read_bytes()
    try:
        values = json.loads(content)
        kinds += ['json'] * 9
    except ValueError:
        values = None
    kind = rng.choice(kinds)
    if kind == 'json':
        path.write_text(json.dumps(_mutate_json(values, rng)))
    elif kind in ('delete', 'folder', 'pipe'):
        path.unlink()
        if kind == 'folder':
            path.mkdir()
        elif kind == 'pipe':
            os.mkfifo(path)
    elif kind == 'swap':
        path.write_bytes(rng.choice(files).read_bytes())
    else:
        path.write_bytes(_mutate_bytes(content, kind, rng))
    return f'{kind} of {path.relative_to(folder)}'


def _mutate_bytes(content: bytes, kind: str, rng: random.Random) -> bytes:
    data = bytearray(content)
    if kind == 'flip' and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 'bytes' and data:
        start = rng.randrange(len(data))
        data[start : start + rng.randint(1, 16)] = rng.randbytes(rng.randint(1, 16))
    elif kind == 'cut':
        del data[rng.randrange(len(data) + 1) :]
    elif kind == 'grow':
        data += rng.choice((b'\0', rng.randbytes(99), b'[' * 100_000, bytes(content)))
    elif kind == 'empty':
        data.clear()
    return bytes(data)


def _mutate_json(values, rng: random.Random):
    """Replaces, removes or renames one value somewhere in JSON values."""
    if not isinstance(values, dict | list) or not values or rng.random() < 0.15:
        return rng.choice(VALUES)
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    key = rng.choice(keys)
    copy = dict(values) if isinstance(values, dict) else list(values)
    action = rng.random()
    if action < 0.1:
        del copy[key]
    elif action < 0.2 and isinstance(copy, dict):
        copy[str(rng.choice(VALUES))[:50]] = copy.pop(key)
    else:
        copy[key] = _mutate_json(values[key], rng)
    return copy


def read_everything(workdir: pathlib.Path) -> collections.Counter:
    """Reads a damaged run as evaluation, prediction and training do.

    Returns:
      How the readers ended: 'read', 'named' or 'changed' (other values than were saved).

    Raises:
      Exception: an error that does not name the checkpoint.
    """
    ends = collections.Counter()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)

    def read(step):
        checkpoint = find_checkpoint(workdir, step)
        read_description(checkpoint)
        return restore_variables(checkpoint, VARIABLES)

    def train():
        checkpointer = Checkpointer(str(workdir), keep=3)
        try:
            state = checkpointer.restore(shapes).state
            return {key: state[key] for key in VARIABLES}
        finally:
            checkpointer.close()

    for name, reader in (
        ('last', lambda: read(None)),
        ('best', lambda: read('best')),
        ('two', lambda: read(2)),
        ('train', train),
    ):
        try:
            found = reader()
        except (ValueError, OSError) as error:
            if str(workdir) not in str(error) or '\n' in str(error):
                raise
            ends[f'{name} named'] += 1
            continue
        same = jax.tree.map(np.array_equal, found, VARIABLES)
        ends[f'{name} {"read" if all(jax.tree.leaves(same)) else "changed"}'] += 1
    return ends


def run(seed: int, count: int, folder: pathlib.Path) -> tuple[collections.Counter, list[str]]:
    """Damages a run `count` times, half of the times without checksums.

    Returns:
      The ends, and a line for each error that names no file and each that took over 10 s.
    """
    intact = folder / 'intact'
    write_run(intact)
    ends, faults = collections.Counter(), []
    for i in range(count):
        rng = random.Random(f'{seed} {i}')
        workdir = folder / 'run'
        shutil.copytree(intact, workdir)
        checkpoint = workdir / 'checkpoints' / '2'
        has_sums = i % 2 == 0
        if not has_sums:
            (checkpoint / 'checksums.json').unlink()
        what = mutate(checkpoint, rng)
        start = time.monotonic()
        try:
            found = read_everything(workdir)
            ends.update({f'{"with" if has_sums else "without"}: {k}': n for k, n in found.items()})
        except Exception as error:
            faults.append(f'{seed} {i}: {what}: {type(error).__name__}: {str(error)[:300]}')
        if time.monotonic() - start > 10:
            faults.append(f'{seed} {i}: {what}: took {time.monotonic() - start:.0f} s')
        shutil.rmtree(workdir)
    return ends, faults


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as temporary:
        all_ends, all_faults = run(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(temporary))
    print('\n'.join(f'{n:6d} {end}' for end, n in sorted(all_ends.items())))
    print('\n'.join(all_faults))
    print(f'{len(all_faults)} faults')
