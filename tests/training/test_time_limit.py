"""A limit on the time of training: the schedule that fits, the end of a run, and going on."""

import json
import types

import jax
import numpy as np
import pytest

from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.training import time_limit
from pdl_jax.training.time_limit import Fitted, TimeLimit, fit_new_run, keep_fitted
from tests import tiny
from tests.training.test_loop import (
    _check_same,
    _make_experiment,
    _replace_evaluation,
    _replace_step,
    _train,
)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = [1000.0]
    monkeypatch.setattr(time_limit, 'time', types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def _replace_timing(monkeypatch, seconds_per_step, *, is_timed=False):
    """Lets each of the first steps have taken so long; `is_timed` does them all the same."""
    time_steps = time_limit._time_steps
    calls = []

    def replaced(*arguments):
        calls.append(1)
        if is_timed:
            assert time_steps(*arguments) > 0
        return seconds_per_step

    monkeypatch.setattr(time_limit, '_time_steps', replaced)
    return calls


def test_the_clock_stands_still_while_it_is_paused(clock):
    limit = TimeLimit(1.0)
    clock[0] += 30
    with limit.paused():
        clock[0] += 1000
    assert limit.seconds_left == 30 and not limit.is_over()
    with pytest.raises(ValueError), limit.paused():
        clock[0] += 10
        raise ValueError
    clock[0] += 30
    assert limit.is_over()
    limit.start()
    assert limit.seconds_left == 60
    clock[0] += 1e9
    assert not TimeLimit(0.0).is_over()


def test_several_processes_ask_for_the_time_of_process_0_now_and_then(clock, monkeypatch):
    shared = []

    def share(array):
        shared.append(bool(array[0]))
        return np.array([True])

    monkeypatch.setattr(time_limit, 'share_array', share)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    limit = TimeLimit(1.0)
    # Here the time is not over, but it is in process 0.
    found = [limit.is_over() for _ in range(20)]
    assert found == 2 * ([False] * 9 + [True]) and shared == [False, False]


def test_steps_are_timed_without_their_compilation(data, tmp_path, monkeypatch, clock):
    seconds = [50.0, 1.0] + [2.0] * 100
    steps = []

    def make_step(*_):
        def step(state, batch):
            return state.replace(step=state.step + 1), {'loss': 1.0, 'gradient_norm': 1.0}

        return step

    monkeypatch.setattr('pdl_jax.training.program.make_train_step', make_step)
    call = time_limit.CompiledOnFirstCall.__call__

    def timed_call(self, *arguments):
        clock[0] += seconds[len(steps)]
        steps.append(1)
        return call(self, *arguments)

    monkeypatch.setattr(time_limit.CompiledOnFirstCall, '__call__', timed_call)
    found = []
    time_steps = time_limit._time_steps

    def remember(*arguments):
        found.append(time_steps(*arguments))
        return 1e-3

    monkeypatch.setattr(time_limit, '_time_steps', remember)
    _replace_evaluation(monkeypatch)
    _train(_make_experiment(data, train__max_minutes=10.0), tmp_path)
    # 2 % of 600 s at 1 s each: 12 steps of 2 s. Then come the 6 steps of the run.
    assert found == [2.0] and len(steps) == 1 + 1 + 12 + 6


@pytest.mark.parametrize(
    ('minutes', 'asked', 'found'),
    [
        # 95 % of 60 s at 2 s are 28 steps.
        (1.0, 1000, 28),
        (1.0, 28, 28),
        (1.0, 29, 28),
        # A limit shorter than a step still makes one.
        (0.01, 1000, 1),
        (1e9, 1000, 1000),
    ],
)
def test_steps_that_fit(monkeypatch, caplog, clock, minutes, asked, found):
    _replace_timing(monkeypatch, 2.0)
    monkeypatch.setattr(time_limit, 'make_step_program', lambda *_: types.SimpleNamespace(step=0))
    experiment = tiny.make_experiment(
        'unused',
        train__num_steps=asked,
        train__max_minutes=minutes,
        optimizer__warmup_steps=500,
    )
    wanted = Fitted.unchanged(experiment, *2 * [None])
    positions = []
    iterator = types.SimpleNamespace(get_state=lambda: 7, set_state=positions.append)
    with caplog.at_level('INFO', logger='absl'):
        fitted = fit_new_run(wanted, *2 * [None], iterator, TimeLimit(minutes))
    assert fitted.experiment.train.num_steps == found and positions == [7]
    assert fitted.experiment.optimizer.warmup_steps == 500 * found // asked
    if found == asked:
        assert f'all {asked} steps fit into config.train.max_minutes' in caplog.text
        assert fitted is wanted and not fitted.fields
    else:
        assert f'{found} of {asked} steps fit into config.train.max_minutes (=' in caplog.text
        assert fitted.fields['train.num_steps'] == [asked, found]


def test_the_schedule_stays(data, tmp_path, monkeypatch, caplog, clock):
    _replace_step(monkeypatch)
    _replace_evaluation(monkeypatch)
    calls = _replace_timing(monkeypatch, 2.0)
    changes = {
        'train__num_steps': 1000,
        'train__checkpoint_every_steps': 100,
        'optimizer__warmup_steps': 500,
        'train__max_minutes': 1.0,
    }
    experiment = _make_experiment(data, **changes)
    with caplog.at_level('INFO', logger='absl'):
        assert _train(experiment, tmp_path)['miou'] == 0.5
        assert find_checkpoint(tmp_path).name == '28'
        # The same command again: the run is complete, and nothing is timed.
        _train(experiment, tmp_path)
    config = read_description(find_checkpoint(tmp_path))['config']
    assert find_checkpoint(tmp_path).name == '28' and calls == [1]
    assert config['train']['num_steps'] == 28 and config['train']['max_minutes'] == 1.0
    assert config['optimizer']['warmup_steps'] == 14
    assert 'in the checkpoint' not in caplog.text
    # Another number is a new wish.
    changes['train__num_steps'] = 30
    _train(_make_experiment(data, **changes), tmp_path)
    assert find_checkpoint(tmp_path).name == '30'


@pytest.mark.slow
def test_a_fitted_run_is_the_run_of_so_many_steps(data, tmp_path, monkeypatch):
    _replace_evaluation(monkeypatch)
    changes = {'optimizer__warmup_steps': 8, 'optimizer__ema_decay': 0.0}
    # 95 % of a million minutes are 3.5 such steps.
    _replace_timing(monkeypatch, 0.95 * 6e7 / 3.5, is_timed=True)
    monkeypatch.setattr(time_limit, '_MAX_TIMED_STEPS', 3)
    fitted = _make_experiment(data, train__num_steps=12, train__max_minutes=1e6, **changes)
    _train(fitted, tmp_path / 'fitted')
    changes['optimizer__warmup_steps'] = 2
    _train(_make_experiment(data, train__num_steps=3, **changes), tmp_path / 'plain')
    assert find_checkpoint(tmp_path / 'fitted').name == '3'
    _check_same(tmp_path / 'fitted', tmp_path / 'plain')


def test_a_run_ends_with_its_time_and_goes_on(data, tmp_path, monkeypatch, caplog):
    _replace_step(monkeypatch)
    _replace_evaluation(monkeypatch)
    _replace_timing(monkeypatch, 1e-6)
    asked = []

    def is_over(self):
        asked.append(1)
        return len(asked) == 3

    monkeypatch.setattr(TimeLimit, 'is_over', is_over)
    changes = {'train__checkpoint_every_steps': 100, 'train__max_minutes': 5.0}
    experiment = _make_experiment(data, **changes)
    with caplog.at_level('INFO', logger='absl'):
        assert _train(experiment, tmp_path)['miou'] == 0.5
    assert 'stopped after step 3 of 6: the time is over (config.train.max_min' in caplog.text
    assert find_checkpoint(tmp_path, 'best').name == '3'
    assert json.loads((tmp_path / 'report.json').read_text())['step'] == 3
    # The same command goes on.
    _train(experiment, tmp_path)
    assert find_checkpoint(tmp_path).name == '6'


@pytest.mark.parametrize(
    'fields', [None, [], {'train.num_steps': 3}, {'train.num_steps': [6, -1]}, {'x': [6, 3]}]
)
def test_damaged_fields_of_a_checkpoint_change_nothing(fields):
    experiment = tiny.make_experiment('unused', train__max_minutes=1.0)
    assert keep_fitted(experiment, fields) == (experiment, {})


def test_without_a_limit_nothing_is_kept():
    experiment = tiny.make_experiment('unused')
    assert keep_fitted(experiment, {'train.num_steps': [6, 3]}) == (experiment, {})
