"""Every system trains, draws, evaluates, predicts, exports and is planned by ordinary commands."""

import functools
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import pdl_jax
from pdl_jax.commands.command_line import main
from pdl_jax.systems import SYSTEMS, find_options_class
from tests import tiny_systems

# One training of a system serves all of its tests.
pytestmark = pytest.mark.slow
MASK_TERMS = {'class', 'mask_dice', 'mask_id', 'instance_discrimination', 'semantic'}
# Terms of the loss, and pictures besides those of the target and the prediction.
TERMS = {
    'panoptic_deeplab': {'semantic', 'center', 'offset'},
    'semantic_deeplab': {'semantic'},
    'semantic_deeplab of two stages': {'semantic', 'semantic_stage1'},
    'semantic_deeplab of several scales': {f'semantic{x}' for x in ('', '_0', '_1', '_2')},
    'classification': {'semantic'},
    'deeperlab': {'semantic', 'keypoint', 'short', 'middle', 'long'},
    'max_deeplab': MASK_TERMS,
    'kmax_deeplab': MASK_TERMS,
}
PICTURES = {
    'deeperlab': {'keypoints', 'offsets', 'target_keypoints', 'target_offsets'},
    'max_deeplab': {'queries', 'matched'},
    'kmax_deeplab': {'queries', 'assignment', 'matched'},
}
# PQ of the truth in the place of outputs: scenes of 48x64 pixels have things smaller than the discs
# of DeeperLab's keypoints.
TRUTH_PQ = {'panoptic_deeplab': 0.9, 'deeperlab': 0.9}


@pytest.fixture(scope='module', params=tiny_systems.SYSTEMS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory) -> Callable[[str], pathlib.Path]:
    @functools.cache
    def train(name: str) -> pathlib.Path:
        path = tmp_path_factory.mktemp('system') / 'run'
        flags = tiny_systems.system_flags(name, data__path=data)
        main(['train', *flags, f'--workdir={path}'])
        return path

    return train


@pytest.fixture
def workdir(name, trained) -> pathlib.Path:
    return trained(name)


@pytest.fixture(scope='module')
def image_path(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('image') / 'a.png'
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize('name', TRUTH_PQ, indirect=True)
def test_true_outputs_come_back_through_evaluation(name, workdir, tmp_path):
    oracle = find_options_class(name).oracles
    flags = [f'--checkpoint={workdir}', f'--workdir={tmp_path}']
    main(['evaluate', *flags, f'--config.evaluate.oracle={oracle}'])
    assert read_report(tmp_path)['pq']['All']['pq'] > TRUTH_PQ[name]


def read_report(folder: pathlib.Path) -> dict:
    return json.loads((folder / 'report.json').read_text())


def test_no_system_is_missing():
    assert {name.split()[0] for name in tiny_systems.SYSTEMS} == set(SYSTEMS)


def test_it_trains_by_the_terms_of_its_loss(name, workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert [line['step'] for line in steps] == [1, 2]
    for line in steps:
        terms = {k.removeprefix('loss_'): v for k, v in line.items() if k.startswith('loss_')}
        assert terms.keys() >= TERMS[name]
        assert sum(terms.values()) == pytest.approx(line['loss'], rel=1e-5)
        assert np.isfinite(line['loss']) and np.isfinite(line['gradient_norm'])


def test_it_draws(name, workdir):
    pictures = workdir / 'pictures' / 'step_00000002'
    expected = {'target', 'prediction'} | PICTURES.get(name, set())
    assert {f'{picture}_0.png' for picture in expected} <= {
        path.name for path in pictures.iterdir()
    }
    for path in pictures.iterdir():
        with Image.open(path) as picture:
            assert picture.mode == 'RGB'
            # Queries that learnt nothing yet predict void everywhere.
            assert 'prediction' in path.name or np.ptp(np.asarray(picture)) > 0, path


def test_its_checkpoint_alone_is_evaluated_to_the_same_report(workdir, tmp_path):
    main(['evaluate', f'--checkpoint={workdir}', f'--workdir={tmp_path}'])
    report = read_report(tmp_path)
    assert report == read_report(workdir)
    assert 0 <= report['top1' if 'top1' in report else 'miou'] <= 1


def test_its_files_are_what_the_predictor_says(name, workdir, image_path, tmp_path):
    main(['predict', f'--checkpoint={workdir}', f'--images={image_path}', f'--output={tmp_path}'])
    with Image.open(image_path) as image:
        result = pdl_jax.load(str(workdir))(np.asarray(image))
    if read_report(workdir)['pq'] is not None:
        with Image.open(tmp_path / 'a_panoptic.png') as stored:
            assert stored.size == (64, 48)
    else:
        with Image.open(tmp_path / 'a_semantic.png') as stored:
            np.testing.assert_array_equal(
                np.asarray(stored), result.panoptic // result.spec.label_divisor
            )


@pytest.mark.parametrize('form', ['stablehlo', 'onnx'])
def test_its_export_says_the_same(form, workdir, tmp_path):
    if form == 'onnx':
        pytest.importorskip('onnxruntime', reason='needs pdl_jax[export]')
        pytest.importorskip('onnx', reason='needs pdl_jax[export]')
    # The command compares the file's labels with the predictor's before it keeps the file.
    main(['export', f'--checkpoint={workdir}', f'--output={tmp_path}/e', f'--format={form}'])
    description = json.loads((tmp_path / 'e' / 'description.json').read_text())
    assert description['format'] == form


def test_it_is_planned(name, data, tmp_path):
    flags = tiny_systems.system_flags(name, data__path=data)
    main(['plan', *flags, '--topology=cpu:2', '--programs=train,eval', f'--json={tmp_path}/p'])
    plan = json.loads((tmp_path / 'p').read_text())
    assert plan['fits'] and set(plan['programs']) == {'train', 'eval'}
