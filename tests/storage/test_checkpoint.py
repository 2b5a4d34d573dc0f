"""Saving and finding checkpoints; those that are damaged or do not fit are refused."""

import contextlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import PartitionSpec as P

from pdl_jax import __version__
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.storage.checkpoint import (
    FORMAT,
    check_structure,
    find_checkpoint,
    read_description,
)
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.checksums import check_files, write_checksums
from pdl_jax.training.state import TrainState
from tests.storage.full_disk import small_files


def _state(step):
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={'layer': {'kernel': jnp.arange(16.0) + step}},
        batch_stats={'layer': {'mean': jnp.zeros(3)}},
        opt_state=(jnp.zeros(2), {'mu': jnp.ones(4)}),
        ema_variables=None,
    )


def _save(checkpointer, step, score=None):
    checkpointer.save(
        _state(step),
        step=step,
        input_position={'next_record': step},
        description={'config': {'a': step}},
        score=score,
    )


def test_the_newest_and_the_best_are_kept(tmp_path, monkeypatch):
    # Users give relative paths.
    monkeypatch.chdir(tmp_path.parent)
    checkpointer = Checkpointer(tmp_path.name, keep=2)
    for step, score in [(1, 0.1), (2, 0.5), (3, None)]:
        _save(checkpointer, step, score)
    checkpointer.close()
    # A resumed run must still know which one was the best.
    checkpointer = Checkpointer(tmp_path.name, keep=2)
    for step, score in [(4, 0.2), (5, None), (6, None)]:
        _save(checkpointer, step, score)
    checkpointer.close()
    assert sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir()) == [2, 5, 6]
    assert find_checkpoint(tmp_path.name).name == '6'
    assert find_checkpoint(tmp_path, 2) == find_checkpoint(tmp_path / 'checkpoints' / '2')
    assert find_checkpoint(tmp_path, 'best').name == '2'
    assert read_description(find_checkpoint(tmp_path)) == {
        'format': FORMAT,
        'program': f'pdl_jax {__version__}',
        'config': {'a': 6},
    }


def test_restores_onto_another_mesh(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    _save(checkpointer, 3)
    checkpointer.wait()
    sharding = jax.sharding.NamedSharding(make_mesh(8, 1), P())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), _state(0)
    )
    split = jax.sharding.NamedSharding(make_mesh(4, 2), P('data'))
    kernel = abstract.params['layer']['kernel']
    abstract.params['layer']['kernel'] = jax.ShapeDtypeStruct(
        kernel.shape, kernel.dtype, sharding=split
    )
    restored = checkpointer.restore(abstract)
    assert restored.step == 3 and restored.input_position == {'next_record': 3}
    np.testing.assert_array_equal(restored.state.params['layer']['kernel'], jnp.arange(16.0) + 3)
    assert restored.state.params['layer']['kernel'].sharding == split
    assert isinstance(restored.state.opt_state, tuple)
    checkpointer.close()


def test_half_written_saves_are_not_taken_for_checkpoints(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    _save(checkpointer, 1)
    checkpointer.close()
    # A process killed in the middle of a save leaves such a folder.
    (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
    assert find_checkpoint(tmp_path).name == '1'
    checkpointer = Checkpointer(tmp_path, keep=2)
    assert checkpointer.latest_step == 1
    checkpointer.close()


def test_format_is_stored_and_a_later_one_is_refused(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    _save(checkpointer, 1)
    checkpointer.close()
    checkpoint = find_checkpoint(tmp_path)
    (path,) = (path for path in (checkpoint / 'description').iterdir() if path.name == 'metadata')
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, 'format': FORMAT + 1}))
    with pytest.raises(ValueError, match=f'has format {FORMAT + 1}, .* reads up to {FORMAT}'):
        read_description(checkpoint)
    del stored['format']
    path.write_text(json.dumps(stored))
    assert read_description(checkpoint)['format'] == 1


