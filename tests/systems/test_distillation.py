"""A teacher within the train step: nothing reaches it, and every system learns from its like."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pdl_jax.commands.config_file import load_config
from pdl_jax.experiment import Experiment
from pdl_jax.losses.distillation import DistillationOptions, compare_lessons
from pdl_jax.runtime.sharding import make_mesh, replicated, shard_batch
from pdl_jax.systems.distillation import Distillation
from pdl_jax.systems.system import Samples
from pdl_jax.training.step import StepOptions, init_state, make_train_step
from pdl_jax.typing import LabelFormat
from tests import tiny, toy_backbone
from tests.process_group import BARE_NETWORK

FORMAT = LabelFormat(4, (2, 3), 255, 100)
TERMS = {'semantic', 'center', 'offset'}
TINY = {
    **tiny.overrides(pathlib.Path('unused')),
    **BARE_NETWORK,
    'model.backbone': toy_backbone.NAME,
}
# These programs run once: compiling costs more than what it would save.
QUICK = {'xla_backend_optimization_level': 0}


def make_system(name, **fields):
    config = load_config(name)
    config.data.path = 'unused'
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in fields.items()})
    return Experiment.from_config(config).system.make_system(FORMAT)


def make_tiny(**fields):
    config = load_config('scenes')
    config.update_from_flattened_dict(TINY)
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in fields.items()})
    return Experiment.from_config(config).system.make_system(FORMAT)


def draw_outputs(**shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


DEEPERLAB = {'short': (2, 33, 33, 10), 'middle': (2, 33, 33, 16), 'long': (2, 33, 33, 10)}
OUTPUTS = {
    'scenes': {'semantic': (2, 9, 9, 4), 'center': (2, 9, 9, 1), 'offset': (2, 9, 9, 2)},
    'scenes_semantic': {'semantic': (2, 9, 9, 4)},
    'scenes_classes': {'semantic': (2, 1, 1, 4)},
    'scenes_deeperlab': {'semantic': (2, 9, 9, 4), 'keypoint': (2, 33, 33, 5), **DEEPERLAB},
    'scenes_kmax': {'mask_logits': (2, 9, 9, 6), 'class_logits': (2, 6, 5)},
}


@pytest.mark.parametrize('name', OUTPUTS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    system = make_system(name)
    outputs = draw_outputs(**OUTPUTS[name])
    if name == 'scenes_kmax':
        outputs = jax.tree.map(lambda x: 6 * x, outputs)
    lessons = system.lessons(outputs, size=(33, 33))
    terms = compare_lessons(lessons, lessons, temperature=2.0)
    assert set(OUTPUTS[name]) <= set(terms) or name == 'scenes_kmax'
    for value in terms.values():
        assert float(value) == pytest.approx(0, abs=1e-4)


def draw_samples(num_images=8):
    rng = np.random.default_rng(0)
    blocks = rng.choice([0, 100, 201, 202, 301, 25500], size=(num_images, 4, 4))
    panoptic = np.repeat(np.repeat(blocks, 9, 1), 9, 2)[:, :33, :33]
    return Samples(
        rng.normal(size=(num_images, 33, 33, 3)).astype(np.float32), panoptic.astype(np.int32)
    )


def test_no_gradient_reaches_the_teacher_and_the_student_feels_it():
    student, teacher = make_tiny(), make_tiny(model__output_stride=8)
    own, taught = (jax.jit(s.init)(jax.random.key(i)) for i, s in enumerate((student, teacher)))
    options = DistillationOptions('x', temperature=2.0, weight=1.0)

    def compute(params, taught_params):
        variables = {**taught, 'params': taught_params}
        distillation = Distillation(teacher, variables, options)
        loss, (terms, _) = student.loss(
            {**own, 'params': params},
            draw_samples(2),
            rng=jax.random.key(0),
            distillation=distillation,
        )
        return loss, terms

    gradient = jax.grad(compute, argnums=(0, 1), has_aux=True)
    gradient = jax.jit(gradient, compiler_options=QUICK)
    (felt, reached), terms = gradient(own['params'], taught['params'])
    assert optax.global_norm(reached) == 0
    assert optax.global_norm(felt) > 0.01
    # With a weight of 1 the labels do not count.
    assert {f'distill_{name}' for name in TERMS} <= set(terms)
    assert all(terms[name] == 0 for name in TERMS)


def test_terms_that_are_not_there_are_named():
    student, teacher = make_tiny(), make_tiny(model__has_instances=False)
    outputs = draw_outputs(**OUTPUTS['scenes'])
    images = jnp.zeros((2, 33, 33, 3))
    abstract = jax.eval_shape(teacher.init, jax.random.key(0))

    def compare(variables, terms):
        options = DistillationOptions('x', terms=terms)
        return Distillation(teacher, variables, options).compare(student, outputs, images)

    assert set(jax.eval_shape(lambda v: compare(v, ()), abstract)) == {'semantic'}
    with pytest.raises(ValueError, match=r"config.distill.terms \(=\('center',\)\) may hold"):
        jax.eval_shape(lambda v: compare(v, ('center',)), abstract)


def run_step(mesh, accumulation_steps=1):
    """Takes one step of plain SGD; returns its scalars and the change of the parameters."""
    system = make_tiny(
        model__has_instances=False,
        model__dropout_rate=0.0,
        model__freeze_backbone_norm=True,
        loss__top_k_fraction=1.0,
    )
    options = StepOptions(
        augment=dataclasses.replace(StepOptions().augment, crop_size=(33, 33)),
        accumulation_steps=accumulation_steps,
        distill=DistillationOptions('x', temperature=2.0),
    )
    optimizer = optax.sgd(1.0)
    step = make_train_step(system, optimizer, optax.constant_schedule(1.0), options, system)
    samples = draw_samples()
    batch = {
        'image': (60 * samples.image + 128).clip(0, 255).astype(np.uint8),
        'panoptic': samples.panoptic,
        'size': np.full((8, 2), 33, np.int32),
    }
    with jax.set_mesh(mesh):
        # Logits far from those of the student.
        taught = jax.tree.map(lambda x: 5 * x, jax.jit(system.init)(jax.random.key(7)))
        state = jax.jit(lambda: init_state(system, optimizer, options))()
        before = state.params
        state, scalars = jax.jit(step, out_shardings=replicated(mesh), compiler_options=QUICK)(
            state, shard_batch(batch, mesh), taught
        )
        return jax.device_get((scalars, jax.tree.map(jnp.subtract, state.params, before)))


def test_eight_devices_equal_one_and_parts_of_a_batch_learn_alike():
    scalars, change = run_step(make_mesh(devices=jax.devices()[:1]))
    sharded, found = run_step(make_mesh(4, 2))
    np.testing.assert_allclose(sharded['loss'], scalars['loss'], rtol=1e-5)
    difference = optax.global_norm(jax.tree.map(np.subtract, found, change))
    assert difference < 1e-4 * optax.global_norm(change)
    # BatchNorm behind the backbone normalises each part by itself.
    parts, _ = run_step(make_mesh(devices=jax.devices()[:1]), accumulation_steps=2)
    for name in ('loss', 'loss_semantic', 'loss_distill_semantic'):
        np.testing.assert_allclose(parts[name], scalars[name], rtol=1e-3)
