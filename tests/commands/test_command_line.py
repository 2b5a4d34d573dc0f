"""The front door: commands and flags are found, and a mistake is one line with a suggestion."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

import pdl_jax
from pdl_jax.commands import predict
from pdl_jax.commands.command_line import COMMANDS, _split_overrides, main
from pdl_jax.commands.config_file import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_python(*arguments, cwd=ROOT):
    """Runs Python in a directory, with the package of this checkout."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def read_error(capsys, *words, status=2):
    """Runs a command that fails; returns its one line after the announcement."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == status
    printed = capsys.readouterr()
    lines = [x for x in printed.err.splitlines() if not x.startswith('pdl_jax: ')]
    assert len(lines) == 1 and lines[0].startswith('error: '), printed.err
    assert 'Traceback' not in printed.out
    return lines[0]


@pytest.fixture
def trained(monkeypatch):
    """The experiments and workdirs that the command would train; nothing is started."""
    runs = []

    def train(experiment, workdir, **_):
        runs.append((experiment, workdir))
        return {}

    monkeypatch.setattr(
        'pdl_jax.commands.train.start_processes', lambda flags, task: contextlib.nullcontext()
    )
    monkeypatch.setattr('pdl_jax.training.loop.train', train)
    return runs


def test_without_a_command_all_are_listed(capsys):
    for words in ([], ['--help'], ['help'], ['-h']):
        main(words)
        printed = capsys.readouterr().out
        assert printed.startswith('usage: pdl_jax COMMAND')
        listed = [x.split()[0] for x in printed.splitlines() if x.startswith('  ')]
        assert listed == list(COMMANDS)
    main(['--version'])
    assert capsys.readouterr().out.strip() == pdl_jax.__version__


def test_package_runs_as_a_module(tmp_path):
    result = run_python('-m', 'pdl_jax', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert all(f'\n  {name} ' in result.stdout for name in COMMANDS)


def test_help_answers_without_jax():
    code = """
import contextlib, io, sys
from pdl_jax.commands.command_line import COMMANDS, main
main([])
for name in COMMANDS:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            main([name, '--help'])
        except SystemExit as end:
            assert end.code == 0, name
        else:
            raise AssertionError(name)
    text = printed.getvalue()
    assert text.startswith(f'usage: pdl_jax {name}') and '--debug' in text, text
    assert 'examples:' in text and f'pdl_jax {name} ' in text, text
    for module in ('jax', 'flax', 'tensorflow', 'torch'):
        assert module not in sys.modules, f'{name} --help imports {module}'
"""
    result = run_python('-c', code)
    assert result.returncode == 0, result.stderr


def test_package_imports_lazily():
    code = """
import sys
import pdl_jax
for name in ('jax', 'numpy'):
    assert name not in sys.modules, name
assert {'Predictor', 'load'} <= set(dir(pdl_jax))
try:
    pdl_jax.Predicter
except AttributeError as error:
    assert 'Predicter' in str(error)
else:
    raise AssertionError
