"""Classifiers train, evaluate and predict by the ordinary commands, and begin other networks."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pdl_jax
from pdl_jax.commands.command_line import main
from pdl_jax.commands.config_file import load_config
from pdl_jax.data.prepare import prepare_split
from pdl_jax.data.readers import image_folder
from pdl_jax.experiment import Experiment
from pdl_jax.ops.placement import split_rows
from pdl_jax.presets import find_preset
from pdl_jax.runtime.sharding import make_mesh, replicated, shard_batch
from pdl_jax.storage.checkpoint import find_checkpoint, read_structure
from pdl_jax.systems.classification import ClassificationOptions
from pdl_jax.systems.system import Samples
from pdl_jax.training.initialize import load_initial_variables
from pdl_jax.typing import LabelFormat
from tests import toy_backbone

FORMAT = LabelFormat(3, (), 255, 10)
NAMES = ('blue', 'green', 'red')
FLAGS = [
    f'--config.model.backbone={toy_backbone.NAME}',
    '--config.data.scenes.num_train=0',
    '--config.data.num_classes=3',
    '--config.augment.crop_height_px=32',
    '--config.augment.crop_width_px=32',
    '--config.augment.resize_min_px=32',
    '--config.optimizer.warmup_steps=0',
    '--config.optimizer.learning_rate=0.02',
    '--config.optimizer.ema_decay=0.5',
    '--config.targets.mixup_alpha=0.2',
    '--config.train.batch_size=8',
    '--config.train.num_steps=40',
    '--config.train.picture_every_steps=40',
    '--config.train.evaluate_every_steps=20',
    '--config.evaluate.batch_size=8',
    '--config.evaluate.with_loss=True',
]


def write_colors(folder: pathlib.Path) -> None:
    """Writes images of several sizes in the colour of their class."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 3)):
        for i in range(3 * count):
            name = NAMES[i % 3]
            size = (int(rng.integers(33, 60)), int(rng.integers(33, 60)))
            image = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
            image[..., 2 - i % 3] += 100
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / split / name / f'{split}_{i}.png')


@pytest.fixture(scope='module')
def colors(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('colors')
    write_colors(folder / 'raw')
    for split in ('train', 'val'):
        source = image_folder.read_split(folder / 'raw', split)
        prepare_split(source, out_dir=folder / 'data', split=split, num_processes=0)
    return folder


@pytest.fixture(scope='module')
def workdir(colors, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('work') / 'run'
    flags = [*FLAGS, f'--config.data.path={colors}/data', f'--workdir={path}']
    main(['train', '--config=scenes_classes', *flags])
    return path


def test_it_learns_and_reports_accuracy(workdir):
    report = json.loads((workdir / 'report.json').read_text())
    assert report['top1'] > 0.8 and report['top5'] == 1.0 and report['pq'] is None
    assert set(report['accuracy_per_class']) == set(NAMES)
    assert report['loss']['total'] == pytest.approx(report['loss']['semantic'])
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if 'eval/top1' in line] == [20, 40]
    page = (workdir / 'report.html').read_text()
    assert 'top-1' in page
    metrics = json.loads((workdir / 'checkpoints/40/metrics/metrics').read_text())
    assert metrics['score'] == report['top1']


def test_it_is_evaluated_by_its_checkpoint_alone(workdir, tmp_path):
    main(['evaluate', f'--checkpoint={workdir}', f'--workdir={tmp_path}'])
    ours = json.loads((tmp_path / 'report.json').read_text())
    assert ours == json.loads((workdir / 'report.json').read_text())


def test_it_predicts_the_class_and_its_probability(workdir, colors, tmp_path):
    folder = colors / 'raw' / 'val' / 'red'
    main(['predict', f'--checkpoint={workdir}', f'--images={folder}', f'--output={tmp_path}'])
    predictor = pdl_jax.load(str(workdir))
    for path in folder.iterdir():
        result = predictor(str(path))
        with Image.open(path) as image:
            assert result.panoptic.shape == image.size[::-1]
        (segment,) = result.segments
        assert segment.class_name in NAMES and 1 / 3 <= segment.score <= 1
        (listed,) = json.loads((tmp_path / f'{path.stem}.json').read_text())['segments']
        assert listed['class_name'] == segment.class_name
    unsure = pdl_jax.load(str(workdir), min_score=1.0)(str(path))
    assert not unsure.segments


def test_its_encoder_begins_another_network(workdir):
    config = load_config('scenes')
    config.model.backbone = toy_backbone.NAME
    system = Experiment.from_config(config).system.make_system(FORMAT)
    variables = jax.eval_shape(system.init, jax.random.key(0))
    loaded, report = load_initial_variables(str(workdir), variables)
    names = {name.split('/')[1] for name in report.loaded}
    assert names == {'backbone'} and set(loaded['params']) == {'backbone'}
    assert (
        not report.find_differences(Experiment.from_config(config).system.describe_weights())
        or report.expected['backbone'] == toy_backbone.NAME
    )


@pytest.fixture(scope='module')
def student(workdir, colors, tmp_path_factory) -> pathlib.Path:
    """A run of two steps that learns from the other one."""
    path = tmp_path_factory.mktemp('work') / 'student'
    own = ('--config.train.num_steps=2', '--config.train.picture_every_steps=0')
    flags = [*FLAGS, f'--config.data.path={colors}/data', *own, f'--workdir={path}']
    main(['train', '--config=scenes_classes', *flags, f'--config.distill.teacher={workdir}'])
    return path


def test_it_teaches_another_one(student, workdir):
    lines = [json.loads(line) for line in (student / 'metrics.jsonl').read_text().splitlines()]
    (losses,) = [line for line in lines if 'loss_distill_semantic' in line]
    terms = losses['loss_semantic'] + losses['loss_distill_semantic']
    assert losses['loss'] == pytest.approx(terms, rel=1e-4)
    # The checkpoint holds the student alone.
    structures = [read_structure(find_checkpoint(path)) for path in (student, workdir)]
    assert structures[0] == structures[1]


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'distill.teacher': 'NUCLEI'}, 'choose a teacher of the same classes'),
        ({'model.normalization': 'imagenet'}, 'was trained with config.model.normalization='),
        ({'distill.teacher': 'none'}, 'none'),
        ({'distill.terms': "('masks',)"}, "config.distill.terms (=('masks',)) may hold"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(fields, message, workdir, colors, tmp_path, capsys):
    nuclei = pathlib.Path(pdl_jax.__file__).parent / 'storage' / 'weights' / 'nuclei'
    fields = {'data.path': f'{colors}/data', 'distill.teacher': workdir, **fields}
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    flags = [flag.replace('NUCLEI', str(nuclei)) for flag in flags]
    with pytest.raises(SystemExit):
        main(['train', '--config=scenes_classes', f'--workdir={tmp_path}/run', *FLAGS, *flags])
    assert message in capsys.readouterr().err


def make_system(**fields):
    preset = find_preset('imagenet/resnet50')
    targets = {'targets': {'label_smoothing': 0.1, 'mixup_alpha': 0.3}}
    sections = {'model': {'backbone': toy_backbone.NAME, **fields}, **targets}
    return ClassificationOptions.from_sections(preset, sections, (32, 32)).make_system(FORMAT)


def compute_loss(mesh, system, variables, samples):
    def compute(params, samples):
        loss, (terms, updates) = system.loss(
            {**variables, 'params': params}, split_rows(samples), rng=jax.random.key(1)
        )
        return loss, (terms, updates)

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(compute, has_aux=True), out_shardings=replicated(mesh))
        return jax.device_get(step(variables['params'], shard_batch(samples, mesh)))


