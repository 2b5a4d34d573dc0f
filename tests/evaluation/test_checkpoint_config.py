"""The checkpoint decides: its configuration, its steps, and what may differ from it."""

import json
import re

import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.storage import config_changes
from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from tests.systems.toy_system import CONFIG, color_system


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('color') / 'color.py'
    path.write_text(CONFIG)
    return f'--config={path}'


@pytest.fixture(scope='module')
def workdir(config, data, tmp_path_factory):
    """A run of 4 steps that was evaluated at steps 2 and 4; a field of it is not the file's."""
    path = tmp_path_factory.mktemp('work') / 'run'
    fields = ('train.num_steps=4', 'train.evaluate_every_steps=2', 'train.picture_every_steps=0')
    fields = (*fields, f'data.path={data}', 'optimizer.learning_rate=0.2')
    with color_system():
        main(['train', config, f'--workdir={path}', *(f'--config.{field}' for field in fields)])
        yield path


def run(capsys, *words):
    """Runs a command; returns what it printed."""
    main(words)
    return '\n'.join(capsys.readouterr())


def fail(capsys, *words):
    """Runs a command that fails; returns what it printed."""
    with pytest.raises(SystemExit):
        main(words)
    return '\n'.join(capsys.readouterr())


@pytest.mark.slow
def test_fields_of_the_command_line_count_on_top(workdir, tmp_path, capsys):
    printed = run(
        capsys, 'evaluate', f'--checkpoint={workdir}', f'--workdir={tmp_path}',
        '--config.evaluate.batch_size=3', '--config.evaluate.oracle=()',
    )  # fmt: skip
    lines = [line for line in printed.splitlines() if 'in the checkpoint' in line]
    assert [re.sub(r'^[\d:]+ ', '', line) for line in lines] == [
        'config.evaluate.batch_size: 8 in the checkpoint, 3 now'
    ]
    report = json.loads((tmp_path / 'report_4.json').read_text())
    assert report['step'] == 4
    assert report == json.loads((workdir / 'report.json').read_text())


@pytest.mark.slow
def test_reports_of_other_steps_stay(workdir, capsys):
    last = (workdir / 'report.json').read_bytes()
    scores = {}
    for step in ('2', 'last'):
        printed = run(capsys, 'evaluate', f'--workdir={workdir}', f'--step={step}')
        number = {'last': 4}.get(step, 2)
        assert f'checkpoints/{number} on ' in printed and f'report_{number}.json' in printed
        scores[number] = json.loads((workdir / f'report_{number}.json').read_text())['miou']
    best = max(scores, key=lambda step: scores[step])
    for flag in ('--step=best', '--checkpoint=best', f'--checkpoint={workdir}/best'):
        printed = run(capsys, 'evaluate', f'--workdir={workdir}', flag)
        assert f'checkpoints/{best} on ' in printed
    assert (workdir / 'report.json').read_bytes() == last


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--step=first'], '--step: first must be best, last or the number of a step'),
        (['--step=3'], r'no checkpoint of step 3 in .*; there are \[2, 4\]'),
        (['--checkpoint=best', '--step=2'], '--checkpoint=best and --step=2: give one of them'),
        (['--config.train.batch_siz=3'], 'unknown field .*Did you mean "batch_size"'),
        (['--config.evaluate.batch_size=0'], r'evaluate.batch_size \(=0\) must be positive'),
    ],
)
def test_mistakes_are_named(workdir, words, message, capsys):
    assert re.search(
        f'error: .*{message}', fail(capsys, 'evaluate', f'--workdir={workdir}', *words)
    )


def test_another_meaning_is_refused_unless_allowed(
    workdir, config, data, tmp_path, capsys, monkeypatch
):
    words = ['evaluate', f'--checkpoint={workdir}', f'--workdir={tmp_path}']
    changed = '--config.model.has_squares=False'
    printed = fail(capsys, *words, changed)
    assert 'error: config.model.has_squares: True in the checkpoint, False now: the network is' in (
        printed
    )
    assert not list(tmp_path.glob('report*'))
    # Allowed, it gets as far as the arrays.
    printed = fail(capsys, *words, changed, '--allow_changed')
    assert 'params/kernel: the model has (3, 14), the checkpoint (6, 14)' in printed
    # The report tells of a change that is allowed and fits the shapes.
    monkeypatch.setitem(config_changes._MEANING, 'evaluate.batch_size', 'a stand-in')
    run(capsys, *words, '--config.evaluate.batch_size=4', '--allow_changed')
    report = json.loads((tmp_path / 'report_4.json').read_text())
    assert report['changed'] == ['config.evaluate.batch_size: 8 in the checkpoint, 4 now']
    monkeypatch.undo()
    # A file that is named counts instead of the checkpoint's configuration.
    printed = run(capsys, *words, config, f'--config.data.path={data}')
    assert 'config.optimizer.learning_rate: 0.2 in the checkpoint, 0.05 now' in printed
    assert 'config.train.num_steps: 4 in the checkpoint, 30 now' in printed


def test_resuming_takes_the_checkpoint_s_configuration(workdir, config, data, capsys):
    printed = fail(capsys, 'train', f'--workdir={workdir}', '--config.model.has_squares=False')
    assert 'error: config.model.has_squares: True in the checkpoint' in printed
    assert 'Choose another --workdir' in printed
    before = (workdir / 'metrics.jsonl').read_text()
    printed = run(capsys, 'train', f'--workdir={workdir}', '--config.train.num_steps=6')
    assert 'config.train.num_steps: 4 in the checkpoint, 6 now' in printed
    assert printed.count('in the checkpoint') == 1
    assert (workdir / 'metrics.jsonl').read_text().startswith(before)
    saved = read_description(find_checkpoint(workdir))['config']
    assert saved['optimizer']['learning_rate'] == 0.2 and saved['train']['num_steps'] == 6


def test_without_a_configuration_there_must_be_a_checkpoint(tmp_path, capsys):
    printed = fail(capsys, 'train', f'--workdir={tmp_path / "run"}')
    assert 'error: no checkpoint in ' in printed
    assert printed.rstrip().endswith('; give --config=FILE to start a run')
