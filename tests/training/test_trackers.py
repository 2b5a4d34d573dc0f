"""Weights & Biases and MLflow as writers of a run, against fakes of their modules."""

import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest

from pdl_jax.training import trackers
from pdl_jax.training.trackers import check_trackers, make_trackers
from tests.training.test_writers import make_writer, read_lines

PICTURE = np.zeros((4, 6, 3), np.uint8)
CONFIG = {'seed': 0, 'train': {'num_steps': 6, 'writers': ['wandb', 'mlflow']}}


class FakeWandbRun:
    def __init__(self, options):
        self.options, self.id = options, options['id'] or 'made-by-wandb'
        self.logged, self.metrics, self.num_ends = [], [], 0

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.num_ends += 1


class FakeMlflowClient:
    """One server: its runs are those of all clients."""

    runs = {}

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        assert name == 'pdl_jax'
        return '7'

    def create_run(self, experiment_id, run_name):
        assert experiment_id == '7'
        run_id = f'run{len(self.runs)}'
        self.runs[run_id] = {'name': run_name, 'params': {}, 'metrics': [], 'images': []}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, status):
        self.runs[run_id]['status'] = status

    def log_batch(self, run_id, params=(), metrics=()):
        assert len(params) <= 100
        self.runs[run_id]['params'] |= dict(params)
        self.runs[run_id]['metrics'] += [(key, value, step) for key, value, _, step in metrics]

    def log_image(self, run_id, image, artifact_file):
        self.runs[run_id]['images'].append((artifact_file, image.shape))

    def set_terminated(self, run_id):
        self.runs[run_id]['status'] = 'FINISHED'


