"""Networks that halt train, evaluate, predict and draw through the ordinary programs."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.commands.config_file import load_config
from pdl_jax.data.records import open_split
from pdl_jax.evaluation.checkpoint import evaluate_checkpoint
from pdl_jax.evaluation.report import format_report
from pdl_jax.experiment import Experiment
from pdl_jax.metrics.computation_mean import ComputationMean
from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.presets import make_options
from pdl_jax.runtime.own_code import import_own_code
from pdl_jax.storage.config_changes import find_changes
from pdl_jax.systems.computation import Computation, add_ponder_loss
from pdl_jax.systems.system import Samples
from pdl_jax.training.loop import train
from pdl_jax.typing import LabelFormat
from tests import tiny
from tests.convert.compiling import compiling_fast
from tests.process_group import BARE_NETWORK

NAME = f'{__name__}:make_backbone'


def make_backbone(
    *, name, output_stride, options, adaptive_computation='', endpoints='outputs', **_
):
    """Makes the smallest ResNet with a unit that can be skipped in one stage."""
    return ResNet(
        (1, 3, 1, 1),
        block='basic',
        output_stride=output_stride,
        width_multiplier=0.125,
        adaptive_computation=adaptive_computation,
        endpoints=endpoints,
        options=options,
        name=name,
    )


@pytest.fixture(scope='module', autouse=True)
def quick_programs():
    import_own_code([('config.model.backbone', NAME)])
    with compiling_fast():
        yield


@pytest.fixture(scope='module')
def workdir(data, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp('adaptive') / 'run'
    fields = {key.replace('.', '__'): value for key, value in BARE_NETWORK.items()}
    fields |= {'model__backbone': NAME, 'model__output_stride': 8}
    experiment = tiny.make_experiment(
        data,
        **fields,
        model__adaptive_computation='sact',
        loss__ponder_weight=0.1,
        train__num_steps=10,
        train__picture_every_steps=10,
        train__checkpoint_every_steps=10,
        train__evaluate_every_steps=10,
    )
    train(experiment, str(path), devices=tiny.one_device())
    return path


@pytest.mark.slow
def test_ponder_cost_is_a_term_of_the_loss_and_falls(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    steps = [line for line in lines if 'loss_ponder' in line]
    # Stages of 1, 3, 1, 1 units: from 8 to 10 with the remainders.
    ponder = [line['loss_ponder'] / 0.1 for line in steps]
    assert 8 < ponder[-1] < ponder[0] <= 10
    for line in steps:
        terms = [line[f'loss_{key}'] for key in ('semantic', 'center', 'offset', 'ponder')]
        np.testing.assert_allclose(line['loss'], sum(terms), rtol=1e-5)
    pictures = workdir / 'pictures' / 'step_00000010'
    assert (pictures / 'prediction_0.png').exists()


@pytest.mark.slow
def test_evaluation_reports_computation(workdir):
    report = json.loads((workdir / 'report.json').read_text())
    computation = report['computation']
    assert 0 < computation['flops'] <= computation['dense_flops']
    assert set(computation['ponder']) == {'Things', 'Stuff'}
    assert all(8 < value <= 10 for value in computation['ponder'].values())
    assert 'GFLOPs per image' in format_report(report)


@pytest.mark.slow
def test_devices_share_images_and_rows(workdir, tmp_path):
    """Units are skipped by all devices or by none."""

    def change(experiment):
        mesh = dataclasses.replace(experiment.mesh, data=2, space=2)
        return dataclasses.replace(experiment, mesh=mesh)

    report = evaluate_checkpoint(
        change, str(tmp_path), checkpoint=str(workdir), has_page=False, devices=jax.devices()[:4]
    )
    expected = json.loads((workdir / 'report.json').read_text())
    for key in ('flops', 'dense_flops'):
        np.testing.assert_allclose(
            report['computation'][key], expected['computation'][key], rtol=1e-3
        )
    np.testing.assert_allclose(report['pixel_accuracy'], expected['pixel_accuracy'], atol=1e-2)


def test_encoders_of_mask_transformers_halt_too():
    """Its features are read before their activation, with GELUs; shapes tell what is connected."""
    config = load_config('scenes_kmax')
    config.data.path = 'unused'
    config.model.preset = 'kmax_deeplab2/resnet50_coco'
    config.model.backbone = NAME
    config.model.endpoints = 'unactivated'
    config.model.adaptive_computation = 'sact'
    system = Experiment.from_config(config).system.make_system(LabelFormat(15, (1, 2), 0, 256))
    assert system.is_adaptive
    images = jnp.zeros((2, 65, 97, 3))
    rng = jax.random.key(0)
    variables = jax.eval_shape(system.init, rng)
    samples = Samples(images, jnp.zeros((2, 65, 97), jnp.int32))
    loss = jax.eval_shape(lambda v: system.loss(v, samples, rng=rng), variables)
    assert 'ponder' in loss[1][0] and set(loss[1][1]) == {'batch_stats'}
    computation = jax.eval_shape(system.measure_computation, variables, images)
    assert computation.ponder.shape == (2, 65, 97)
    maps = jax.eval_shape(system.picture_maps, variables, samples)
    assert maps['ponder'].shape == (2, 65, 97)


def test_the_limit_of_the_active_share_may_change_after_training():
    saved, asked = ({'model': {'min_active_share': share}} for share in (0.0, 0.1))
    (change,) = find_changes(saved, asked)
    assert not change.reason
    options = make_options('imagenet/resnet18', adaptive_computation='act', min_active_share=0.1)
    module = make_model_backbone(options)
    assert (module.adaptive_computation, module.min_active_share) == ('act', 0.1)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'adaptive_computation': 'all'}, r"adaptive_computation \(='all'\) must be one of"),
        ({'min_active_share': 1.0}, r'min_active_share \(=1.0\) must lie in \[0, 1\)'),
    ],
)
def test_wrong_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_options('imagenet/resnet18', **fields)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'backbone': 'mobilenet_v2'}, "does not apply to model.backbone 'mobilenet_v2'"),
        ({'backbone': 'axial_resnet_s'}, 'AxialResNet adaptive_computation must be one of'),
        ({'stride_convention': 'slim'}, 'of which only the first may stride'),
    ],
)
def test_networks_that_cannot_halt_say_so(fields, message):
    options = make_options('deeplab2/resnet50_os32', adaptive_computation='sact', **fields)
    with pytest.raises(ValueError, match=message):
        make_model_backbone(options)


@pytest.mark.slow
def test_ponder_cost_is_drawn(workdir, data, tmp_path, capsys):
    image, _ = open_split(data, 'val').decode(0)
    Image.fromarray(image).save(tmp_path / 'a.png')
    flags = [f'--checkpoint={workdir}', f'--images={tmp_path}/a.png', f'--output={tmp_path}/out']
    main(['predict', *flags, '--write=ponder,html', '--allow_code'])
    assert Image.open(tmp_path / 'out' / 'a_ponder.png').size == image.shape[1::-1]
    result = Predictor.load(workdir)(image, keep_outputs=True)
    ponder = result.outputs['ponder']
    assert ponder.shape == image.shape[:2] and 8 < ponder.min() <= ponder.max() <= 10
    np.testing.assert_array_equal(
        result.draw_ponder(), np.asarray(Image.open(tmp_path / 'out' / 'a_ponder.png'))
    )


def test_computation_is_summed_exactly():
    """More multiply-adds than 32 bits hold, over batches with padding."""
    label_format = LabelFormat(3, (1,), 255, 10)
    metric = ComputationMean.for_network(label_format, 10**13)
    total = metric.empty()
    labels = jnp.array([[[11, 20], [2550, 10]], [[11, 11], [11, 11]]])
    for valid in ([True, False], [True, True]):
        computation = Computation(
            ponder=jnp.array([[[3.0, 1.0], [9.0, 2.0]], [[4.0] * 2] * 2]),
            skipped=jnp.array([[10**6, 1], [10**6, 2]]),
            multiply_adds=jnp.array([2_359_296, 3]),
        )
        state = metric.from_model_output(
            computation=computation, input_labels=labels, valid=jnp.array(valid)
        )
        total = total.merge(jax.device_get(state))
    found = total.compute()
    skipped = (3 * 10**6 * 2_359_296 + 3 * (1 + 1 + 2)) / 3
    assert found['dense_flops'] == 2 * 10**13
    assert found['flops'] == 2 * (10**13 - skipped)
    assert found['ponder'] == {'Things': (3 + 2 + 3 + 2 + 16) / 8, 'Stuff': 1.0}
    assert metric.empty().compute()['ponder'] == {'Things': None, 'Stuff': None}


def test_other_networks_have_no_such_term():
    loss, terms = add_ponder_loss(jnp.ones(()), {'a': jnp.ones(())}, {'batch_stats': {}}, 1.0)
    assert loss == 1 and terms == {'a': 1}
