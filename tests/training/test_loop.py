"""Training end to end: resuming bit for bit, and clear ends when something goes wrong."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.storage.checkpoint import find_checkpoint, read_structure
from pdl_jax.storage.variables import restore_variables
from pdl_jax.training.initialize import InitialReport
from pdl_jax.training.loop import train
from pdl_jax.typing import LabelFormat
from tests import quick_compiler, tiny
from tests.process_group import BARE_NETWORK

FLAGS = [f'--config.{key}={value}' for key, value in BARE_NETWORK.items()]


def _train(experiment, workdir):
    return train(experiment, str(workdir), devices=tiny.one_device())


def _make_experiment(data, **changes):
    return tiny.make_experiment(data, **BARE_NETWORK, **changes)


def _start(data, workdir, *flags, **options):
    # Six steps do not pay for better machine code.
    environment = {'XLA_FLAGS': quick_compiler.XLA_FLAGS}
    return tiny.start_main(data, workdir, *FLAGS, *flags, environment=environment, **options)


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """An uninterrupted run of the program: its workdir and its output."""
    workdir = tmp_path_factory.mktemp('finished')
    process = _start(data, workdir)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return workdir, output


def _read_params(workdir, step=None):
    system = _make_experiment('unused').make_system(LabelFormat(14, (), 255, 1000))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return restore_variables(find_checkpoint(workdir, step), abstract_variables(system), device)


def _check_same(workdir, other):
    for a, b in zip(
        jax.tree.leaves(_read_params(workdir)), jax.tree.leaves(_read_params(other)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_leaves_everything_it_should(finished):
    workdir, output = finished
    assert sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir()) == [4, 6]
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    steps = [line['step'] for line in lines if 'loss' in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    terms = lines[0]['loss_semantic'] + lines[0]['loss_center'] + lines[0]['loss_offset']
    np.testing.assert_allclose(lines[0]['loss'], terms, rtol=1e-5)
    assert list((workdir / 'tensorboard').glob('events*'))
    report = json.loads((workdir / 'report.json').read_text())
    assert report['num_images'] == 5
    assert 0 <= report['pq']['All']['pq'] <= 1
    rows = report['pq']['per_class']
    logged = {key: value for key, value in lines[-1].items() if key.startswith('eval/pq/')}
    assert logged == {f'eval/pq/{name}': row['pq'] for name, row in rows.items()} and logged
    assert 'eval/pq ' in output and 'eval/pq/' not in output
    assert 'step 6/6 (ETA 0:00)' in output and 'images_per_second' in output
    # The averaged parameters are what is evaluated, so they must be saved.
    assert any(key.startswith('ema_variables/') for key in read_structure(find_checkpoint(workdir)))


@pytest.mark.slow
def test_stopped_and_killed_run_continues_bit_identically(data, finished, tmp_path):
    flags = ('--config.train.checkpoint_every_steps=100', '--stopped_status=75')
    process = _start(data, tmp_path, *flags)
    for line in process.stdout:
        if 'step 1/6' in line:
            process.send_signal(signal.SIGTERM)
            break
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 75, output
    (stopped,) = (int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
    assert 1 <= stopped < 6
    assert f'saved step {stopped}' in output

    process = _start(data, tmp_path)
    for line in process.stdout:
        # Step 5 comes after the save of step 4 was started and before that of step 6.
        if 'step 5/6' in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    saved = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdigit()]
    assert saved and max(saved) < 6

    process = _start(data, tmp_path)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert f'resuming from step {max(saved)}' in output
    _check_same(tmp_path, finished[0])
    # The metrics of the killed run are continued, not repeated.
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_full_disk_names_the_directory_and_keeps_the_older_save(data, finished, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / 'checkpoints' / '6')
    before = _read_params(workdir, 4)
    process = _start(data, workdir, max_file_kib=60)
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert f'could not write a checkpoint to {workdir}/checkpoints' in output
    assert 'the newest complete one is step 4' in output and 'Free disk space' in output
    assert find_checkpoint(workdir).name == '4'
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(_read_params(workdir)), strict=True):
        np.testing.assert_array_equal(a, b)


def _replace_step(monkeypatch, **scalars):
    """Replaces the train step by one that counts and reports `scalars`, functions of the step."""

    def make_step(*_):
        def step(state, batch):
            values = {'loss': 1.0, 'gradient_norm': 1.0, 'learning_rate': 0.0}
            values |= {key: function(state.step) for key, function in scalars.items()}
            return state.replace(step=state.step + 1), values

        return step

    monkeypatch.setattr('pdl_jax.training.program.make_train_step', make_step)


def _replace_evaluation(monkeypatch):
    report = {'pq': None, 'miou': 0.5, 'pixel_accuracy': 0.5, 'iou_per_class': {}}
    monkeypatch.setattr('pdl_jax.evaluation.evaluator.Evaluator.__call__', lambda *_, **__: report)


@pytest.mark.parametrize('scalar', ['loss', 'gradient_norm'])
def test_nan_stops_the_run_and_names_the_last_good_checkpoint(data, tmp_path, monkeypatch, scalar):
    _replace_step(monkeypatch, **{scalar: lambda step: jnp.where(step == 2, jnp.nan, 1.0)})
    name = scalar.replace('_', ' ')
    with pytest.raises(
        FloatingPointError, match=f'step 3 has .*{name} nan.*last good checkpoint is step 2'
    ):
        _train(_make_experiment(data), tmp_path)
    assert find_checkpoint(tmp_path).name == '2'


def test_failed_evaluation_loses_no_step(data, tmp_path, monkeypatch):
    _replace_step(monkeypatch)

    def fail(*_, **__):
        raise ValueError('val.jpg: damaged')

    monkeypatch.setattr('pdl_jax.evaluation.evaluator.Evaluator.__call__', fail)
    with pytest.raises(ValueError, match='val.jpg'):
        _train(_make_experiment(data, train__checkpoint_every_steps=100), tmp_path)
    assert find_checkpoint(tmp_path).name == '6'


def test_told_to_stop_during_the_evaluation_saves_without_it(data, tmp_path, monkeypatch):
    _replace_step(monkeypatch)

    def stop(self, variables, *, is_stopped):
        signal.raise_signal(signal.SIGTERM)
        assert is_stopped()

    monkeypatch.setattr('pdl_jax.evaluation.evaluator.Evaluator.__call__', stop)
    config = _make_experiment(data, train__evaluate_every_steps=3)
    assert _train(config, tmp_path) is None
    assert find_checkpoint(tmp_path).name == '3'


def test_batch_that_the_devices_cannot_share_is_refused(data, tmp_path):
    with pytest.raises(
        ValueError, match=r'train.batch_size \(=4\) must be a multiple of the 8 devices'
    ):
        train(_make_experiment(data, train__batch_size=4), str(tmp_path))


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        (
            'model__semantic_features',
            16,
            'semantic_features: 8 in the checkpoint, 16 now: .*Choose another --workdir',
        ),
        ('optimizer__ema_decay', 0.0, r'ema_variables/.*only in the checkpoint'),
    ],
)
def test_checkpoint_of_another_network_is_refused(data, finished, field, value, message):
    with pytest.raises(ValueError, match=message):
        _train(_make_experiment(data, **{field: value}), finished[0])


@pytest.mark.slow
def test_training_starts_from_another_run(data, finished, tmp_path, monkeypatch):
    _replace_step(monkeypatch)
    _replace_evaluation(monkeypatch)
    _train(_make_experiment(data, model__init_checkpoint=str(finished[0]), seed=7), tmp_path)
    # No step changed them since; those of another seed would be others.
    _check_same(tmp_path, finished[0])


def test_folded_weights_are_refused_where_statistics_are_needed(data, tmp_path, monkeypatch):
    def load(path, variables):
        return {}, InitialReport(path, (), {}, is_partial=True, has_folded_norm=True, expected={})

    monkeypatch.setattr('pdl_jax.training.initialize.load_initial_variables', load)
    with pytest.raises(
        ValueError,
        match=r"init_checkpoint \(='folded'\) .*set config.model.freeze_backbone_norm=True",
    ):
        _train(_make_experiment(data, model__init_checkpoint='folded'), tmp_path)


def test_missing_data_names_the_command_that_prepares_it(tmp_path):
    with pytest.raises(FileNotFoundError, match='pdl_jax prepare'):
        _train(_make_experiment(tmp_path / 'absent'), tmp_path / 'work')


@pytest.mark.slow
def test_finished_run_only_evaluates_again(data, finished):
    workdir, _ = finished
    path = workdir / 'report.json'
    before = json.loads(path.read_text())
    lines = (workdir / 'metrics.jsonl').read_bytes()
    path.unlink()
    process = _start(data, workdir)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert json.loads(path.read_text()) == before
    assert 'resuming from step 6' in output and 'compiling the train step' not in output
    assert (workdir / 'metrics.jsonl').read_bytes() == lines
    assert 'in the checkpoint' not in output


def test_unreadable_record_stops_the_run_unless_skipping_is_allowed(data, tmp_path, monkeypatch):
    read = RecordSource.__getitem__

    def read_damaged(self, index):
        record = read(self, index)
        is_damaged = index == 3 and self.split == 'train'
        return {**record, 'image': record['image'][:200]} if is_damaged else record

    monkeypatch.setattr(RecordSource, '__getitem__', read_damaged)
    _replace_step(monkeypatch)
    _replace_evaluation(monkeypatch)
    name = open_split(data, 'train').info(3)['file_name']
    with pytest.raises(ValueError, match=f'{name}.*(damaged|truncated|not a readable)'):
        _train(_make_experiment(data), tmp_path / 'stopped')
    config = _make_experiment(data, data__skip_unreadable=True)
    assert _train(config, tmp_path / 'skipped') is not None
    lines = (tmp_path / 'skipped' / 'metrics.jsonl').read_text().splitlines()
    counts = [json.loads(line).get('num_unreadable') for line in lines if '"loss"' in line]
    # Six batches of eight are four epochs of twelve.
    assert counts[-1] == 4 and counts == sorted(counts)
