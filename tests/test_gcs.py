"""Data, runs and predictions on gs://: as on local disks, also when the bucket fails.

Each command has a process of its own.
"""

import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pdl_jax.storage.checkpoint import find_checkpoint
from tests import quick_compiler, tiny
from tests.gcs_emulator import serve_gcs
from tests.process_group import BARE_NETWORK

pytestmark = pytest.mark.slow

CONFIG = [f'--config.{key}={value}' for key, value in BARE_NETWORK.items()]


@pytest.fixture(scope='module')
def gcs():
    with serve_gcs() as served:
        served.environment['XLA_FLAGS'] = quick_compiler.XLA_FLAGS
        yield served


@pytest.fixture(scope='module')
def local_run(gcs, data, tmp_path_factory):
    """A run on local disks: its process and its workdir."""
    workdir = tmp_path_factory.mktemp('local') / 'run'
    process = tiny.start_main(data, workdir, *CONFIG, environment=gcs.environment)
    yield process, workdir
    process.kill()


@pytest.fixture(scope='module')
def bucket_data(gcs, data, local_run):
    """The splits of `data`, prepared anew on the bucket, while the local run goes on."""
    raw = data.parent / 'raw'
    processes = [
        start_command(
            gcs,
            'prepare',
            '--format=coco_panoptic',
            f'--images={raw}/{split}/images',
            f'--panoptic={raw}/{split}/panoptic_{split}',
            f'--json={raw}/{split}/panoptic_{split}.json',
            '--out=gs://bucket/data',
            f'--split={split}',
            '--num_processes=0',
        )
        for split in ('train', 'val')
    ]
    for process in processes:
        finish(process)
    return 'gs://bucket/data'


@pytest.fixture(scope='module')
def undisturbed(local_run):
    """The workdir of the local run at its end."""
    process, workdir = local_run
    finish(process)
    return workdir


def start_command(gcs, name: str, *flags: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': '1',
        'JAX_COMPILATION_CACHE_DIR': os.environ.get(
            'PDL_JAX_TEST_CACHE', '/tmp/pdl_jax_test_cache'
        ),
        **gcs.environment,
    }
    command = [sys.executable, '-m', 'pdl_jax', name, *flags]
    output = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
    return subprocess.Popen(command, cwd=tiny.ROOT, env=environment, text=True, **output)


def finish(process: subprocess.Popen, *, status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def start_run(gcs, data: str, *flags: str) -> subprocess.Popen:
    return tiny.start_main(data, 'gs://bucket/run', *CONFIG, *flags, environment=gcs.environment)


def read_steps(gcs) -> list[int]:
    """The steps of the run whose saves are complete."""
    marks = [name.split('/') for name in gcs.names if name.endswith('/commit_success.txt')]
    return sorted(
        int(parts[2]) for parts in marks if parts[:2] == ['run', 'checkpoints'] and len(parts) == 4
    )


def is_save_of(step: int, method: str, path: str) -> bool:
    """Whether a request writes a part of a checkpoint."""
    return method == 'POST' and f'checkpoints%2F{step}%2Fstate' in path.replace('/', '%2F')


def test_prepared_records_are_the_local_ones(gcs, data, bucket_data):
    local = {
        f'data/{path.relative_to(data)}': path.read_bytes()
        for path in data.rglob('*')
        if path.is_file()
    }
    assert {name: gcs.read(name) for name in gcs.names if name.startswith('data/')} == local


def test_a_run_on_a_bucket_that_fails_ends_as_an_undisturbed_one(
    gcs, bucket_data, undisturbed, tmp_path
):
    process = start_run(gcs, bucket_data)

    def kill(method, path):
        # A bucket renames nothing: half of a save lies where the whole one will.
        if is_save_of(4, method, path):
            process.kill()
            return 503

    gcs.fail = kill
    finish(process, status=-9)
    assert read_steps(gcs) == [2]
    assert any(name.startswith('run/checkpoints/4/') for name in gcs.names)

    gcs.fail = lambda method, path: 403 if is_save_of(6, method, path) else None
    output = finish(start_run(gcs, bucket_data), status=2)
    assert 'resuming from step 2' in output
    assert 'could not write a checkpoint to gs://bucket/run/checkpoints' in output
    # Nothing buries the reason.
    assert 'the newest complete one is step 4' in output.splitlines()[-1]
    assert read_steps(gcs) == [2, 4]

    requests, failed = itertools.count(1), []

    def fail_now_and_then(method, path):
        if next(requests) % 60 == 0:
            failed.append(path)
            return 503

    gcs.fail = fail_now_and_then
    output = finish(start_run(gcs, bucket_data))
    gcs.fail = lambda *_: None
    assert 'resuming from step 4' in output and len(failed) > 3
    assert read_steps(gcs) == [4, 6]

    gcs.download('run', tmp_path)
    assert json.loads((tmp_path / 'report.json').read_text()) == json.loads(
        (undisturbed / 'report.json').read_text()
    )
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4, 5, 6]
    assert any(path.stat().st_size > 1000 for path in (tmp_path / 'tensorboard').iterdir())
    assert_same_arrays(tmp_path, undisturbed)


