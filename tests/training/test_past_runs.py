"""The table of runs: read from logs and checkpoints, without JAX, whatever is in them."""

import json
import os
import subprocess
import sys
import time

import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.training.past_runs import find_differences, format_runs, list_runs
from tests import tiny

CONFIG = {
    'data': {'path': 'a'},
    'model': {'preset': 'p'},
    'optimizer': {'learning_rate': 0.1},
    'train': {'num_steps': 100},
}


def make_run(folder, lines=(), *, config=CONFIG, step=None, score=None):
    """Writes the files of a run that the table is made of."""
    folder.mkdir(parents=True)
    if lines:
        (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(x)}\n' for x in lines))
    if step is not None:
        checkpoint = folder / 'checkpoints' / str(step)
        (checkpoint / 'description').mkdir(parents=True)
        description = {'format': 2, 'config': config, 'dataset': {}}
        (checkpoint / 'description' / 'metadata').write_text(json.dumps(description))
        if score is not None:
            (checkpoint / 'metrics').mkdir()
            (checkpoint / 'metrics' / 'metrics').write_text(json.dumps({'score': score}))
    return folder


def evaluation(step, pq, miou):
    return {'step': step, 'eval/miou': miou} | ({} if pq is None else {'eval/pq': pq})


@pytest.fixture
def runs(tmp_path):
    """A folder with runs of all kinds, some of them damaged."""
    lines = [
        {'step': 10, 'loss': 2.0, 'learning_rate': 0.1},
        evaluation(10, 0.5, 0.6),
        evaluation(20, 0.6, 0.55),
        {'step': 30, 'loss': 1.25},
        evaluation(30, 0.4, 0.9),
    ]
    make_run(tmp_path / 'scenes', lines, step=30)
    other = {**CONFIG, 'optimizer': {'learning_rate': 0.2}, 'data': {'path': 'b'}}
    make_run(tmp_path / 'old' / 'fast', [evaluation(40, 0.7, 0.6)], config=other, step=100)
    semantic = {**CONFIG, 'model': {'preset': 's', 'has_instances': False}}
    make_run(tmp_path / 'semantic', [evaluation(10, None, 0.5)], config=semantic, step=10)
    make_run(tmp_path / 'packed', step=7, score=0.3)
    make_run(tmp_path / 'killed', [{'step': 5, 'loss': None}])
    with (tmp_path / 'killed' / 'metrics.jsonl').open('ab') as file:
        file.write(b'[1]\n{"step": "6"}\n{"step": 5, "loss": 1%s}\n' % (400 * b'0'))
        file.write(b'{"step": 7, "lo\xff')
    damaged = make_run(tmp_path / 'damaged', [evaluation(10, 0.2, 0.2)], step=10)
    (damaged / 'checkpoints' / '10' / 'description' / 'metadata').write_text('{"config')
    (make_run(tmp_path / 'nothing') / 'checkpoints').mkdir()
    os.mkfifo(make_run(tmp_path / 'pipe') / 'metrics.jsonl')
    make_run(tmp_path / 'hidden' / '.a', lines)
    make_run(tmp_path / 'a' / 'b' / 'c' / 'd', lines)
    return tmp_path


def test_runs_are_read(runs):
    found = {run.name: run for run in list_runs(runs)}
    run = found['scenes']
    assert (run.step, run.num_steps, run.best_step) == (30, 100, 20)
    assert (run.pq, run.miou, run.loss, run.damage) == (0.6, 0.55, 1.25, '')
    assert 0 <= run.age_seconds < 600
    run = found['old/fast']
    assert (run.step, run.best_step, run.pq, run.loss) == (100, 40, 0.7, None)
    run = found['semantic']
    assert (run.best_step, run.pq, run.miou, run.score) == (10, None, 0.5, 0.5)
    run = found['packed']
    assert (run.step, run.best_step, run.pq, run.miou) == (7, 7, 0.3, None)
    run = found['killed']
    assert (run.step, run.num_steps, run.loss, run.score, run.damage) == (5, None, None, None, '')
    run = found['damaged']
    assert run.pq == 0.2 and 'description/metadata is not valid JSON' in run.damage
    assert 'named pipe' in found['pipe'].damage
    assert found['nothing'].damage == 'neither a log nor a checkpoint can be read'
    # The best first, then those without a score by name.
    assert list(found) == [
        *('old/fast', 'scenes', 'semantic', 'packed', 'damaged'),
        *('killed', 'nothing', 'pipe'),
    ]