def test_eight_devices_equal_one():
    system = make_system()
    rng = np.random.default_rng(0)
    samples = Samples(
        rng.normal(size=(8, 32, 32, 3)).astype(np.float32),
        np.broadcast_to(10 * (np.arange(8) % 3)[:, None, None], (8, 32, 32)).astype(np.int32),
    )
    variables = system.init(jax.random.key(0))
    one = compute_loss(make_mesh(devices=jax.devices()[:1]), system, variables, samples)
    many = compute_loss(make_mesh(4, 2), system, variables, samples)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), one, many)


def test_maps_are_constant_inside_of_the_images_and_void_outside():
    system = make_system()
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])[:, None, None]
    maps = system.label_original_maps(
        {'semantic': logits},
        size=(32, 32),
        image_size=jnp.array([[32, 40], [32, 32]]),
        original_size=jnp.array([[3, 4], [2, 2]]),
        canvas=(3, 5),
    )
    assert np.unique(maps.panoptic[0, :, :4]).tolist() == [10]
    assert np.unique(maps.panoptic[0, :, 4:]).tolist() == [2550]
    assert np.unique(maps.panoptic[1, :2, :2]).tolist() == [0]
    np.testing.assert_allclose(maps.class_probability[0, 0, 0], jax.nn.softmax(logits[0])[0, 0, 1])


def test_options_list_only_fields_of_a_classifier():
    options = make_system().options
    again = ClassificationOptions.from_sections(
        find_preset('imagenet/resnet50'), options.to_sections(), (32, 32)
    )
    assert again == options
    with pytest.raises(ValueError, match='config.model.aspp_rates is unknown'):
        make_system(aspp_rates=(1, 2))


@pytest.mark.parametrize(
    ('config', 'fields', 'message'),
    [
        (
            'scenes_classes',
            {'augment.convention': 'deeplab2', 'augment.resize_min_px': 0},
            "convention (='deeplab2') does not fit",
        ),
        ('scenes', {'augment.convention': 'torchvision'}, 'must hold the crop'),
        ('scenes_classes', {'train.early_stopping_evals': 2}, ''),
        (
            'scenes_classes',
            {'train.early_stopping_evals': 2, 'train.early_stopping_metric': 'miou'},
            "(='miou') needs a network that labels pixels",
        ),
        (
            'scenes',
            {'train.early_stopping_evals': 2, 'train.early_stopping_metric': 'top1'},
            "(='top1') needs a classifier",
        ),
        ('scenes_classes', {'optimizer.schedule': 'step'}, 'decay_at_steps (=()) must be'),
        ('scenes_classes', {'data.scenes.width_px': 32}, 'must be width_px'),
    ],
)
def test_what_does_not_fit_is_named(config, fields, message):
    config = load_config(config)
    config.update_from_flattened_dict(fields)
    if not message:
        assert Experiment.from_config(config).system.labels_images
        return
    with pytest.raises(ValueError) as error:
        Experiment.from_config(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    'config', ['classification', 'imagenet', 'imagenet_mobilenet_v3', 'cifar10', 'scenes_classes']
)
def test_configurations_survive_their_own_listing(config):
    config = load_config(config)
    config.data.path = 'data'
    experiment = Experiment.from_config(config)
    assert experiment.system.name == 'classification'
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
