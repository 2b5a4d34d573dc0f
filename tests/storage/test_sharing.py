"""Checkpoints pushed and pulled: bit for bit, whole or not at all, whatever strangers put there."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.storage import sharing
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.sharing import MAX_BYTES, pull, push
from tests.storage import checkpoint_mutations
from tests.storage.hub_emulator import TOKEN, describe, serve_hub

ROOT = pathlib.Path(__file__).resolve().parents[2]
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec('huggingface_hub') is None, reason="needs pip install 'pdl_jax[hub]'"
)
CARD = '---\nlibrary_name: pdl_jax\n---\n# toy\n'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A workdir with the steps 1 and 2."""
    workdir = tmp_path_factory.mktemp('run')
    checkpoint_mutations.write_run(workdir)
    return workdir


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, known to huggingface_hub in this process."""
    constants = pytest.importorskip('huggingface_hub.constants')
    with serve_hub() as server:
        monkeypatch.setattr(constants, 'ENDPOINT', server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition('/{')
        monkeypatch.setattr(
            constants, 'HUGGINGFACE_CO_URL_TEMPLATE', f'{server.endpoint}/{{{template[2]}'
        )
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
        monkeypatch.setenv('HF_TOKEN', TOKEN)
        yield server


def read_tree(folder):
    folder = pathlib.Path(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


class Folder(sharing.Remote):
    """A stand-in that serves any names, contents and sizes."""

    def __init__(self, files, sizes=None):
        self.files, self.sizes = files, sizes or {name: len(c) for name, c in files.items()}

    def push(self, files):
        self.files = {n: c if isinstance(c, bytes) else c.read_bytes() for n, c in files.items()}

    def list_files(self, step):
        return self.sizes

    def fetch(self, name, target, size):
        content = self.files[name]
        if isinstance(content, Exception):
            raise content
        target.write_bytes(content)


@pytest.fixture
def remote(run, monkeypatch):
    """A remote with one checkpoint, which tests spoil."""
    files = {
        f'checkpoints/2/{name}': content
        for name, content in read_tree(find_checkpoint(run)).items()
    }
    folder = Folder(files)
    monkeypatch.setattr(sharing, '_open', lambda address, **_: folder)
    return folder


def test_a_copy_is_whole(remote, run, tmp_path):
    assert pull('gs://b/x', str(tmp_path / 'copy')) == tmp_path / 'copy'
    assert read_tree(tmp_path / 'copy') == remote.files
    assert push(str(run), 'gs://b/y', step=1, card=CARD) == '1'
    assert remote.files.pop('README.md') == CARD.encode()
    expected = read_tree(run / 'checkpoints' / '1')
    assert remote.files == {f'checkpoints/1/{name}': content for name, content in expected.items()}


@pytest.mark.parametrize(
    'name',
    [
        '../evil',
        '/etc/passwd',
        'checkpoints/2/../../evil',
        'checkpoints/2/state//x',
        'checkpoints/2/./x',
        'checkpoints/2/...',
        'checkpoints/../2/x',
        'checkpoints/2',
        'checkpoints/zwei/x',
        'checkpoints/2/a\\..\\b',
        'checkpoints/2/a\nb',
        'checkpoints/2/CON:x',
        'checkpoints/2/ä',
        'checkpoints/2/' + 'x' * 201,
        'checkpoints/2/' + '/'.join('abcdefgh'),
        'setup.py',
        'checkpoints/2/DESCRIPTION/metadata',
        'checkpoints/2/description',
        'checkpoints/2/description/metadata/x',
        '',
    ],
)
def test_names_that_could_leave_the_directory_are_refused(remote, tmp_path, name):
    remote.sizes = {**remote.sizes, name: 1}
    with pytest.raises(ValueError, match=r'gs://b/x'):
        pull('gs://b/x', str(tmp_path / 'copy'))
    assert not list(tmp_path.iterdir())


def test_sizes_are_bounded_before_anything_is_fetched(remote, tmp_path, monkeypatch):
    remote.fetch = None
    with pytest.raises(ValueError, match=r'bytes, the limit is 99: raise --max_gigabytes'):
        pull('gs://b/x', str(tmp_path / 'copy'), max_bytes=99)
    remote.sizes = {**remote.sizes, 'README.md': 2**21}
    with pytest.raises(ValueError, match=r'README.md has 2097152 bytes'):
        pull('gs://b/x', str(tmp_path / 'copy'))
    remote.sizes = {f'checkpoints/2/{i}': 0 for i in range(10_001)}
    with pytest.raises(ValueError, match='more than 10000 files'):
        pull('gs://b/x', str(tmp_path / 'copy'))
    assert MAX_BYTES < 2**40 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('state/manifest.ocdbt', b'x', r'gs://b/x/checkpoints/2/state/manifest.ocdbt has 1 bytes'),
        ('description/metadata', None, r'gs://b/x/checkpoints/2/description is missing'),
        ('state/manifest.ocdbt', OSError('cut'), 'cut'),
        ('state/manifest.ocdbt', KeyboardInterrupt(), None),
    ],
)
def test_nothing_is_left_of_a_pull_that_fails(remote, tmp_path, name, content, message):
    name = f'checkpoints/2/{name}'
    remote.files[name] = content
    if content is None:
        for key in [key for key in remote.files if key.startswith('checkpoints/2/description/')]:
            remote.sizes.pop(key)
    with pytest.raises(BaseException, match=message) as caught:
        pull('gs://b/x', str(tmp_path / 'copy'))
    assert str(tmp_path) not in str(caught.value) and not list(tmp_path.iterdir())


def test_what_is_there_is_kept(remote, tmp_path):
    (tmp_path / 'copy').mkdir()
    pull('gs://b/x', str(tmp_path / 'copy'))
    with pytest.raises(FileExistsError, match='is there already'):
        pull('gs://b/x', str(tmp_path / 'copy'))
    for directory in ('gs://b/y', 'hf://u/n', 'https://x'):
        with pytest.raises(ValueError):
            pull('gs://b/x', directory)
    with pytest.raises(ValueError, match='pull it first'):
        push('gs://b/x', 'gs://b/y')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['push', 'runs/x', 'elsewhere'], 'elsewhere must begin with gs:// or hf://'),
        (['push', 'runs/x', 'gs://b/x', '--private'], 'only the Hub knows private repositories'),
        (['pull', 's3://b/x', 'y'], 's3://b/x is an address'),
        (['pull', 'hf://name', 'y'], 'hf://name must have the form hf://USER/NAME'),
        (['pull', 'hf://u/../x', 'y'], 'must have the form'),
        (['predict', '--checkpoint=hf://u/n', '--output=x'], '`pdl_jax pull hf://u/n n`'),
    ],
)
def test_mistakes_are_told_in_one_line(words, message, capsys, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'x').symlink_to(run)
    monkeypatch.setattr('pdl_jax.prediction.model_card.find_card', lambda *_, **__: '')
    with pytest.raises(SystemExit) as caught:
        main(words)
    errors = capsys.readouterr().err
    assert caught.value.code == 2 and message in errors and errors.count('error:') == 1


@needs_hub
def test_hub_round_trip(hub, run, tmp_path):
    assert push(str(run), 'hf://user/toy', card=CARD) == '2'
    pull('hf://user/toy', str(tmp_path / 'copy'))
    expected = {**read_tree(find_checkpoint(run)), '../../README.md': CARD.encode()}
    expected = {os.path.normpath(f'checkpoints/2/{n}'): c for n, c in expected.items()}
    assert read_tree(tmp_path / 'copy') == expected
    first = hub.commits['user/toy'][-1][0]
    assert hub.private == []
    push(str(run), 'hf://user/secret', is_private=True)
    assert hub.private == ['user/secret']
    # Another step takes its place in one commit, and the old one stays in the history.
    push(str(run), 'hf://user/toy', step=1, card=CARD)
    assert {name.split('/')[1] for name in hub.files('user/toy') if '/' in name} == {'1'}
    pull(f'hf://user/toy@{first}', str(tmp_path / 'old'))
    assert read_tree(tmp_path / 'old') == expected
    assert find_checkpoint(pull('hf://user/toy', str(tmp_path / 'new'))).name == '1'
    with pytest.raises(FileNotFoundError, match=r'has no step 7: it has \[1\]'):
        pull('hf://user/toy', str(tmp_path / 'seven'), step=7)


@needs_hub
def test_a_push_that_is_cut_short_shows_no_checkpoint(hub, run, tmp_path):
    hub.fail = lambda method, path: 403 if '/commit/' in path else None
    with pytest.raises(OSError, match=r'^hf://user/toy: the Hub refuses: check the name') as caught:
        push(str(run), 'hf://user/toy')
    assert TOKEN not in str(caught.value)
    assert hub.objects
    with pytest.raises(FileNotFoundError, match='hf://user/toy has no checkpoint of pdl_jax'):
        pull('hf://user/toy', str(tmp_path / 'copy'))
    hub.fail = lambda *_: None
    push(str(run), 'hf://user/toy')
    pull('hf://user/toy', str(tmp_path / 'copy'))


@needs_hub
def test_hub_errors_are_one_line_without_the_token(hub, run, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='hf://user/none: there is none, or it is private'):
        pull('hf://user/none', str(tmp_path / 'copy'))
    hub.fail = lambda *_: 418
    with pytest.raises(OSError, match='hf://user/toy: the Hub answers') as caught:
        push(str(run), 'hf://user/toy')
    assert TOKEN not in str(caught.value) and '\n' not in str(caught.value)
    hub.fail = lambda *_: None
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    with pytest.raises(OSError, match='log in with `hf auth login` or set HF_TOKEN'):
        push(str(run), 'hf://user/toy')


@needs_hub
def test_hostile_repositories_are_refused(hub, run, tmp_path):
    push(str(run), 'hf://user/toy')
    evil = describe('checkpoints/2/../../../evil', b'x')
    hub.listing = lambda entries: [*entries, evil]
    with pytest.raises(ValueError, match='no checkpoint does'):
        pull('hf://user/toy', str(tmp_path / 'copy'))
    hub.listing = lambda entries: [{**e, 'size': e['size'] + 1} for e in entries]
    with pytest.raises(ValueError, match=r'bytes, not \d+: pull again'):
        pull('hf://user/toy', str(tmp_path / 'copy'))
    hub.listing = None
    hub.damage = lambda path, content: content[:-1] + b'?' if '/d/' in path else content
    with pytest.raises(ValueError, match='holds other bytes than were pushed'):
        pull('hf://user/toy', str(tmp_path / 'copy'))
    # What only the checksums of the checkpoint tell.
    hub.damage = lambda path, content: content
    name = 'checkpoints/2/state/_METADATA'
    files = dict(hub.files('user/toy'))
    hub.commit('user/toy', {**files, name: files[name][:-1] + b' '})
    with pytest.raises(ValueError, match=rf'hf://user/toy/{name} holds other bytes'):
        pull('hf://user/toy', str(tmp_path / 'copy'))
    assert not list(tmp_path.iterdir())


@needs_hub
@pytest.mark.slow
def test_commands_speak_to_the_endpoint_of_the_environment(tmp_path):
    with serve_hub() as server:
        environment = {
            **os.environ,
            'HF_ENDPOINT': server.endpoint,
            'HF_HUB_DISABLE_XET': '1',
            'HF_TOKEN': TOKEN,
            'HF_HOME': str(tmp_path / 'home'),
            'JAX_PLATFORMS': 'cpu',
        }
        for words in (
            ['push', 'scenes', 'hf://user/scenes'],
            ['pull', 'hf://user/scenes', str(tmp_path / 'copy')],
        ):
            done = subprocess.run(
                [sys.executable, '-m', 'pdl_jax', *words],
                cwd=ROOT,
                env=environment,
                text=True,
                capture_output=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
        card = server.files('user/scenes')['README.md'].decode()
    assert card.startswith('---\nlibrary_name: pdl_jax\n') and '## Measured' in card
    copied = read_tree(tmp_path / 'copy')
    assert copied.pop('README.md').decode() == card
    assert copied == read_tree(find_checkpoint('scenes').parent.parent)


@pytest.mark.slow
def test_bucket_round_trip_in_parts(tmp_path):
    """In a process of its own, whose clients look for the bucket here."""
    from tests.gcs_emulator import serve_gcs

    with serve_gcs() as gcs:
        environment = {**os.environ, **gcs.environment, 'JAX_PLATFORMS': 'cpu'}

        def run(*words, status=0):
            done = subprocess.run(
                [sys.executable, '-m', 'pdl_jax', *words],
                cwd=ROOT,
                env=environment,
                text=True,
                capture_output=True,
                timeout=300,
            )
            assert done.returncode == status, done.stderr
            return done.stdout + done.stderr

        # The last object but the mark is refused: no checkpoint is there.
        gcs.fail = lambda method, path: 403 if 'tuned.json' in path and method == 'POST' else None
        assert 'the bucket answers' in run('push', 'scenes', 'gs://bucket/scenes', status=2)
        assert 'scenes/checkpoints/700/state/_METADATA' in gcs.names
        gcs.fail = lambda *_: None
        assert 'no checkpoint in gs://bucket/scenes' in run(
            'pull', 'gs://bucket/scenes', str(tmp_path / 'copy'), status=2
        )
        run('push', 'scenes', 'gs://bucket/scenes')
        assert 'holds checkpoints already' in run('push', 'scenes', 'gs://bucket/scenes', status=2)
        run('pull', 'gs://bucket/scenes', str(tmp_path / 'copy'))
        # A checkpoint of a local disk has no mark, nor has its copy.
        checkpoint_mutations.write_run(tmp_path / 'run')
        (tmp_path / 'run' / 'README.md').write_text(CARD)
        run('push', str(tmp_path / 'run'), 'gs://bucket/run', '--step=best')
        assert 'run/checkpoints/2/commit_success.txt' in gcs.names
        run('pull', 'gs://bucket/run', str(tmp_path / 'run_copy'))
    local = read_tree(tmp_path / 'run')
    expected = {name: content for name, content in local.items() if 'checkpoints/1/' not in name}
    assert read_tree(tmp_path / 'run_copy') == expected
    copied = read_tree(tmp_path / 'copy')
    assert '## Measured' in copied.pop('README.md').decode()
    assert copied == read_tree(find_checkpoint('scenes').parent.parent)
