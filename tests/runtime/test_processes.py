"""Runs of several processes equal those of one, end together, and resume from the last save."""

import json
import re
import signal
import types

import jax
import numpy as np
import pytest

from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.runtime import sharding
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.variables import restore_variables
from pdl_jax.storage.workdir_lock import lock_workdir
from pdl_jax.typing import LabelFormat
from tests import tiny
from tests.process_group import BARE_NETWORK, ProcessGroup

# One image per process and step, where several processes disagree first.
_FLAGS = ('--config.train.batch_size=2',)


@pytest.fixture(scope='module')
def alone(data, tmp_path_factory):
    """The workdir of a run of one process on one device."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    with ProcessGroup(data, workdir, *_FLAGS) as group:
        group.finish()
    return workdir


@pytest.fixture(scope='module')
def undisturbed(data, tmp_path_factory):
    """The workdir of a run of two processes, and the output of the second."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    with ProcessGroup(data, workdir, *_FLAGS, num_processes=2) as group:
        group.finish()
        return workdir, group.read(1)


def _read_losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    steps = {line['step']: line['loss'] for line in lines if 'loss' in line}
    assert list(steps) == list(range(1, 7)) and len([line for line in lines if 'loss' in line]) == 6
    return list(steps.values())


def _read_params(workdir):
    experiment = tiny.make_experiment('unused', **BARE_NETWORK)
    system = experiment.make_system(LabelFormat(14, (), 255, 1000))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return restore_variables(find_checkpoint(workdir), abstract_variables(system), device)


def _check_same_params(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, _read_params(workdir), _read_params(other))


@pytest.mark.slow
def test_two_processes_do_what_one_does(alone, undisturbed):
    workdir, printed = undisturbed
    np.testing.assert_allclose(_read_losses(workdir), _read_losses(alone), rtol=2e-3)
    # Only process 0 prints for the user.
    assert 'step 1/6' not in printed and 'PQ' not in printed
    assert len(list((workdir / 'tensorboard').iterdir())) == 1


@pytest.mark.slow
def test_two_processes_count_each_image_once(alone, undisturbed):
    # One of them has three of the five images, the other two and a padded one.
    workdir = undisturbed[0]
    report, expected = (json.loads((path / 'report.json').read_text()) for path in (workdir, alone))
    assert report['num_images'] == 5
    np.testing.assert_allclose(report['pixel_accuracy'], expected['pixel_accuracy'], atol=1e-3)

    def count(report):
        return {name: row['tp'] + row['fn'] for name, row in report['pq']['per_class'].items()}

    # These are the ground truth's segments per class, whatever the predictions are.
    assert count(report) == count(expected) and sum(count(report).values()) > 5
    # Each process draws the images that it has read; process 0 writes all.
    analysis, expected = (
        json.loads((path / 'analysis.json').read_text()) for path in (workdir, alone)
    )
    assert analysis['images']['file_name'] == expected['images']['file_name']
    pictures = [picture['file_name'] for picture in analysis['pictures']]
    assert sorted(pictures) == analysis['images']['file_name']
    assert (workdir / 'report.html').exists()


@pytest.mark.slow
def test_two_processes_share_the_rows_of_one_image(data, tmp_path):
    flags = (
        '--config.train.batch_size=1',
        '--config.model.dropout_rate=0.0',
        # They also agree on the evaluations so far.
        '--config.train.early_stopping_evals=2',
        '--config.train.evaluate_every_steps=100',
    )
    losses = []
    for num_processes, more in ((1, ()), (2, ('--config.mesh.space=2',))):
        workdir = tmp_path / str(num_processes)
        with ProcessGroup(data, workdir, *flags, *more, num_processes=num_processes) as group:
            group.finish()
        losses.append(_read_losses(workdir))
    np.testing.assert_allclose(*losses, rtol=2e-3)


@pytest.mark.slow
def test_one_told_to_stop_stops_all_and_another_topology_goes_on(data, alone, tmp_path):
    workdir = tmp_path / 'run'
    flags = (*_FLAGS, '--config.train.checkpoint_every_steps=100', '--stopped_status=75')
    with ProcessGroup(data, workdir, *flags, num_processes=2) as group:
        group.wait_for('step 1/6')
        # Process 0 holds the lock for all.
        with pytest.raises(OSError, match=f'process {group.processes[0].pid} on '):
            with lock_workdir(workdir):
                pass
        group.processes[1].send_signal(signal.SIGTERM)
        assert group.wait() == [75, 75], group.read()
        step = int(find_checkpoint(workdir).name)
        for i in range(2):
            assert f'saved step {step}' in group.read(i)
    # Two devices of one process, each with half of the state.
    rules = "--config.mesh.param_rules=(('.*','largest'),)"
    with ProcessGroup(data, workdir, *_FLAGS, rules, num_devices=2) as group:
        assert f'resuming from step {step}' in group.finish()
    np.testing.assert_allclose(_read_losses(workdir), _read_losses(alone), rtol=2e-3)


@pytest.mark.slow
def test_killed_processes_end_all_and_the_run_goes_on_bit_for_bit(data, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    flags = (*_FLAGS, '--heartbeat_timeout_seconds=15')
    for step, killed in ((2, 0), (4, 1)):
        save = workdir / 'checkpoints' / str(step)
        with ProcessGroup(data, workdir, *flags, num_processes=2) as group:
            group.wait_until(save.exists, name=f'saved step {step}')
            group.processes[killed].kill()
            statuses = group.wait(timeout=60)
            assert statuses[killed] == -signal.SIGKILL
            assert statuses[1 - killed] not in (0, -signal.SIGKILL)
            # The message is JAX's if the coordinator was lost.
            printed = group.read(1 - killed)
            assert re.search('another process was lost|another task died', printed)
            # The last line is ours in any case, and so is that of the one that was killed.
            for i in range(2):
                last = group.read(i).rstrip().splitlines()[-1]
                assert last.endswith('on all hosts goes on from the newest checkpoint.'), last
    # All of them pass over what a broken disk has left of the newest save.
    newest = workdir / 'checkpoints' / find_checkpoint(workdir).name
    largest = max(newest.rglob('*'), key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    with ProcessGroup(data, workdir, *_FLAGS, num_processes=2) as group:
        printed = group.finish()
    assert f'step {newest.name} is damaged: {largest} holds other bytes' in printed
    assert f'resuming from step {int(newest.name) - 2}' in printed
    _check_same_params(workdir, undisturbed[0])
    assert _read_losses(workdir) == _read_losses(undisturbed[0])


def _make_mesh(owners):
    devices = np.vectorize(
        lambda process: types.SimpleNamespace(process_index=process), otypes=[object]
    )(owners)
    return types.SimpleNamespace(
        devices=devices, shape={'space': devices.shape[1]}, local_devices=devices[0]
    )


@pytest.mark.parametrize(
    ('owners', 'shards'),
    [
        # In the first two cases a process has whole images, in the third two share them.
        ([[0], [0], [1], [1]], [(0, 2), (1, 2)]),
        ([[0, 0], [1, 1], [2, 2]], [(0, 3), (1, 3), (2, 3)]),
        ([[0, 1], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_processes_that_share_images_feed_the_same(monkeypatch, owners, shards):
    for process, shard in enumerate(shards):
        monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
        assert sharding.find_batch_shard(_make_mesh(owners)) == shard


def test_process_with_parts_of_several_images_is_refused():
    with pytest.raises(ValueError, match=r'mesh.space \(=3\) must divide the devices of a process'):
        sharding.find_batch_shard(_make_mesh([[0, 0, 1], [1, 2, 2]]))
