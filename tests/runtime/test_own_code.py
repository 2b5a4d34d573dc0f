"""Code of the user's: found beside the configuration, and never run on the word of a checkpoint."""

import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.commands.config_file import load_config
from pdl_jax.experiment import Experiment
from pdl_jax.losses.panoptic_deeplab import LossOptions
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.runtime import own_code
from pdl_jax.runtime.own_code import find_own_code, import_own_code, list_own_code
from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.systems.semantic_deeplab import SemanticDeepLabOptions
from pdl_jax.systems.system import Samples
from pdl_jax.training.step import augment_further
from pdl_jax.typing import LabelFormat
from tests import tiny

CONFIG = """
from configs import scenes

def get_config():
    config = scenes.get_config()
    config.model.backbone = 'street_nets:make_backbone'
    config.loss.extra = ('street_losses:dice', 'street_losses:nothing')
    config.augment.extra = ('street_nets:cutout',)
    config.augment.vertical_flip_probability = 0.5
    config.augment.max_rotation_degrees = 10.0
    config.augment.brightness = 0.4
    config.loss.class_weights = ('from_frequencies',)
    config.evaluate.with_loss = True
    return config
"""
NETS = """
import flax.linen as nn
import jax
import jax.numpy as jnp

from street_widths import WIDTH


class Net(nn.Module):
    output_stride: int
    options: object

    @nn.compact
    def __call__(self, x, *, train):
        features = {}
        for stride in (2, 4, 8, 16):
            step = 2 if stride <= self.output_stride else 1
            x = nn.relu(nn.Conv(WIDTH, (3, 3), strides=step, padding=1)(x))
            features[f'stride{stride}'] = x
        return {**features, 'last': x}


def make_backbone(output_stride, options, width_multiplier, name):
    return Net(output_stride, options, name=name)


def cutout(rng, image, panoptic, *, void_label):
    start = jax.random.randint(rng, (2,), 0, 20)
    rows, columns = jnp.indices(panoptic.shape)
    hole = (rows >= start[0]) & (rows < start[0] + 8) & (columns >= start[1])
    return jnp.where(hole[..., None], 0.0, image), jnp.where(hole, void_label, panoptic)
"""
LOSSES = """
import jax
import jax.numpy as jnp


def dice(outputs, targets, *, label_format):
    assert set(outputs) == {'semantic', 'center', 'offset'}
    probability = jax.nn.softmax(outputs['semantic'])
    truth = jax.nn.one_hot(targets['semantic'], label_format.num_classes)
    overlap = jnp.sum(probability * truth, axis=(1, 2))
    return jnp.mean(1 - 2 * overlap / (1 + jnp.sum(probability + truth, axis=(1, 2))))


def nothing(outputs, targets, *, label_format):
    return jnp.float32(0)
"""
FUNCTIONS = {
    'config.model.backbone': 'street_nets:make_backbone',
    'config.loss.extra': 'street_losses:dice',
    'config.augment.extra': 'street_nets:cutout',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
    """A configuration and the modules beside it."""
    path = tmp_path_factory.mktemp('street')
    (path / 'street.py').write_text(CONFIG)
    (path / 'street_nets.py').write_text(NETS)
    (path / 'street_losses.py').write_text(LOSSES)
    (path / 'street_widths.py').write_text('WIDTH = 8\n')
    return path


@pytest.fixture
def nothing_imported(monkeypatch):
    """The state of a new process."""
    monkeypatch.setattr(own_code, '_FUNCTIONS', {})
    for name in [name for name in sys.modules if name.startswith('street')]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture(scope='module')
def workdir(folder, data, tmp_path_factory) -> pathlib.Path:
    """A run of two steps by the ordinary command."""
    path = tmp_path_factory.mktemp('own_run') / 'run'
    fields = {
        **tiny.overrides(data),
        'train.num_steps': 2,
        'train.accumulation_steps': 1,
        'evaluate.batch_size': 8,
    }
    flags = [f'--config.{key}={value}' for key, value in fields.items()]
    main(['train', f'--config={folder}/street.py', f'--workdir={path}', *flags])
    return path


def _read_lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_backbone_loss_and_augmentation_of_ones_own_train(workdir):
    train = [line for line in _read_lines(workdir) if 'loss' in line]
    assert [line['step'] for line in train] == [1, 2]
    names = ('semantic', 'center', 'offset', 'dice', 'nothing')
    for line in train:
        terms = [line[f'loss_{name}'] for name in names]
        np.testing.assert_allclose(line['loss'], sum(terms), rtol=1e-5)
        assert 0 < line['loss_dice'] < 1
    (evaluation,) = [line for line in _read_lines(workdir) if 'eval/loss' in line]
    assert 0 < evaluation['eval/loss_dice'] < 1
    # The weights of the classes are stored as numbers.
    config = read_description(find_checkpoint(workdir))['config']
    weights = config['loss']['class_weights']
    assert len(weights) == 14 and min(weights) < 0.9 and max(weights) > 1.1
    assert config['model']['backbone'] == 'street_nets:make_backbone'
    terms = [evaluation[f'eval/loss_{name}'] for name in names]
    np.testing.assert_allclose(evaluation['eval/loss'], sum(terms), rtol=1e-5)


@pytest.mark.slow
def test_checkpoint_runs_no_code_unless_it_is_trusted(
    workdir, folder, tmp_path, monkeypatch, nothing_imported, capsys
):
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / 'a.png')
    # Whoever runs this stands in a folder with a module of that name.
    for file in ('street_losses.py', 'street_widths.py'):
        shutil.copy(folder / file, tmp_path)
    (tmp_path / 'street_nets.py').write_text(f'open("executed", "w")\n{NETS}')
    monkeypatch.chdir(tmp_path)
    predict = ['predict', f'--checkpoint={workdir}', '--images=a.png', '--output=out']
    evaluate = ['evaluate', f'--checkpoint={workdir}', '--workdir=scores']
    for command in (predict, evaluate):
        with pytest.raises(SystemExit) as exit:
            main(command)
        assert exit.value.code == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "error: config.model.backbone (='street_nets:make_backbone') is code" in error
        assert '--allow_code' in error
    assert not (tmp_path / 'executed').exists() and 'street_nets' not in sys.modules
    main([*predict, '--allow_code'])
    assert (tmp_path / 'executed').exists() and (tmp_path / 'out' / 'a.json').exists()
    # A prediction needs the backbone only.
    assert 'street_losses' not in sys.modules
    main([*evaluate, '--allow_code'])
    assert json.loads((tmp_path / 'scores' / 'report.json').read_text()) == json.loads(
        (workdir / 'report.json').read_text()
    )


