"""The commands, links and examples of the documentation.

Every ```bash block is read. Each command of pdl_jax is parsed by its own parser, and its
configuration is loaded. Then it runs, on a tiny network and with small stand-ins for the data,
images and runs that the documents name, unless `find_obstacle` knows what it needs that cannot be
here.

The ```python blocks of a page run one after the other in one namespace, with the same stand-ins. A
block that begins with the name of a file is a configuration instead; what it adds to a train step
is traced. A comment before a block, `<!-- not run: REASON -->`, leaves it out.
"""

import contextlib
import dataclasses
import glob
import importlib
import importlib.util
import pathlib
import re
import shlex
from fractions import Fraction

import jax
import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image

from pdl_jax.commands import config_file, processes
from pdl_jax.commands.command_line import COMMANDS, main
from pdl_jax.commands.config_file import load_config
from pdl_jax.data.pipeline import make_train_iterator
from pdl_jax.data.records import open_split
from pdl_jax.data.videos import Frame, VideoWriter
from pdl_jax.experiment import Experiment
from pdl_jax.runtime import host_memory
from pdl_jax.runtime.own_code import list_own_code
from pdl_jax.training.program import make_step_options
from pdl_jax.training.step import make_training_samples
from tests import tiny
from tests.process_group import BARE_NETWORK

