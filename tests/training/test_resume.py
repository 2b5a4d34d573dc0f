"""Going on with a run: one program at a time; what was cut short is made up for, once."""

import json
import signal

import pytest

from pdl_jax.commands.config_file import load_config
from pdl_jax.evaluation.evaluator import Evaluator
from pdl_jax.experiment import Experiment
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.checksums import check_files
from pdl_jax.storage.integrity import read_score
from pdl_jax.storage.workdir_lock import lock_workdir
from pdl_jax.training.loop import train
from tests import tiny
from tests.systems.toy_system import CONFIG, color_system


@pytest.fixture(scope='module')
def config(data, tmp_path_factory):
    path = tmp_path_factory.mktemp('color') / 'color.py'
    path.write_text(CONFIG)
    with color_system():
        config = load_config(str(path))
        fields = {'num_steps': 4, 'evaluate_every_steps': 2, 'picture_every_steps': 0}
        config.update({'data': {'path': str(data)}, 'train': fields})
        yield config


def run(config, workdir, **fields):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in fields.items()})
    return train(Experiment.from_config(config), str(workdir), devices=tiny.one_device())


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def stop_at(monkeypatch, *numbers):
    """Sends SIGTERM within the evaluations of these numbers, from 1."""
    evaluate, calls = Evaluator.__call__, []

    def call(self, variables, *, is_stopped):
        calls.append(1)
        if len(calls) in numbers:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, variables, is_stopped=is_stopped)

    monkeypatch.setattr(Evaluator, '__call__', call)


def test_second_run_is_refused_and_harms_nothing(config, tmp_path):
    (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir(parents=True)
    with lock_workdir(tmp_path), pytest.raises(OSError, match='in use by another run, process'):
        run(config, tmp_path)
    # It is the other run's unfinished save.
    assert (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').is_dir()
    assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.slow
@pytest.mark.parametrize('stopped', [(1,), (2,), (1, 2)])
def test_evaluation_that_was_cut_short_is_made_up_for(config, tmp_path, monkeypatch, stopped):
    with monkeypatch.context() as patch:
        stop_at(patch, *stopped)
        for _ in stopped:
            assert run(config, tmp_path) is None
    step = 2 if 1 in stopped else 4
    assert find_checkpoint(tmp_path).name == str(step)
    assert read_score(find_checkpoint(tmp_path)) is None
    report = run(config, tmp_path)
    assert report is not None and report['step'] == 4
    for number in (2, 4):
        checkpoint = find_checkpoint(tmp_path, number)
        assert read_score(checkpoint) is not None and check_files(checkpoint)
    assert read_score(find_checkpoint(tmp_path)) == report['miou']
    assert [line['step'] for line in read_lines(tmp_path) if 'eval/miou' in line] == [2, 4]
    assert [line['step'] for line in read_lines(tmp_path) if 'loss' in line] == [1, 2, 3, 4]


@pytest.mark.slow
def test_finished_run_started_again_writes_no_line_twice(config, tmp_path):
    report = run(config, tmp_path)
    before = (tmp_path / 'metrics.jsonl').read_bytes()
    assert run(config, tmp_path) == report
    assert (tmp_path / 'metrics.jsonl').read_bytes() == before
    # A run that is called finished at a step without a score gets one, and its line.
    run(config, tmp_path, train__num_steps=5, train__evaluate_every_steps=0)
    assert [line['step'] for line in read_lines(tmp_path) if 'eval/miou' in line] == [2, 4, 5]


@pytest.mark.slow
def test_changes_are_logged_and_another_network_is_refused(config, tmp_path, caplog):
    run(config, tmp_path)
    caplog.clear()
    run(config, tmp_path, optimizer__learning_rate=0.25, train__num_steps=6)
    assert 'config.optimizer.learning_rate: 0.05 in the checkpoint, 0.25 now' in caplog.text
    with pytest.raises(ValueError, match='has_squares: True in the checkpoint, False now.*workdir'):
        run(config, tmp_path, model__has_squares=False)
