"""A small system trains, evaluates, predicts and is planned by the ordinary commands."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import pdl_jax
from pdl_jax.commands.command_line import main
from tests.systems.toy_system import CONFIG, color_system


@pytest.fixture(scope='module', name='color_system')
def known_color_system():
    with color_system():
        yield


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('color') / 'color.py'
    path.write_text(CONFIG)
    return f'--config={path}'


@pytest.fixture(scope='module')
def workdir(color_system, config, data, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('work') / 'run'
    main(['train', config, f'--workdir={path}', f'--config.data.path={data}'])
    return path


@pytest.mark.slow
def test_it_trains_and_draws(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss_color'] for line in lines if 'loss_color' in line]
    assert losses[-1] < 0.8 * losses[0]
    report = json.loads((workdir / 'report.json').read_text())
    assert report['pq'] is None and report['miou'] > 0
    names = {path.name for path in (workdir / 'pictures' / 'step_00000010').iterdir()}
    assert {'target_0.png', 'prediction_0.png'} <= names


def test_it_is_evaluated_by_its_checkpoint_alone(workdir, tmp_path):
    main(['evaluate', f'--checkpoint={workdir}', f'--workdir={tmp_path}'])
    ours = json.loads((tmp_path / 'report.json').read_text())
    assert ours == json.loads((workdir / 'report.json').read_text())


def test_it_predicts(workdir, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    flags = [f'--images={tmp_path}/a.png', f'--output={tmp_path}/out']
    main(['predict', f'--checkpoint={workdir}', *flags])
    result = pdl_jax.load(str(workdir))(image)
    stored = np.asarray(Image.open(tmp_path / 'out' / 'a_semantic.png'))
    np.testing.assert_array_equal(stored, result.panoptic // result.spec.label_divisor)


def test_it_is_planned(color_system, config, data, tmp_path):
    flags = [f'--config.data.path={data}', '--topology=cpu:8', f'--json={tmp_path}/plan.json']
    main(['plan', config, *flags, '--programs=train,eval'])
    plan = json.loads((tmp_path / 'plan.json').read_text())
    assert plan['fits'] and set(plan['programs']) == {'train', 'eval'}


def test_what_it_cannot_do_is_said(color_system, config, data, tmp_path, capsys):
    command = ['train', config, f'--workdir={tmp_path}', f'--config.data.path={data}']
    for flag, text in (
        ('--config.evaluate.scales=(0.5,1.0)', 'ColorSystem cannot average over scales'),
        ('--config.model.backbone=resnet50', 'config.model.backbone is unknown'),
        ("--config.evaluate.oracle=('center',)", 'config.evaluate.oracle'),
    ):
        with pytest.raises(SystemExit) as exit:
            main([*command, flag])
        assert exit.value.code == 2
        assert text in capsys.readouterr().err