def test_a_folder_can_be_a_run(runs):
    (run,) = list_runs(runs / 'scenes')
    assert run.name == '.' and run.pq == 0.6
    (run,) = list_runs(runs / 'a' / 'b')
    assert run.name == 'c/d'


def test_differences_are_those_of_the_configurations(runs):
    found = list_runs(runs)
    differences = dict(zip([run.name for run in found], find_differences(found), strict=True))
    assert differences['scenes'] == {'optimizer.learning_rate': 0.1, 'model.preset': 'p'}
    assert differences['old/fast']['optimizer.learning_rate'] == 0.2
    assert differences['semantic']['model.has_instances'] is False
    assert differences['killed'] == differences['damaged'] == {}


def test_the_table(runs, capsys):
    old = time.time() - 3 * 86400
    os.utime(runs / 'scenes' / 'metrics.jsonl', (old, old))
    os.utime(runs / 'scenes' / 'checkpoints' / '30', (old, old))
    main(['runs', str(runs)])
    head, *lines = capsys.readouterr().out.splitlines()
    columns = ['run', 'step', 'best', 'PQ', 'mIoU', 'loss', 'age', 'differences']
    assert head.split() == columns
    words = next(line for line in lines if line.startswith('scenes')).split()
    assert words[:8] == ['scenes', '30/100', '20', '60.0', '55.0', '1.25', '3', 'd']
    assert 'optimizer.learning_rate=0.1' in words
    assert ' damaged: ' in next(line for line in lines if line.startswith('pipe'))
    assert len(lines) == 8
    # Columns are aligned.
    assert len({line[: head.index('differences')].count('\t') for line in lines}) == 1
    main(['runs', str(runs), '--json'])
    values = json.loads(capsys.readouterr().out)
    assert values[1]['name'] == 'scenes' and values[1]['pq'] == 0.6
    assert values[1]['differences'] == {'optimizer.learning_rate': 0.1, 'model.preset': 'p'}


def test_names_and_fields_cannot_write_to_the_terminal(tmp_path):
    config = {'model': {'preset': '\x1b[2J', 'bad\x1b': 1}, 'train': {'num_steps': '\x1b'}}
    make_run(tmp_path / 'a\x1b[2J', [evaluation(1, 0.1, 0.1)], config=config, step=1)
    make_run(tmp_path / 'b', [evaluation(1, 0.1, 0.1)], step=1)
    table = format_runs(list_runs(tmp_path))
    assert '\x1b' not in table and 'a?[2J' in table and 'model.preset="\\u001b[2J"' in table


def test_many_differences_are_cut_short(tmp_path):
    for name in 'ab':
        config = {'section': {f'field{i}': f'{name}{i}' for i in range(9)}}
        make_run(tmp_path / name, config=config, step=1)
    table = format_runs(list_runs(tmp_path))
    assert table.count('and 3 more (--json)') == 2 and 'field6' not in table


@pytest.mark.parametrize('name', ['absent', 'empty'])
def test_no_runs_end_in_one_line(tmp_path, capsys, name):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit) as end:
        main(['runs', str(tmp_path / name)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count('\n') == 1
    expected = {'absent': 'is no folder', 'empty': 'no run in .*metrics.jsonl or checkpoints/'}
    assert expected[name].partition('.*')[0] in error


def test_it_starts_without_jax(runs):
    code = f"""
import sys
from pdl_jax.commands.command_line import main
main(['runs', {str(runs)!r}])
assert 'jax' not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=tiny.ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