@pytest.mark.slow
def test_checkpoint_without_its_module_is_one_clear_line(
    workdir, tmp_path, monkeypatch, nothing_imported
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'there is no module street_nets: put street_nets.py'):
        Predictor.load(str(workdir), allow_code=True)


def test_a_configuration_imports_from_its_own_folder(folder, nothing_imported, tmp_path):
    config = load_config(f'{folder}/street.py')
    for field, name in FUNCTIONS.items():
        assert (field, name) in list_own_code(config.to_dict())
        assert find_own_code(field, name).__name__ == name.partition(':')[2]
    # Others of the same name beside another configuration take their place.
    other = tmp_path / 'other'
    shutil.copytree(folder, other)
    (other / 'street_losses.py').write_text('def dice(): return "other"\nnothing = dice\n')
    load_config(f'{other}/street.py')
    assert find_own_code('config.loss.extra', 'street_losses:dice')() == 'other'


def test_summary_and_stored_experiment_know_it(folder, nothing_imported, capsys):
    config = load_config(f'{folder}/street.py')
    experiment = Experiment.from_config(config)
    assert Experiment.from_dict(experiment.to_json()) == experiment
    main(['summary', f'--config={folder}/street.py', '--num_classes=5', '--size=65x65'])
    assert 'backbone' in capsys.readouterr().out
    # The description of a checkpoint alone imports nothing, whatever it names.
    own_code._FUNCTIONS.clear()
    with pytest.raises(ValueError, match=r'config.model.backbone .* is code'):
        Experiment.from_dict(experiment.to_json())


def test_hostile_descriptions_import_nothing(monkeypatch):
    def fail(*_):
        raise AssertionError('imported')

    monkeypatch.setattr(own_code, '_import_module', fail)
    stored = tiny.make_experiment('unused').to_json()
    for name in ('os:system', 'subprocess:run', 'a.b.c:d'):
        stored['model']['backbone'] = name
        with pytest.raises(ValueError, match='is code that does not come with pdl_jax'):
            Experiment.from_dict(stored)
    stored = tiny.make_experiment('unused').to_json()
    for section in ('loss', 'augment'):
        for extra in (
            'os:system',
            ['os'],
            [3],
            [['os:system']],
            {'a': 1},
            ['a:b', 'c:b'],
            ['a:b()'],
        ):
            broken = {**stored, section: {**stored[section], 'extra': extra}}
            with pytest.raises(ValueError, match=rf'config.{section}.extra'):
                Experiment.from_dict(broken)
            list_own_code(broken)
    assert list_own_code({'model': 3, 'loss': None, 'augment': {'extra': 5}}) == []


