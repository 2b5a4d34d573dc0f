"""Early stopping: it counts evaluations, ends the run, and a resumed run counts the same."""

import json

import numpy as np
import pytest

from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.training.early_stopping import EarlyStopping
from pdl_jax.training.loop import train
from tests import tiny
from tests.process_group import BARE_NETWORK
from tests.training.test_loop import _replace_step


def _make_experiment(data, **changes):
    fields = {
        'train__num_steps': 20,
        'train__evaluate_every_steps': 2,
        'train__checkpoint_every_steps': 100,
        'train__early_stopping_evals': 3,
        'train__early_stopping_metric': 'miou',
        **changes,
    }
    return tiny.make_experiment(data, **BARE_NETWORK, **fields)


def _replace_evaluation(monkeypatch, scores):
    """Lets the evaluation after 2, 4, ... steps give these scores."""
    calls = []

    def evaluate(self, variables, *, is_stopped):
        calls.append(scores[len(calls)])
        return {'pq': None, 'miou': calls[-1], 'pixel_accuracy': 0.5, 'iou_per_class': {}}

    monkeypatch.setattr('pdl_jax.evaluation.evaluator.Evaluator.__call__', evaluate)
    return calls


def _train(experiment, workdir):
    return train(experiment, str(workdir), devices=tiny.one_device())


@pytest.mark.parametrize(
    ('metric', 'values', 'due'),
    [
        ('eval/pq', [0.1, 0.2, 0.2, 0.15, 0.1], [0, 0, 0, 1, 1]),
        ('eval/pq', [0.1, 0.05, 0.2, 0.1, 0.3], [0, 0, 0, 0, 0]),
        ('eval/loss', [3.0, 2.0, 2.5, 1.9, 2.0, 2.0], [0, 0, 0, 0, 0, 1]),
        # An undefined value is no better.
        ('eval/pq', [None, None, 0.1, float('nan'), None], [0, 1, 0, 0, 1]),
    ],
)
def test_it_counts_evaluations_since_the_best(metric, values, due):
    stopping = EarlyStopping(metric, 2)
    found = []
    for step, value in enumerate(values, 1):
        stopping.push(step, {} if value is None else {metric: value})
        # The same step again, as a run that was complete already evaluates.
        stopping.push(step, {metric: 0.0})
        found.append(int(stopping.is_due))
    assert found == due
    assert not EarlyStopping(metric, 0).is_due


@pytest.mark.slow
def test_a_run_ends_early_and_says_so_and_stays_ended(data, tmp_path, monkeypatch, caplog):
    _replace_step(monkeypatch)
    calls = _replace_evaluation(monkeypatch, [0.1, 0.3, 0.2, 0.29, 0.25, 0.9])
    with caplog.at_level('INFO', logger='absl'):
        report = _train(_make_experiment(data), tmp_path)
    # The best is that of step 4; three more evaluations follow.
    assert report['miou'] == 0.25 and len(calls) == 5
    assert find_checkpoint(tmp_path).name == '10' and find_checkpoint(tmp_path, 'best').name == '4'
    assert (
        'stopped after step 10: eval/miou has not improved for 3 evaluations: the best was 0.3 at '
        'step 4' in caplog.text
    )
    assert json.loads((tmp_path / 'report.json').read_text())['miou'] == 0.25
    # The same command again trains no further, whatever the new evaluation of step 10 gives.
    assert _train(_make_experiment(data), tmp_path)['miou'] == 0.9
    assert find_checkpoint(tmp_path).name == '10'
    # With more patience it goes on: step 12 is the fourth without a better value.
    _replace_evaluation(monkeypatch, [0.2, 0.9])
    _train(_make_experiment(data, train__early_stopping_evals=4), tmp_path)
    assert find_checkpoint(tmp_path).name == '12'


def test_a_resumed_run_counts_as_if_it_had_not_been_stopped(data, tmp_path, monkeypatch):
    _replace_step(monkeypatch)
    scores = [0.1, 0.3, 0.2, 0.3, 0.25]
    _replace_evaluation(monkeypatch, scores)
    _train(_make_experiment(data, train__num_steps=6), tmp_path)
    # A killed run may have logged more than it saved, and half a line.
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 8, "eval/miou": 0.9}\n[1]\n{"step": 9, "eval/m')
    _replace_evaluation(monkeypatch, scores[3:])
    _train(_make_experiment(data), tmp_path)
    assert find_checkpoint(tmp_path).name == '10'
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    found = {line['step']: line['eval/miou'] for line in lines if 'eval/miou' in line}
    np.testing.assert_allclose(list(found.values()), scores)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train__early_stopping_metric': 'ap'}, r"early_stopping_metric \(='ap'\) must be one of"),
        ({'train__early_stopping_metric': 'loss'}, r'needs config.evaluate.with_loss=True'),
        (
            {'train__early_stopping_metric': 'pq', 'model__has_instances': False},
            r"early_stopping_metric \(='pq'\) needs instances",
        ),
        ({'train__early_stopping_evals': -1}, r'early_stopping_evals \(=-1\)'),
        ({'train__evaluate_every_steps': 0}, r'needs config.train.evaluate_every_steps'),
    ],
)
def test_what_cannot_be_watched_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        _make_experiment('unused', **changes)
