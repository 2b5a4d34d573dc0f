"""A packed checkpoint predicts as the one of the run does, without the state of its training."""

import json

import jax
import numpy as np
import pytest

import pdl_jax
from pdl_jax.commands.command_line import main
from pdl_jax.convert.write import write_checkpoint
from pdl_jax.data.records import open_split
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.pack import pack
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.storage.checkpoint import find_checkpoint, read_description, read_structure
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.integrity import read_score
from pdl_jax.storage.metrics import read_metrics
from pdl_jax.storage.variables import restore_variables
from tests import tiny
from tests.process_group import BARE_NETWORK

METRICS = {'pq': 0.25, 'pq_things': 0.125, 'miou': 0.5, 'num_images': 12}


@pytest.fixture(scope='module')
def system_and_description(data):
    experiment = tiny.make_experiment(data, **BARE_NETWORK)
    spec = open_split(data, 'val').spec
    description = {'config': experiment.to_json(), 'dataset': spec.to_dict()}
    return experiment.make_system(spec.label_format), description


def draw_variables(system):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), abstract_variables(system)
    )


@pytest.fixture(scope='module')
def run(system_and_description, tmp_path_factory):
    """A run with averaged variables, a score and tuned options."""
    system, description = system_and_description
    workdir = tmp_path_factory.mktemp('run')
    averaged = draw_variables(system)
    state = {**jax.tree.map(np.zeros_like, averaged), 'ema_variables': averaged}
    checkpointer = Checkpointer(str(workdir), keep=1)
    checkpointer.save(
        state, step=7, input_position={}, description=description, score=0.25, metrics=METRICS
    )
    checkpointer.close()
    tuned = {'metric': 'PQ', 'before': 0.2, 'after': 0.25, 'split': 'val'}
    (workdir / 'checkpoints' / '7' / 'tuned.json').write_text(
        json.dumps({'values': {'center_threshold': 0.3}, **tuned})
    )
    return workdir, averaged


def test_kernels_are_rounded_and_the_rest_is_kept(system_and_description, run, tmp_path):
    system, _ = system_and_description
    workdir, averaged = run
    checkpoint = pack(str(workdir), str(tmp_path / 'packed'), dtype='float16')
    assert find_checkpoint(tmp_path / 'packed') == checkpoint and checkpoint.name == '7'
    assert not any(name.startswith('ema_variables') for name in read_structure(checkpoint))
    restored = restore_variables(checkpoint, abstract_variables(system))
    wanted = jax.tree.map(
        lambda x: x.astype(np.float16).astype(np.float32) if x.ndim > 1 else x, averaged
    )
    jax.tree.map(np.testing.assert_array_equal, restored, wanted)
    assert read_score(checkpoint) == 0.25
    assert read_metrics(checkpoint) == METRICS
    description, packed = read_description(find_checkpoint(workdir)), read_description(checkpoint)
    assert description['config']['data']['path'].startswith('/')
    description['config']['data']['path'] = 'data/data'
    assert packed == description


@pytest.mark.slow
def test_tuned_options_and_full_precision_are_kept(run, tmp_path):
    workdir, _ = run
    main(['pack', f'--checkpoint={workdir}', '--step=best', f'--output={tmp_path / "packed"}'])
    one, other = Predictor.load(str(workdir)), Predictor.load(str(tmp_path / 'packed'))
    assert other.origin['postprocess'] == one.origin['postprocess']
    assert other.origin['postprocess']['center_threshold'] == 0.3
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    np.testing.assert_array_equal(one(image).panoptic, other(image).panoptic)


def test_an_evaluation_of_later_is_packed_too(system_and_description, tmp_path):
    system, description = system_and_description
    workdir = tmp_path / 'run'
    write_checkpoint(str(workdir), draw_variables(system), description)
    assert read_score(find_checkpoint(workdir)) is None
    rows = {'All': {'pq': 0.75, 'sq': None, 'n': 3}}
    report = {'pq': rows, 'miou': 0.5, 'num_images': 4, 'ap': {'ap': float('nan')}}
    (workdir / 'report_0.json').write_text(json.dumps(report).replace('NaN', 'null'))
    packed = pack(str(workdir), str(tmp_path / 'packed'))
    assert read_metrics(packed) == {'pq': 0.75, 'miou': 0.5, 'num_images': 4}
    assert read_score(packed) == 0.75
    assert read_description(packed)['program'] == f'pdl_jax {pdl_jax.__version__}'


def test_what_is_there_is_not_overwritten(run):
    workdir, _ = run
    with pytest.raises(FileExistsError, match='holds checkpoints already'):
        pack(str(workdir), str(workdir))


def test_a_kernel_that_does_not_fit_is_named(system_and_description, tmp_path):
    system, description = system_and_description
    variables = jax.tree.map(lambda x: x * 1e6, draw_variables(system))
    write_checkpoint(str(tmp_path / 'large'), variables, description)
    with pytest.raises(ValueError, match=r'kernel.*float16 cannot hold: choose --dtype=bfloat16'):
        pack(str(tmp_path / 'large'), str(tmp_path / 'packed'), dtype='float16')
    assert not (tmp_path / 'packed').exists()