ROOT = tiny.ROOT
DOCUMENTS = (
    'README.md',
    'launch/README.md',
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').rglob('*.md')),
)
# Pages that may link to others.
PAGES = (*DOCUMENTS, 'CONTRIBUTING.md', 'CHANGELOG.md')
# Programs of others, and of ours those that other tests run: launch/ and benchmarks/.
_NOT_OURS = (
    'pip install ',
    'python3 -m venv ',
    '.venv/bin/pip install ',
    '.venv/bin/python -m pytest ',
    'python -m benchmarks.',
    'curl ',
    'docker run ',
    'kubectl ',
    'scancel ',
)
# The run that the first command of README.md makes.
_WORKDIR = 'runs/scenes'
_BLOCK = re.MULTILINE | re.DOTALL
_list_devices = jax.devices
_HAS_AV = importlib.util.find_spec('av') is not None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of pdl_jax in a document.

    Attributes:
      name: a key of `COMMANDS`.
      words: its arguments, without the quotes of the shell.
    """

    name: str
    words: tuple[str, ...]

    def get(self, flag: str) -> str:
        """Returns the value of --FLAG=VALUE, '' if it is absent."""
        return next((w.split('=', 1)[1] for w in self.words if w.startswith(f'--{flag}=')), '')

    def __str__(self) -> str:
        return shlex.join(('pdl_jax', self.name, *self.words))


def read_blocks(name: str, language: str) -> list[str]:
    """Reads the blocks of a document that are marked with a language."""
    text = re.sub(
        r'^<!-- not run: .+ -->\n+```.*?^```', '', (ROOT / name).read_text(), flags=_BLOCK
    )
    return re.findall(rf'^```{language}\n(.*?)^```', text, _BLOCK)


def read_configurations(name: str) -> dict[str, str]:
    """Reads the blocks of Python that begin with the name of a file, by that name."""
    blocks = (
        re.match(r'# (\w+\.py)\n.*', block, re.DOTALL) for block in read_blocks(name, 'python')
    )
    return {match[1]: match[0] for match in blocks if match}


def read_programs(name: str) -> list[str]:
    """Reads the other blocks of Python."""
    configurations = read_configurations(name).values()
    return [block for block in read_blocks(name, 'python') if block not in configurations]


def read_commands(name: str) -> list[Command]:
    """Reads the commands of pdl_jax in a document; continued lines are joined, `a && b` is two."""
    lines = ''.join(read_blocks(name, 'bash')).replace('\\\n', ' ').splitlines()
    parts = (part.strip() for line in lines for part in line.split(' && '))
    found = (parse_command(part) for part in parts if part)
    return [command for command in found if command is not None]


def parse_command(line: str) -> Command | None:
    """Finds the command of pdl_jax in a line; None for other programs.

    Raises:
      ValueError: no rule covers the line.
    """
    words = shlex.split(line)
    if words[0].startswith('launch/'):
        # What follows -- are flags of training.
        flags = words[words.index('--') + 1 :] if '--' in words else []
        return Command('train', tuple(flags)) if flags else None
    if words[0] == '.venv/bin/python':
        words[0] = 'python'
    if words[:3] == ['python', '-m', 'pdl_jax.main']:
        return Command('train', tuple(words[3:]))
    if words[:3] == ['python', '-m', 'pdl_jax']:
        words[:3] = ['pdl_jax']
    if words[0] == 'pdl_jax' and words[1] in COMMANDS:
        return Command(words[1], tuple(words[2:]))
    if not line.startswith(_NOT_OURS):
        raise ValueError(f'no rule for the command: {line}')
    return None


# What each format of an export is written with.
_EXPORTERS = {
    'stablehlo': 'flatbuffers',
    'onnx': 'onnxruntime',
    'openvino': 'openvino',
    'savedmodel': 'tensorflow',
}
# Formats of which the sandbox has a folder; '' recognises the layout.
_OWN_FORMATS = ('', 'coco_panoptic', 'label_maps', 'instance_masks')


def find_obstacle(command: Command) -> str:
    """Names what a command needs that cannot be here; '' if it runs here."""
    if command.name == 'video' and not _HAS_AV:
        return "PyAV: pip install 'pdl_jax[video]'"
    if any('gs://' in word for word in command.words):
        return 'a bucket'
    if any('hf://' in word for word in command.words):
        return 'the Hub'
    if command.name == 'demo':
        return 'a visitor'
    if '--distributed' in command.words or command.get('coordinator_address'):
        return 'other processes'
    if command.name == 'export':
        needed = _EXPORTERS[command.get('format')]
        return '' if importlib.util.find_spec(needed) else 'an extra'
    if command.name == 'convert' or command.get('config.model.init_checkpoint'):
        return 'published weights'
    if command.name == 'prepare' and command.get('format') not in _OWN_FORMATS:
        return 'a published dataset'
    if command.name == 'plan' and not command.get('topology').startswith('cpu:'):
        return '' if '--compare' in command.words else 'the TPU compiler, and minutes'
    return ''


def list_tiny_flags(data: pathlib.Path) -> dict[str, str]:
    """Lists flags, by field, that turn any configuration into a run of two steps."""
    config = tiny.make_config(
        data,
        **BARE_NETWORK,
        optimizer__kind='sgd',
        optimizer__ema_decay=0.0,
        train__num_steps=2,
        train__checkpoint_every_steps=2,
    )
    fields = {}
    for section, values in config.to_dict().items():
        if section != 'seed':
            fields |= {f'{section}.{name}': value for name, value in values.items()}
    scenes = fields.pop('data.scenes')
    fields |= {f'data.scenes.{name}': value for name, value in scenes.items()}
    return {key: f'--config.{key}={x}' for key, x in fields.items() if x is not None}


@pytest.fixture(scope='module')
def as_a_process():
    """Lets commands run in this process as in one of their own with a single device."""
    with pytest.MonkeyPatch.context() as patch:
        devices = tiny.one_device()
        patch.setattr(jax, 'devices', lambda *_: devices)
        patch.setattr(jax, 'local_devices', lambda *_, **__: devices)
        # These change the whole process, which other tests share.
        patch.setattr(processes, 'show_own_messages', lambda: None)
        patch.setattr(host_memory, 'keep_freed_memory', lambda: False)
        # Compiling takes nearly all of the time.
        jax.config.update('jax_disable_most_optimizations', True)
        yield
        jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def sandbox(data, tmp_path_factory):
    """A folder with stand-ins for the data, images and files that the documents name."""
    folder = tmp_path_factory.mktemp('sandbox')
    raw = data.parent / 'raw'
    links = {'data/scenes': data, 'data/scenes_raw': raw, 'docs': ROOT / 'docs'}
    for split in ('train', 'val'):
        links[f'{split}2017'] = raw / split / 'images'
        links[f'panoptic_{split}2017'] = raw / split / f'panoptic_{split}'
        links[f'panoptic_{split}2017.json'] = raw / split / f'panoptic_{split}.json'
    for name, target in links.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(target)
    (folder / 'photos').mkdir()
    (folder / 'masks').mkdir()
    rng = np.random.default_rng(0)
    for name in 'abc':
        image = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / 'photos' / f'{name}.jpg')
        Image.fromarray(image[..., 0] % 2).save(folder / 'masks' / f'{name}.png')
    (folder / 'classes.txt').write_text('background\ncell\n')
    (folder / 'cells').mkdir()
    (folder / 'cells' / 'images').symlink_to(folder / 'photos')
    (folder / 'cells' / 'masks').mkdir()
    for i, name in enumerate('abc'):
        numbers = np.arange(48 * 64).reshape(48, 64) // 500 + i
        Image.fromarray(numbers.astype(np.uint16)).save(folder / 'cells' / 'masks' / f'{name}.png')
    for document in DOCUMENTS:
        for file, text in read_configurations(document).items():
            (folder / file).write_text(text)
    for name in ('scene.jpg', 'a.jpg', 'cells.png', 'cells.tif'):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)).save(folder / name)
    slices = rng.integers(0, 255, (3, 48, 64)).astype(np.uint8)
    tifffile.imwrite(folder / 'volume.tif', slices, photometric='minisblack')
    (folder / 'slices').mkdir()
    for i, one in enumerate(slices):
        Image.fromarray(one).save(folder / 'slices' / f'{i}.png')
    slide = np.repeat(slices[0, ..., None], 3, axis=2)
    tifffile.imwrite(folder / 'slide.tif', slide, photometric='rgb', tile=(16, 16))
    if _HAS_AV:
        with VideoWriter(epath.Path(folder / 'drive.mp4'), (48, 64), Fraction(5)) as writer:
            for i in range(12):
                writer.write(Frame(i / 5, np.roll(slide, i, axis=1)))
    return folder


@pytest.fixture(scope='module')
def runs(sandbox, data, as_a_process):
    """The sandbox with a run of two steps in it, made by the first command of README.md."""
    command = read_commands('README.md')[0]
    assert command.name == 'train' and command.get('workdir') == _WORKDIR
    with contextlib.chdir(sandbox):
        main([command.name, *command.words, *list_tiny_flags(data).values()])
    for name in ('checkpoints', 'metrics.jsonl', 'tensorboard', 'report.json'):
        assert (sandbox / _WORKDIR / name).exists()
    return sandbox


def check_configuration(flags) -> None:
    """Loads the configuration of parsed flags, if they name one."""
    if getattr(flags, 'config', None):
        Experiment.from_config(load_config(flags.config, flags.config_overrides))


@pytest.mark.parametrize('name', DOCUMENTS)
def test_commands_are_accepted(name, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    commands = read_commands(name)
    suggested = [sandbox / c.get('out') for c in commands if c.name == 'suggest']
    for file in suggested:
        file.write_text('from configs.scenes import get_config\n')
    for command in commands:
        module = importlib.import_module(f'pdl_jax.commands.{COMMANDS[command.name]}')
        monkeypatch.setattr(module, 'run', check_configuration)
        with explained(command):
            main([command.name, *command.words])
    for file in suggested:
        file.unlink()


def test_every_command_is_documented():
    assert {c.name for name in DOCUMENTS for c in read_commands(name)} == set(COMMANDS)


@pytest.mark.parametrize('line', ['pdl_jax paint a.jpg', 'python -m pdl_jax.predict', 'ls runs'])
def test_unknown_commands_are_noticed(line):
    with pytest.raises(ValueError, match='no rule for the command'):
        parse_command(line)


@pytest.mark.slow
@pytest.mark.parametrize('name', DOCUMENTS)
def test_commands_run(name, runs, data, seen, monkeypatch):
    monkeypatch.chdir(runs)
    for command in read_commands(name):
        if not find_obstacle(command):
            with explained(command):
                run_tiny(command, data, seen, monkeypatch)


@pytest.fixture(scope='module')
def seen() -> set[str]:
    """The commands that have run, which no document runs again."""
    return set()


def run_tiny(command: Command, data: pathlib.Path, seen: set[str], monkeypatch) -> None:
    """Runs a command with fewer steps, a smaller network and stand-ins, unless it was seen."""
    words = [*command.words]
    if command.name == 'train' and '--mode=evaluate' not in words:
        # Made tiny, all of them are the one that has run.
        stand_in(command.get('workdir'))
        return
    if command.name in ('train', 'evaluate', 'predict', 'video', 'report', 'pack', 'export'):
        run = command.get('checkpoint') or command.get('workdir')
        stand_in(run)
        words = [word.replace(f'={run}', f'={_WORKDIR}') for word in words]
        for word in command.words:
            # Those of an ensemble.
            if word.startswith('--checkpoint='):
                stand_in(word.partition('=')[2])
        if command.get('compare'):
            stand_in(command.get('compare'))
    if command.name != 'predict' and command.get('config'):
        # The fields that the command itself sets count.
        tiny_flags = list_tiny_flags(data)
        words += [flag for key, flag in tiny_flags.items() if not command.get(f'config.{key}')]
    if command.name == 'plan' and '--compare' not in command.words:
        words.append('--programs=postprocess')
        monkeypatch.setattr(jax, 'devices', _list_devices)
    if command.name == 'prepare':
        words.append('--num_processes=0')
    key = shlex.join([command.name, *words])
    if key not in seen:
        main([command.name, *(part for word in words for part in expand(word))])
    seen.add(key)


def stand_in(path: str) -> None:
    """Puts the tiny run where a document has another one."""
    if not pathlib.Path(path).exists():
        pathlib.Path(path).symlink_to(pathlib.Path(_WORKDIR).resolve())


def expand(word: str) -> list[str]:
    """Expands a pattern as the shell does if it is no part of a flag, where patterns are quoted."""
    is_pattern = '*' in word and not word.startswith('--')
    return sorted(glob.glob(word)) if is_pattern else [word]


@contextlib.contextmanager
def explained(command: Command):
    """Names the command that fails."""
    try:
        yield
    except SystemExit as error:
        assert not error.code, f'{command}: status {error.code}'
    except Exception as error:
        raise AssertionError(f'{command}: {error!r}') from error


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().split()) <= 900


@pytest.mark.parametrize('name', PAGES)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text()
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        path, _, anchor = target.partition('#')
        if re.match(r'[a-z]+:', path):
            continue
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f'{name} links to {target}, which does not exist'
        if anchor:
            assert anchor in list_anchors(file), f'{name} links to {target}: no such heading'


def list_anchors(file: pathlib.Path) -> set[str]:
    """Lists the anchors of the headings of a page, as GitHub names them."""
    headings = re.findall(r'^#+ (.*)', file.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('name', [name for name in PAGES if name != 'CHANGELOG.md'])
def test_named_files_exist(name):
    pattern = r'`((?:pdl_jax|tests|configs|docs|benchmarks|launch)/[\w/.]*?)(?: [^`]*)?`'
    for path in re.findall(pattern, (ROOT / name).read_text()):
        assert (ROOT / path).exists(), f'{name} names {path}, which does not exist'


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in DOCUMENTS if read_configurations(name)])
def test_code_of_configurations_is_part_of_the_train_step(name, sandbox, data, monkeypatch):
    monkeypatch.chdir(sandbox)
    source = open_split(data, 'train')
    for file in read_configurations(name):
        config = load_config(file)
        experiment = Experiment.from_config(config)
        if not list_own_code(config.to_dict()):
            continue
        system = experiment.make_system(source.spec.label_format)
        options = make_step_options(experiment)
        label_format = source.spec.label_format

        def step(rng, batch, system=system, options=options, label_format=label_format):
            samples = make_training_samples(batch, 0, label_format=label_format, options=options)
            return system.loss(system.init(rng), samples, rng=rng)

        with contextlib.closing(
            make_train_iterator(source, batch_size=2, canvas_size=(48, 64), seed=0)
        ) as batches:
            loss, (terms, _) = jax.eval_shape(step, jax.random.key(0), next(batches))
        assert loss.shape == ()
        assert {extra.partition(':')[2] for extra in config.loss.extra} <= set(terms)


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in DOCUMENTS if read_programs(name)])
def test_programs_run(name, runs, data, monkeypatch):
    if name == 'docs/video.md':
        pytest.importorskip('av', reason="needs PyAV: pip install 'pdl_jax[video]'")
    monkeypatch.chdir(runs)
    flags = [f for key, f in list_tiny_flags(data).items() if key != 'train.num_steps']

    def load_tiny_config(file, overrides=()):
        return load_config(file, [*flags, *overrides, '--config.train.num_steps=2'])

    monkeypatch.setattr(config_file, 'load_config', load_tiny_config)
    image = np.zeros((48, 64, 3), np.uint8)
    # What a page says of the reader's own values in words.
    namespace = {'image': image, 'images': np.zeros((1, 65, 65, 3), np.float32)}
    for i, block in enumerate(read_programs(name)):
        for run in re.findall(r"load\('([\w/]+)'", block):
            stand_in(run)
        exec(compile(block, f'{name}, program {i}', 'exec'), namespace)