@pytest.mark.parametrize(
    ('name', 'source', 'message'),
    [
        ('street_a:f', None, r'there is no module street_a: put street_a.py into'),
        ('street_b:make', 'def made(): pass', r"has no function make; did you mean 'made'"),
        ('street_c:f', 'import nothing_like_this', "No module named 'nothing_like_this'"),
        ('street_d:f', 'f = 1 +', r'street_d.py cannot be imported: SyntaxError'),
        ('street_e:f', 'raise SystemExit(3)', r'street_e.py cannot be imported: SystemExit: 3'),
        ('street_g:f', 'f = 3', r'has no function f'),
        ('json:f', 'def f(): pass', r'json.py has the name of a module in use: rename it'),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path, nothing_imported, name, source, message):
    if source is not None:
        (tmp_path / f'{name.partition(":")[0]}.py').write_text(source)
    with pytest.raises(ValueError, match=message) as error:
        import_own_code([('config.loss.extra', name)], [tmp_path])
    assert f'config.loss.extra (={name!r})' in str(error.value)
    with pytest.raises(ValueError, match='is code'):
        find_own_code('config.loss.extra', name)


def test_packages_work_too(tmp_path, nothing_imported):
    (tmp_path / 'street_package' / 'parts').mkdir(parents=True)
    (tmp_path / 'street_package' / '__init__.py').write_text('')
    (tmp_path / 'street_package' / 'parts' / '__init__.py').write_text('')
    (tmp_path / 'street_package' / 'parts' / 'losses.py').write_text(
        'from street_package.names import NAME\ndef f(): return NAME'
    )
    (tmp_path / 'street_package' / 'names.py').write_text('NAME = 7')
    path = list(sys.path)
    import_own_code([('config.loss.extra', 'street_package.parts.losses:f')], [tmp_path])
    assert find_own_code('', 'street_package.parts.losses:f')() == 7
    assert sys.path == path


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('def f(**_): return 3', r'returned a int: return a flax module'),
        (
            'import flax.linen as nn\ndef f(output_stride): return nn.Dense(3)',
            r"'street_f:f' is called with output_stride, .*, name: got an unexpected keyword",
        ),
    ],
)
def test_backbones_that_are_none_are_named(tmp_path, nothing_imported, source, message):
    (tmp_path / 'street_f.py').write_text(source)
    import_own_code([('config.model.backbone', 'street_f:f')], [tmp_path])
    with pytest.raises(ValueError, match=message):
        tiny.make_experiment('unused', model__backbone='street_f:f')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('return image', r'f must return \(image, panoptic\) .*, not (ArrayImpl|Array)'),
        (
            'return image[:2], panoptic',
            r'float32\[5, 6, 3\], int32\[5, 6\], not float32\[2, 6, 3\]',
        ),
        ('return image, panoptic + 0.5', r'not float32\[5, 6, 3\], float32\[5, 6\]'),
    ],
)
def test_augmentation_that_returns_something_else_is_named(
    tmp_path, nothing_imported, source, message
):
    text = f'def f(rng, image, panoptic, *, void_label):\n    {source}\n'
    (tmp_path / 'street_h.py').write_text(text)
    import_own_code([('config.augment.extra', 'street_h:f')], [tmp_path])
    sample = Samples(jnp.zeros((5, 6, 3)), jnp.zeros((5, 6), jnp.int32))
    with pytest.raises(ValueError, match=message):
        augment_further(jax.random.key(0), sample, ['street_h:f'], void_label=255)


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('def f(outputs, targets, *, label_format): return outputs["semantic"]', r'not float32\['),
        ('def f(outputs, targets, *, label_format): return 3', r'must return f32\[\].*int'),
        ('def semantic(): pass', r'street_i:semantic has the name of another term'),
    ],
)
def test_loss_that_is_none_is_named(tmp_path, nothing_imported, source, message):
    (tmp_path / 'street_i.py').write_text(source)
    name = f'street_i:{source.partition("(")[0][4:]}'
    import_own_code([('config.loss.extra', name)], [tmp_path])
    options = SemanticDeepLabOptions((9, 9), loss=LossOptions(extra=(name,)))
    system = options.make_system(LabelFormat(3, (1,), 255, 10))
    outputs = {'semantic': jnp.zeros((1, 3, 3, 3))}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(system.image_losses, outputs, jnp.zeros((1, 9, 9), jnp.int32))
