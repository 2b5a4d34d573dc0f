"""Searches by the command: students learn from a teacher, files and pages, and cells."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.commands.config_file import load_config
from pdl_jax.data.prepare import prepare_split
from pdl_jax.data.readers import image_folder
from pdl_jax.data.records import open_split
from pdl_jax.experiment import Experiment
from pdl_jax.models.backbones.mobile_blocks import BlockGroup
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.search import block_space
from pdl_jax.search.backbone_students import BackboneStudents, set_model_field
from pdl_jax.search.block_space import BlockSpace, Stage
from pdl_jax.search.course import Course
from pdl_jax.search.latency import measure_milliseconds
from pdl_jax.search.memory import draw_batches, hold_out, load_images
from pdl_jax.search.options import SearchOptions
from pdl_jax.search.student import StudentFile
from pdl_jax.training.distillation import Teacher
from pdl_jax.training.optim import make_optimizer, make_schedule
from pdl_jax.training.program import make_step_options
from pdl_jax.training.step import init_state, make_train_step
from tests import toy_backbone
from tests.systems.test_classification import write_colors

TINY = BlockSpace(
    BlockGroup('cn', 1, 3, 2, 1, 8, has_skip=False),
    (Stage(8, (1, 2), 2),),
    (('cn', 1), ('ds', 1)),
    kernel_sizes=(3,),
    squeeze_excite=(False,),
    skips=(False,),
    width_factors=(1.0, 2.0),
)
ARCHITECTURE = 'cn_r1_k3_s2_c8_noskip,cn_r1_k3_s2_c8_noskip'
FIELDS = {
    'data.scenes.num_train': 0,
    'data.num_classes': 3,
    'model.output_stride': 4,
    'augment.crop_height_px': 16,
    'augment.crop_width_px': 16,
    'augment.resize_min_px': 16,
    # The simulated devices divide a batch of the teacher's.
    'train.batch_size': 8,
    'train.num_steps': 2,
    'evaluate.batch_size': 8,
}
SEARCH = {
    'search.num_students': 3,
    'search.students_per_round': 2,
    'search.num_final': 1,
    'search.final_steps': 3,
}


@pytest.fixture(scope='module')
def colors(tmp_path_factory):
    folder = tmp_path_factory.mktemp('colors')
    write_colors(folder / 'raw')
    for split in ('train', 'val'):
        source = image_folder.read_split(folder / 'raw', split)
        prepare_split(source, out_dir=folder / 'data', split=split, num_processes=0)
    return folder / 'data'


@pytest.fixture(scope='module')
def teacher(colors, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('teacher')
    own = {'model.backbone': toy_backbone.NAME, 'train.evaluate_every_steps': 0}
    fields = {**FIELDS, **own, 'data.path': colors}
    main(['train', '--config=search_akd', f'--workdir={workdir}', *list_flags(fields)])
    return workdir


def list_flags(fields):
    return [f'--config.{key}={value}' for key, value in fields.items()]


def run_akd(colors, teacher, workdir, **fields):
    fields = {**FIELDS, **SEARCH, 'data.path': colors, 'distill.teacher': teacher, **fields}
    main(['search', '--config=search_akd', f'--workdir={workdir}', *list_flags(fields)])


def test_search_command(colors, teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(block_space.BLOCK_SPACES, 'small', TINY)
    workdir = tmp_path / 'akd'
    run_akd(colors, teacher, workdir)
    printed = capsys.readouterr().out
    students, finals = (
        StudentFile(workdir / f'{n}.jsonl').students for n in ('students', 'finals')
    )
    assert len(students) == 3 and len(finals) == 1
    assert all(0 <= student.accuracy <= 1 for student in students)
    assert f"--config.model.architecture='{finals[0].architecture}'" in printed
    assert students[0].architecture in (workdir / 'search.html').read_text()
    assert (workdir / 'search.svg').read_text().startswith('<svg xmlns=')
    # Multiply-adds are those that the summary of the same network counts.
    fields = {**FIELDS, 'data.path': colors, 'model.architecture': students[0].architecture}
    main(['summary', '--config=search_akd', '--json', *list_flags(fields)])
    assert json.loads(capsys.readouterr().out)['multiply_adds'] == students[0].latency

    def refuse(*_):
        raise AssertionError('a student is trained again')

    before = (workdir / 'students.jsonl').read_bytes()
    monkeypatch.setattr(BackboneStudents, 'evaluate', refuse)
    run_akd(colors, teacher, workdir)
    assert (workdir / 'students.jsonl').read_bytes() == before
    with pytest.raises(SystemExit):
        run_akd(colors, teacher, workdir, **{'search.target_latency': 5.0})
    assert 'search.target_latency was 3000000.0 in the search of' in capsys.readouterr().err


def test_lessons_are_those_of_the_train_step(colors):
    """Crops and outputs of the teacher that are computed apart change nothing."""
    config = load_config('search_akd', list_flags({**FIELDS, 'data.path': colors}))
    experiment = set_model_field(Experiment.from_config(config), 'architecture', ARCHITECTURE)
    source = open_split(colors, 'train')
    images, label_format = load_images(source), source.spec.label_format
    system = experiment.make_system(label_format)
    teacher = Teacher(system, jax.jit(system.init)(jax.random.key(7)))
    order = draw_batches(images.count, 8, 2, 0)
    options, optimizer = make_step_options(experiment), make_optimizer(experiment.optimizer, 2)
    step = jax.jit(
        make_train_step(system, optimizer, make_schedule(experiment.optimizer, 2), options, system)
    )
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        state = jax.jit(lambda: init_state(system, optimizer, options))()
        for rows in order:
            batch = jax.tree.map(lambda x, rows=rows: x[rows], images._asdict())
            state, _ = step(state, batch, teacher.variables)
        course = Course(experiment, label_format, images, teacher)
        # The second student takes the lessons that were kept.
        for _ in range(2):
            found = course.train(system)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                found,
                state.eval_variables,
            )


def test_cells_command(data, tmp_path, capsys):
    fields = {
        'data.path': data,
        'data.scenes.num_train': 0,
        'model.backbone': toy_backbone.NAME,
        'model.semantic_aspp_features': 8,
        'augment.crop_height_px': 33,
        'augment.crop_width_px': 33,
        'train.batch_size': 4,
        'train.num_steps': 2,
        'evaluate.batch_size': 4,
        'search.num_students': 2,
    }
    workdir = tmp_path / 'dpc'
    main(['search', '--config=search_dpc', f'--workdir={workdir}', *list_flags(fields)])
    students = StudentFile(workdir / 'students.jsonl').students
    assert [0 <= student.accuracy <= 1 for student in students] == [True, True]
    printed = capsys.readouterr().out
    assert "--config.model.cell='[{" in printed
    # The ordinary network takes the cell.
    fields = {key: x for key, x in fields.items() if not key.startswith('search.')}
    fields['model.cell'] = students[0].architecture
    main(['summary', '--config=search_dpc', '--json', *list_flags(fields)])
    assert json.loads(capsys.readouterr().out)['multiply_adds'] > students[0].latency


@pytest.mark.parametrize(
    ('config', 'fields', 'message'),
    [
        ('scenes', {}, 'has no section `search`'),
        ('search_akd', {}, 'needs config.distill.teacher'),
        ('search_dpc', {'search.num_final': 1, 'search.final_steps': 1}, 'must be 0 for cells'),
        ('search_akd', {'search.method': 'darts'}, 'must be one of'),
        ('search_akd', {'search.controller.learning_rate': -1.0}, 'must be positive'),
    ],
)
def test_wrong_searches_are_one_line(config, fields, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(['search', f'--config={config}', f'--workdir={tmp_path}', *list_flags(fields)])
    assert message in capsys.readouterr().err


def test_configurations_have_all_fields():
    for name in ('search', 'search_akd', 'search_dpc'):
        SearchOptions.from_dict(load_config(name).to_dict()['search'])
    assert SearchOptions.from_dict(load_config('search').to_dict()['search']) == SearchOptions()
    with pytest.raises(ValueError, match="did you mean 'method'"):
        SearchOptions.from_dict({'metod': 'akd'})


def test_latency_is_measured():
    assert 0 < measure_milliseconds(jnp.matmul, jnp.ones((64, 64)), jnp.ones((64, 64))) < 1e4


def test_images_are_held_out(colors):
    images = load_images(open_split(colors, 'train'))
    rest, held = hold_out(images, 0.25, 0)
    assert (rest.count, held.count) == (18, 6)
    sums = sorted(int(x.sum()) for part in (rest, held) for x in part.image)
    assert sums == sorted(int(x.sum()) for x in images.image)
    with pytest.raises(ValueError, match=r'holdout_share \(=0.0\) leaves 0 of 24 images'):
        hold_out(images, 0.0, 0)
    rows = draw_batches(10, 4, 5, 0)
    assert rows.shape == (5, 4) and (np.bincount(rows.ravel()) == 2).all()