def test_structure_differences_are_named():
    found = {'params/semantic_head/kernel': (1, 1, 8, 19), 'params/old': (2,)}
    wanted = {
        'params': {'semantic_head': {'kernel': jnp.zeros((1, 1, 8, 134))}, 'new': jnp.zeros(3)}
    }
    with pytest.raises(ValueError) as error:
        check_structure(wanted, found, 'runs/x')
    message = str(error.value)
    assert (
        'params/semantic_head/kernel: the model has (1, 1, 8, 134), the checkpoint (1, 1, 8, 19)'
        in message
    )
    assert 'params/new: not in the checkpoint' in message
    assert 'params/old: only in the checkpoint' in message
    assert 'another class count' in message
    del wanted['params']['new']
    wanted['params']['semantic_head']['kernel'] = jnp.zeros((1, 1, 8, 19))
    check_structure(wanted, found, 'runs/x', is_partial=True)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_truncate, 'bytes, .* were written'),
        (_flip, 'other bytes than were written'),
        (lambda path: path.unlink(), 'is missing'),
    ],
)
def test_damaged_checkpoints_are_named_and_the_one_before_is_used(
    tmp_path, caplog, damage, message
):
    checkpointer = Checkpointer(tmp_path, keep=3)
    for step in (1, 2, 3):
        _save(checkpointer, step, score=step / 10)
    checkpointer.close()
    # Orbax says so where a save waited for a busy disk.
    caplog.clear()
    assert find_checkpoint(tmp_path).name == '3' and not caplog.records
    files = [
        path for path in (tmp_path / 'checkpoints' / '3' / 'state').rglob('*') if path.is_file()
    ]
    damaged = max(files, key=lambda path: path.stat().st_size)
    damage(damaged)
    assert find_checkpoint(tmp_path).name == '2'
    assert re.search(f'step 3 is damaged: {damaged}.*{message}', caplog.text)
    for step in (3, 'best'):
        with pytest.raises(ValueError, match=message):
            find_checkpoint(tmp_path, step)
    # Finding a checkpoint moves nothing; training does.
    assert damaged.parent.is_dir()
    checkpointer = Checkpointer(tmp_path, keep=3)
    assert checkpointer.latest_step == 2
    assert (tmp_path / 'damaged_checkpoints' / '3' / 'state').is_dir()
    _save(checkpointer, 3)
    checkpointer.close()
    assert find_checkpoint(tmp_path).name == '3'


@pytest.mark.parametrize('name', ['/dev/zero', '../../../dev/zero'])
def test_checksums_of_files_elsewhere_are_refused(tmp_path, name):
    (tmp_path / 'checksums.json').write_text(json.dumps({name: {'bytes': 0, 'crc32': 0}}))
    with pytest.raises(ValueError, match=f"names '{name}', which lies elsewhere"):
        check_files(epath.Path(tmp_path))


def test_checksums_need_no_name_of_the_owner(tmp_path, monkeypatch):
    def fail(uid):
        raise KeyError(f'getpwuid(): uid not found: {uid}')

    monkeypatch.setattr('pwd.getpwuid', fail)
    (tmp_path / 'x').write_bytes(b'content')
    write_checksums(epath.Path(tmp_path))
    check_files(epath.Path(tmp_path))
    (tmp_path / 'x').write_bytes(b'other')
    with pytest.raises(ValueError, match='has 5 bytes, 7 were written'):
        check_files(epath.Path(tmp_path))


def test_training_does_not_start_anew_where_all_checkpoints_are_damaged(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2):
        _save(checkpointer, step)
    checkpointer.close()
    for step in (1, 2):
        shutil.rmtree(tmp_path / 'checkpoints' / str(step) / 'state')
    with pytest.raises(ValueError, match='no intact checkpoint in .*state is missing'):
        find_checkpoint(tmp_path)
    with pytest.raises(
        ValueError,
        match='all checkpoints .* are damaged, the newest: .*/2/state is missing.*start anew',
    ):
        Checkpointer(tmp_path, keep=2)
    assert (tmp_path / 'checkpoints' / '2').is_dir()


def test_full_disk_is_told_once_and_keeps_the_older_save(tmp_path, capfd, caplog):
    checkpointer = Checkpointer(tmp_path, keep=2)
    _save(checkpointer, 1)
    checkpointer.wait()
    caplog.clear()
    with small_files(150):
        with pytest.raises(OSError) as caught:
            _save(checkpointer, 2)
            checkpointer.wait()
        # Freeing its threads says it once more, and nothing else.
        with contextlib.suppress(OSError):
            checkpointer.close()
    pattern = f'could not write a checkpoint to {tmp_path}/checkpoints: .*newest .* is step 1'
    assert re.match(pattern, str(caught.value))
    assert not [record for record in caplog.records if record.levelname == 'ERROR']
    assert 'Traceback' not in ''.join(capfd.readouterr())
    assert find_checkpoint(tmp_path).name == '1'