@pytest.fixture
def services(monkeypatch):
    """Fakes of both modules; the runs of W&B and those of MLflow."""
    runs = []

    def init(**options):
        runs.append(FakeWandbRun(options))
        return runs[-1]

    monkeypatch.setattr(FakeMlflowClient, 'runs', {})
    wandb = types.SimpleNamespace(init=init, Image=lambda image: ('image', image.shape))
    mlflow = types.SimpleNamespace(MlflowClient=FakeMlflowClient)
    entities = types.SimpleNamespace(Metric=lambda *x: x, Param=lambda *x: x)
    for name, module in (('wandb', wandb), ('mlflow', mlflow), ('mlflow.entities', entities)):
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ('WANDB_PROJECT', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(name, raising=False)
    return types.SimpleNamespace(wandb=runs, mlflow=FakeMlflowClient.runs)


def _make(workdir, *names, is_new=True):
    found = make_trackers(names, workdir, config=CONFIG, is_new=is_new)
    return make_writer(workdir, trackers=found), found


def test_everything_reaches_both_services(tmp_path, services, monkeypatch):
    monkeypatch.setenv('WANDB_PROJECT', 'streets')
    workdir = tmp_path / 'night'
    check_trackers(['wandb', 'mlflow'])
    writer, _ = _make(workdir, 'wandb', 'mlflow')
    writer.write_scalars(10, {'loss': np.float32(1.5), 'learning_rate': 0.1})
    writer.write_scalars(20, {'eval/pq': 0.25, 'eval/pq/bed (large)': 0.5, 'eval/loss': np.nan})
    writer.write_images(20, {'input/0': PICTURE})
    writer.write_text(0, 'config', '{}')
    writer.show_progress(20, None)
    writer.flush()
    writer.close()
    (run,) = services.wandb
    assert run.options['project'] == 'streets' and run.options['name'] == 'night'
    assert run.options['config'] == CONFIG and run.options['dir'] == str(workdir)
    assert run.metrics == [('step', None), ('*', 'step')] and run.num_ends == 1
    assert run.logged[0]['loss'] == 1.5 and run.logged[0]['step'] == 10
    # The rates of the console and of the file are there too.
    assert run.logged[0]['step_seconds'] > 0
    assert run.logged[1]['eval/pq/bed (large)'] == 0.5
    assert run.logged[2] == {'pictures/input/0': ('image', (4, 6, 3)), 'step': 20}
    (run,) = services.mlflow.values()
    assert run['name'] == 'night' and run['status'] == 'FINISHED'
    assert run['params'] == {
        'seed': '0',
        'train.num_steps': '6',
        'train.writers': '["wandb", "mlflow"]',
    }
    metrics = {(key, step): value for key, value, step in run['metrics']}
    assert metrics['loss', 10] == 1.5 and metrics['eval/pq', 20] == 0.25
    # MLflow's names have fewer characters and are paths, and its charts have no NaN.
    assert metrics['eval/pq.bed _large_', 20] == 0.5 and ('eval/loss', 20) not in metrics
    assert run['images'] == [('pictures/step_00000020/input_0.png', (4, 6, 3))]
    assert [line['step'] for line in read_lines(workdir)] == [10, 20]


def test_a_resumed_run_goes_on_at_the_services(tmp_path, services):
    _make(tmp_path, 'wandb', 'mlflow')[0].close()
    ids = json.loads((tmp_path / 'trackers.json').read_text())
    assert ids == {'wandb': 'made-by-wandb', 'mlflow': 'run0'}
    # For a while without one of them.
    _make(tmp_path, 'wandb', is_new=False)[0].close()
    writer, _ = _make(tmp_path, 'wandb', 'mlflow', is_new=False)
    assert [run.options['id'] for run in services.wandb] == [None, *2 * ['made-by-wandb']]
    assert list(services.mlflow) == ['run0'] and services.mlflow['run0']['status'] == 'RUNNING'
    writer.close()
    # A run that starts anew in the same folder is another one.
    _make(tmp_path, 'mlflow')[0].close()
    assert list(services.mlflow) == ['run0', 'run1']


@pytest.mark.parametrize('content', ['', '[]', '{"wandb": 3}', '{"wandb": "../x"}', '{"wandb":'])
def test_a_damaged_file_of_ids_starts_new_runs(tmp_path, services, content):
    (tmp_path / 'trackers.json').write_text(content)
    _make(tmp_path, 'wandb', is_new=False)
    assert services.wandb[0].options['id'] is None


def test_faults_of_a_service_end_nothing(tmp_path, services, monkeypatch, caplog):
    writer, _ = _make(tmp_path, 'wandb', 'mlflow')
    faults = [True, False, True, True, True]

    def fail(self, values):
        if faults.pop(0):
            raise ConnectionError('no route to the host')

    monkeypatch.setattr(FakeWandbRun, 'log', fail)
    for step in range(1, 9):
        writer.write_scalars(step, {'loss': 1.0})
    writer.close()
    # After three faults in a row it is asked no more.
    assert faults == [] and services.wandb[0].num_ends == 0
    assert caplog.text.count('wandb: write_scalars failed: ConnectionError: no route') == 4
    assert caplog.text.count('it is left out from here') == 1
    (run,) = services.mlflow.values()
    assert sum(key == 'loss' for key, _, _ in run['metrics']) == 8
    assert len(read_lines(tmp_path)) == 8


def test_a_service_that_does_not_start_ends_nothing(tmp_path, services, monkeypatch, caplog):
    def fail(**_):
        raise RuntimeError('api_key not\nconfigured')

    monkeypatch.setattr(sys.modules['wandb'], 'init', fail)
    writer, (wandb, _) = _make(tmp_path, 'wandb', 'mlflow')
    writer.write_scalars(1, {'loss': 1.0})
    writer.close()
    assert 'not logged to wandb: RuntimeError: api_key not configured' in caplog.text
    assert json.loads((tmp_path / 'trackers.json').read_text()) == {'mlflow': 'run0'}
    assert isinstance(wandb, trackers.Tracker)


def test_a_missing_package_is_named():
    with pytest.raises(ImportError, match='writers .* needs the package no_such_tracker: pip inst'):
        check_trackers(['no_such_tracker'])


def test_without_trackers_nothing_is_written(tmp_path):
    assert make_trackers((), tmp_path, config=CONFIG, is_new=True) == []
    assert not list(tmp_path.iterdir())