def assert_same_arrays(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """Checks that the newest checkpoints hold the same state."""
    states = [
        ocp.StandardCheckpointer().restore(find_checkpoint(path) / 'state')
        for path in (workdir, other)
    ]
    arrays = [jax.tree.leaves(state) for state in states]
    assert len(arrays[0]) > 100
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_and_prediction_on_a_bucket(gcs, data, bucket_data, undisturbed):
    for path in (undisturbed / 'checkpoints').rglob('*'):
        if path.is_file():
            gcs.write(f'done/{path.relative_to(undisturbed)}', path.read_bytes() or b' ')
    # A local save is complete by its name, one on a bucket by a mark.
    gcs.write('done/checkpoints/6/commit_success.txt', b' ')
    photos = sorted((data.parent / 'raw' / 'val' / 'images').iterdir())
    for i, path in enumerate(photos):
        gcs.write(f'photos/{"city" if i < 2 else "land/hills"}/{path.name}', path.read_bytes())
    gcs.write('photos/broken.jpg', photos[0].read_bytes()[:500])
    # As if the last shard had been made before.
    gcs.write('out/predictions-00002-of-00003.jsonl', b'complete')
    evaluation = tiny.start_main(
        bucket_data,
        'gs://bucket/scores',
        '--mode=evaluate',
        '--checkpoint=gs://bucket/done',
        '--write_predictions',
        *CONFIG,
        environment=gcs.environment,
    )
    prediction = start_command(
        gcs,
        'predict',
        '--checkpoint=gs://bucket/done',
        '--allow_code',
        '--prefix=gs://bucket/photos',
        '--output=gs://bucket/out',
        '--shards=3',
    )
    finish(evaluation)
    assert json.loads(gcs.read('scores/report.json')) == json.loads(
        (undisturbed / 'report.json').read_text()
    )
    output = finish(prediction)
    assert (
        '4 images in 2 shards; 1 are complete' in output
        and '1 of them could not be predicted' in output
    )
    assert gcs.read('out/predictions-00002-of-00003.jsonl') == b'complete'
    assert 'out/predictions-00002-of-00003.tar' not in gcs.names
    index = [
        json.loads(line)
        for i in range(2)
        for line in gcs.read(f'out/predictions-0000{i}-of-00003.jsonl').splitlines()
    ]
    images = sorted(name for name in gcs.names if name.startswith('photos/'))
    assert [entry['image'] for entry in index] == [f'gs://bucket/{name}' for name in images[:4]]
    assert ['error' in entry for entry in index] == [True, False, False, False]
    pngs = {}
    for i in range(2):
        with tarfile.open(
            fileobj=io.BytesIO(gcs.read(f'out/predictions-0000{i}-of-00003.tar'))
        ) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
            pngs |= {name: content for name, content in members.items() if name.endswith('.png')}
    # The evaluation saw the same images.
    assert list(pngs.values()) == [
        gcs.read(f'scores/predictions/{path.stem}.png') for path in photos[:3]
    ]