from pdl_jax import Predictor
assert 'jax' in sys.modules
assert pdl_jax.Predictor is Predictor and pdl_jax.load == Predictor.load
"""
    result = run_python('-c', code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['trian'], 'unknown command trian: did you mean train?'),
        (['sleep'], f'unknown command sleep: there are {", ".join(COMMANDS)}'),
        (['train', '--config=scenes', '--workdirr=x', '--workdir=y'], 'did you mean --workdir?'),
        (['train', '--config=scenes'], 'arguments are required: --workdir'),
        (['train', '--workdir=y'], 'no checkpoint in .*y: .* give --config=FILE to start a run'),
        (['plan', '--qwxz'], 'unknown argument --qwxz; see pdl_jax plan --help'),
        (['summary', '--config=scenes', '--json=perhaps'], '--json=perhaps must be true or false'),
        (['summary', '--config=scenes', '--depth=x'], "invalid int value: 'x'"),
        (
            ['summary', '--config=scenes', '--config.train.batch_siz=3'],
            'unknown field of the configuration: .*Did you mean "batch_size"',
        ),
        (['summary', '--config=scenes', '--config.tran.batch_size=3'], '"train"'),
        (['summary', '--config=scenes', '--config.train.batch_size=many'], 'batch_size'),
        (
            ['summary', '--config=scenes', '--config.model.preset=deeplab2/resnet50_os3'],
            "config.model.preset .*did you mean 'deeplab2/resnet50_os32'",
        ),
        (
            ['summary', '--model=deeplab2/resnet50_os3', '--num_classes=3'],
            "did you mean 'deeplab2/resnet50_os32'",
        ),
        (
            ['summary', '--config=scenes', '--config.model.backbone=resnet5'],
            "config.model.backbone 'resnet5' is unknown; did you mean 'resnet50'",
        ),
        (['summary', '--config=scene'], 'no such configuration; did you mean scenes?'),
        (['summary', '--config=configs/none.py'], 'give a file, or one of .*coco.*scenes'),
        (['summary', '--config=missing/scenes.py'], 'missing/scenes.py: no such configuration'),
        (['train', '--workdir=y', '--max_minutes=0'], 'argument --max_minutes: 0 must be a pos'),
        (['train', '--workdir=y', '--max_minutes=nan'], 'nan must be a positive number'),
        (
            ['train', '--workdir=y', '--config=scenes', '--patience=-1'],
            r'early_stopping_evals \(=-1',
        ),
        (['train', '--workdir=y', '--config=scenes', '--writers=wandbb'], r'writers .* only'),
        (['evaluate', '--workdir=missing'], 'no checkpoint in .*missing'),
        (['evaluate', '--workdir=x', '--config.train.batch_size=3'], 'no checkpoint in .*x'),
        (['evaluate', '--workdir=x', '--step=new'], 'new must be best, last or the number of a st'),
        (
            ['train', '--config=scenes', '--workdir=https://a.org/x'],
            r'x is an address \(https://\)',
        ),
        (
            ['train', '--config=scenes', '--workdir=x', '--config.data.path', 's3://a'],
            's3://a is an ',
        ),
        (['evaluate', '--workdir=hf://a', '--checkpoint=x'], 'hf://a is an address'),
        (
            ['predict', '--checkpoint=x', '--images', 'y', '--output', 'ftp://a/b'],
            'ftp://a/b is an',
        ),
        (['prepare', 'x', '--out=s3://a/b'], 's3://a/b is an address'),
        (['convert', '--from=keras', '--input=x', '--output=az://a'], 'az://a is an address'),
        (['check', 'x', '--sheet=https://a/b'], 'https://a/b is an address'),
        (['predict', '--checkpoint=x', '--output=y', '--step=-1'], '--step: -1 must be best, last'),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ('evaluate', 'train'):
        monkeypatch.setattr(
            f'pdl_jax.commands.{command}.start_processes',
            lambda flags, task: contextlib.nullcontext(),
        )
    line = read_error(capsys, *words)
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['raises', 'is no Python'])
def test_configuration_that_cannot_be_run_is_named(name, capsys, tmp_path):
    file = tmp_path / 'own.py'
    file.write_text({'raises': '1 / 0\n', 'is no Python': 'def :\n'}[name])
    line = read_error(capsys, 'summary', f'--config={file}')
    expected = {'raises': 'ZeroDivisionError: division by zero', 'is no Python': 'SyntaxError: '}
    assert f'the configuration {file} cannot be run: {expected[name]}' in line


def test_misspelt_field_ends_the_training_program(tmp_path):
    """`python -m pdl_jax.main`, with everything that it starts before it reads the fields."""
    workdir = tmp_path / 'run'
    flags = ('--config=configs/scenes.py', f'--workdir={workdir}', '--config.train.batch_siz=3')
    result = run_python('-m', 'pdl_jax.main', *flags)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[-1].startswith('error: ') and 'batch_size' in lines[-1]
    assert 'Traceback' not in result.stdout + result.stderr
    assert not workdir.exists()


def test_debug_shows_where_an_error_comes_from(capsys):
    words = ['summary', '--model=resnet', '--num_classes=3']
    assert "'resnet' is unknown" in read_error(capsys, *words)
    # An exception that leaves the program is printed with its traceback.
    with pytest.raises(ValueError, match="'resnet' is unknown"):
        main([*words, '--debug'])


@pytest.mark.parametrize(
    ('error', 'status', 'message'),
    [
        (FloatingPointError('the loss is nan'), 1, 'the loss is nan'),
        (RuntimeError('RESOURCE_EXHAUSTED'), 1, 'RESOURCE_EXHAUSTED'),
        (OSError('disk full'), 2, 'disk full'),
        (ImportError('needs torch'), 2, 'needs torch'),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
)
def test_errors_decide_the_status(error, status, message, capsys, monkeypatch):
    def run(flags):
        raise error

    monkeypatch.setattr('pdl_jax.commands.summary.run', run)
    assert read_error(capsys, 'summary', status=status) == f'error: {message}'


def test_errors_of_the_program_itself_keep_their_traceback(monkeypatch):
    def run(flags):
        raise TypeError('a bug')

    monkeypatch.setattr('pdl_jax.commands.summary.run', run)
    with pytest.raises(TypeError, match='a bug'):
        main(['summary'])


def test_switches(monkeypatch):
    found = []
    monkeypatch.setattr('pdl_jax.commands.summary.run', lambda flags: found.append(flags.json))
    for word in ('--json', '--json=true', '--json=1', '--nojson', '--json=False', '--nojson=0'):
        main(['summary', word])
    assert found == [True, True, True, False, False, True]


def test_configuration_of_the_package_by_its_name(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    for name in ('scenes', 'scenes.py', 'configs/scenes.py', str(ROOT / 'configs' / 'scenes.py')):
        main(['train', f'--config={name}', '--workdir=run', '--config.train.batch_size', '6'])
    experiments = {experiment for experiment, workdir in trained if workdir == 'run'}
    assert len(trained) == 4 and len(experiments) == 1
    assert experiments.pop().train.batch_size == 6


def test_flags_of_training_stand_for_fields(trained):
    words = ['train', '--config=scenes', '--workdir=run']
    main([*words, '--max_minutes=1.5', '--patience=3', '--writers=wandb,mlflow'])
    main([*words, '--config.train.early_stopping_evals=2'])
    main([*words, '--config.train.writers=("wandb",)', '--writers='])
    train, plain, none = (experiment.train for experiment, _ in trained)
    assert (train.max_minutes, train.early_stopping_evals) == (1.5, 3)
    assert train.writers == ('wandb', 'mlflow')
    assert (plain.max_minutes, plain.early_stopping_evals, plain.writers) == (0.0, 2, ())
    assert none.writers == ('wandb',)


def test_tensorboard_is_served_while_it_trains(trained, monkeypatch):
    served = []

    @contextlib.contextmanager
    def serve(workdir):
        served.append((workdir, len(trained)))
        yield
        served.append((workdir, len(trained)))

    monkeypatch.setattr('pdl_jax.training.tensorboard_server.serve_tensorboard', serve)
    for words in (['--tensorboard'], []):
        main(['train', '--config=scenes', '--workdir=run', *words])
    assert served == [('run', 0), ('run', 1)]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another working directory, from which the package's configurations cannot be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p not in ('', str(ROOT))])
    for name in [name for name in sys.modules if name.partition('.')[0] == 'configs']:
        monkeypatch.delitem(sys.modules, name)
    yield
    # The modules of before come back when monkeypatch is undone.
    for name in [name for name in sys.modules if name.partition('.')[0] in ('configs', 'beside')]:
        del sys.modules[name]


@pytest.mark.usefixtures('elsewhere')
def test_own_configuration_imports_those_of_the_package(tmp_path, trained):
    (tmp_path / 'beside.py').write_text('BATCH_SIZE = 3\n')
    (tmp_path / 'own.py').write_text(
        'import beside\n'
        'from configs import scenes\n\n\n'
        'def get_config():\n'
        '    config = scenes.get_config()\n'
        '    config.train.batch_size = beside.BATCH_SIZE\n'
        '    return config\n'
    )
    path = list(sys.path)
    main(['train', '--config=own.py', '--workdir=run'])
    assert trained[0][0].train.batch_size == 3
    assert sys.path == path


@pytest.mark.usefixtures('elsewhere')
def test_folder_of_own_configurations(tmp_path, trained):
    folder = tmp_path / 'configs'
    folder.mkdir()
    (folder / 'base.py').write_text('from configs.scenes import get_config\n')
    (folder / 'mine.py').write_text('from configs import base\n\nget_config = base.get_config\n')
    main(['train', '--config=configs/mine.py', '--workdir=run'])
    main(['train', '--config=scenes', '--workdir=run'])
    assert trained[0][0] == trained[1][0]


def test_argument_of_a_configuration(tmp_path):
    file = tmp_path / 'own.py'
    file.write_text(
        'from configs import scenes\n\n\n'
        'def get_config(size):\n'
        '    config = scenes.get_config()\n'
        '    config.train.batch_size = int(size)\n'
        '    return config\n'
    )
    assert load_config(f'{file}:5').train.batch_size == 5


@pytest.mark.parametrize(
    ('flag', 'expected'),
    [
        ('--config.data.is_unreadable_skipped', True),
        ('--config.data.is_unreadable_skipped=true', True),
        ('--noconfig.data.is_unreadable_skipped', False),
        ('--config.data.skip_unreadable', True),
    ],
)
def test_old_names_of_fields_are_understood(flag, expected, trained):
    main(['train', '--config=scenes', '--workdir=run', flag])
    assert trained[0][0].data.skip_unreadable is expected


def test_fields_of_the_configuration_are_told_from_flags():
    words = ['--config=scenes', '--config.evaluate.is_flipped', '--workdir=x']
    words += ['--config.train.batch_size', '3', '--config.seed=1', '--noconfig.evaluate.is_flipped']
    overrides, others = _split_overrides(words)
    assert others == ['--config=scenes', '--workdir=x']
    assert overrides == [
        '--config.evaluate.is_flipped',
        '--config.train.batch_size=3',
        '--config.seed=1',
        '--noconfig.evaluate.is_flipped',
    ]


def test_flags_of_several_values(monkeypatch):
    seen = []
    monkeypatch.setattr(predict, 'run', seen.append)
    words = ['--checkpoint=c', '--output=o', '--images=a.jpg', 'b=1.jpg', '--scales=0.5', '1']
    main(['predict', *words, '--images', 'c*.jpg', '--images=d.jpg'])
    assert seen[0].images == ['a.jpg', 'b=1.jpg', 'c*.jpg', 'd.jpg']
    assert seen[0].scales == [0.5, 1.0]
    # Flags of an earlier call are no defaults of the next.
    main(['predict', *words])
    assert seen[1].images == ['a.jpg', 'b=1.jpg']
