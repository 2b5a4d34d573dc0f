"""Damaged checkpoints: one error that names the file, and training goes on from an intact one."""

import json

import pytest

from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.integrity import check_checkpoint, read_score
from tests.storage import checkpoint_mutations


@pytest.fixture
def run(tmp_path):
    """A workdir with steps 1 and 2, scored 0.1 and 0.2, and the folder of step 2."""
    checkpoint_mutations.write_run(tmp_path)
    return tmp_path, tmp_path / 'checkpoints' / '2'


@pytest.mark.slow
def test_mutated_files_are_read_or_named(tmp_path):
    ends, faults = checkpoint_mutations.run(seed=3, count=40, folder=tmp_path)
    assert not faults, '\n'.join(faults)
    # With checksums nothing but the intact step is read, and training always finds it.
    assert ends['with: last read'] == ends['with: train read'] == 20
    assert ends['with: two named'] > 10
    assert not any('with: ' in end and 'changed' in end for end in ends)


@pytest.mark.parametrize(
    'name',
    [
        'description/metadata',
        'input/metadata',
        'state/_METADATA',
        'state/manifest.ocdbt',
        'state/array_metadatas/process_0',
        'state/_sharding',
    ],
)
def test_without_checksums_the_files_are_read(run, name):
    workdir, checkpoint = run
    (checkpoint / 'checksums.json').unlink()
    check_checkpoint(find_checkpoint(workdir))
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:8])
    part = checkpoint / ('state' if name.startswith('state') else name)
    with pytest.raises(ValueError, match=f'^{part} is damaged: ') as caught:
        find_checkpoint(workdir, 2)
    assert '\n' not in str(caught.value)
    assert find_checkpoint(workdir).name == '1'
    checkpointer = Checkpointer(str(workdir), keep=3)
    assert checkpointer.latest_step == 1
    checkpointer.close()


@pytest.mark.parametrize('metrics', ['{', '[]', '{}', '{"score": "x"}', '{"score": NaN}'])
def test_best_is_found_among_the_scores_that_are_left(run, metrics, caplog):
    workdir, checkpoint = run
    path = checkpoint / 'metrics' / 'metrics'
    path.write_text(metrics)
    assert find_checkpoint(workdir, 'best').name == '1'
    assert f'step 2 may be the best, but its score is lost: {path} is damaged' in caplog.text
    (workdir / 'checkpoints' / '1' / 'metrics' / 'metrics').write_text(metrics)
    with pytest.raises(ValueError, match='no intact score in .*metrics/metrics is damaged'):
        find_checkpoint(workdir, 'best')


def test_older_checkpoint_with_a_lost_score_is_set_aside(run, caplog):
    workdir, _ = run
    (workdir / 'checkpoints' / '1' / 'metrics' / 'metrics').write_text('{}')
    checkpointer = Checkpointer(str(workdir), keep=3)
    assert checkpointer.latest_step == 2
    checkpointer.close()
    assert (workdir / 'damaged_checkpoints' / '1').is_dir()
    assert 'the score is None, no number' in caplog.text


def test_description_of_another_kind_is_damage(run):
    _, checkpoint = run
    for values, message in (([], 'no JSON object'), ({'config': 3}, "config is '3', no JSON")):
        (checkpoint / 'description' / 'metadata').write_text(json.dumps(values))
        with pytest.raises(ValueError, match=f'{checkpoint}/description.* is damaged: .*{message}'):
            read_description(checkpoint)


def test_score_that_is_added_later_counts(tmp_path):
    checkpointer = Checkpointer(str(tmp_path), keep=1)
    for step in (1, 2, 3):
        checkpointer.save(checkpoint_mutations.STATE, step=step, input_position={}, description={})
        if step == 1:
            checkpointer.add_score(0.5)
            assert checkpointer.latest_score == 0.5
    checkpointer.close()
    # The best one is kept beside the newest, and is as it was written.
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['1', '3']
    checkpoint = find_checkpoint(tmp_path, 'best')
    assert checkpoint.name == '1' and read_score(checkpoint) == 0.5
    assert 'metrics/metrics' in json.loads((checkpoint / 'checksums.json').read_text())
    assert read_score(find_checkpoint(tmp_path)) is None


def test_names_of_steps(run):
    workdir, checkpoint = run
    for path, step in (
        (workdir, 'last'), (workdir, 2), (workdir / 'best', None), (workdir / 'last', None),
        (checkpoint, 'last'), (checkpoint, 2),
    ):  # fmt: skip
        assert find_checkpoint(path, step) == find_checkpoint(checkpoint)
    with pytest.raises(ValueError, match='is one step already: step best'):
        find_checkpoint(checkpoint, 'best')


def test_orbax_raises_no_false_alarm(tmp_path, caplog):
    checkpoint_mutations.write_run(tmp_path)
    checkpointer = Checkpointer(str(tmp_path), keep=3)
    checkpointer.save(checkpoint_mutations.STATE, step=3, input_position={}, description={})
    checkpointer.close()
    checkpoint_mutations.read_everything(tmp_path)
    # A busy disk may be waited for.
    alarms = [r.getMessage() for r in caplog.records if r.levelname != 'INFO']
    assert not [text for text in alarms if 'Waiting for previous save' not in text]
