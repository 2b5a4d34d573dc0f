"""Ensembles: the mean of the outputs of networks, and networks that cannot be averaged."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.convert.write import write_checkpoint
from pdl_jax.data.records import open_split
from pdl_jax.prediction.ensemble import EnsembleInference, check_member
from pdl_jax.prediction.inference import abstract_variables, average_passes
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.trained import Trained
from pdl_jax.systems.deeplab import DeepLabAveraging
from tests import tiny
from tests.convert.compiling import compiling_fast, run_fast
from tests.process_group import BARE_NETWORK

NETWORK = {key.replace('.', '__'): value for key, value in BARE_NETWORK.items()}
# The same classes; another stride, other positions of pixels, another normalisation.
OTHER = {
    'model__output_stride': 8,
    'model__resize': 'half_pixel',
    'model__normalization': 'imagenet',
}


@pytest.fixture(scope='module', autouse=True)
def quick_programs():
    with compiling_fast():
        yield


@pytest.fixture(scope='module')
def checkpoints(data, tmp_path_factory):
    """Two networks of one kind, and one of another."""
    spec = open_split(data, 'val').spec
    paths = []
    for seed, changes in enumerate(({}, {}, OTHER)):
        experiment = tiny.make_experiment(data, **{**NETWORK, **changes})
        rng = np.random.default_rng(seed)

        def draw(path, x, rng=rng):
            if path[-1].key == 'kernel':
                spread = np.sqrt(2 / np.prod(x.shape[:-1]))
                return rng.normal(0, spread, x.shape).astype(np.float32)
            return np.full(x.shape, path[-1].key in ('scale', 'var'), np.float32)

        system = experiment.make_system(spec.label_format)
        variables = jax.tree_util.tree_map_with_path(draw, abstract_variables(system))
        path = tmp_path_factory.mktemp('networks') / f'network{seed}'
        description = {'config': experiment.to_json(), 'dataset': spec.to_dict()}
        write_checkpoint(str(path), variables, description)
        paths.append(str(path))
    return paths


@pytest.fixture(scope='module')
def image(data):
    return open_split(data, 'val').decode(0)[0]


def average_by_hand(predictors, image, size):
    """Averages what each network says alone, in a loop; at the size of the image."""
    total = []
    for predictor in predictors:
        inference = predictor.make_inference(image.shape[:2])
        images, _ = inference.prepare(image[None], size)
        passes, variables = inference.passes, predictor.variables
        mean = run_fast(lambda v, x, passes=passes: average_passes(passes, v, x), variables, images)
        height, width = image.shape[:2]
        total.append({key: np.asarray(x)[:, :height, :width] for key, x in mean.items()})
    mean = {key: np.mean([one[key] for one in total], axis=0) for key in total[0]}
    return DeepLabAveraging().from_mean(mean)


@pytest.mark.slow
@pytest.mark.parametrize(
    'options', [{}, {'scales': (0.5, 1.0), 'is_flipped': True}], ids=['plain', 'scales']
)
def test_outputs_are_the_mean_of_those_of_the_networks(checkpoints, image, options):
    size = np.array([image.shape[:2]], np.int32)
    ensemble = Predictor.load(checkpoints, **options)
    inference = ensemble.make_inference(image.shape[:2])
    assert isinstance(inference, EnsembleInference)
    # Two networks share a compiled one.
    counts = {key: jax.tree.leaves(x)[0].shape[0] for key, x in ensemble.variables.items()}
    assert counts == {'network0': 2, 'network1': 1}
    found = run_fast(lambda v: inference.outputs(v, image[None], size), ensemble.variables)
    alone = [Predictor.load(path, **options) for path in checkpoints]
    expected = average_by_hand(alone, image, size)
    height, width = image.shape[:2]
    for key, value in expected.items():
        ours = np.asarray(found[key])[:, :height, :width]
        np.testing.assert_allclose(ours, value, atol=1e-4 * np.abs(value).max(), err_msg=key)


@pytest.mark.slow
def test_a_network_with_itself_is_that_network(checkpoints, image):
    alone = Predictor.load(checkpoints[0])(image)
    twice = Predictor.load([checkpoints[0], checkpoints[0]])(image)
    assert np.mean(alone.panoptic != twice.panoptic) < 1e-3
    assert alone.segments and len(alone.segments) == len(twice.segments)


def test_thresholds_are_those_of_the_first_and_can_be_changed(checkpoints, image):
    ensemble = Predictor.load(checkpoints[:2])
    assert ensemble.origin['checkpoint'] == [f'{x}/checkpoints/0' for x in checkpoints[:2]]
    few = ensemble.with_postprocess(max_centers=1)
    assert sum(s.is_thing for s in few(image).segments) <= 1
    assert isinstance(few.make_inference(image.shape[:2]), EnsembleInference)


@pytest.mark.slow
def test_commands_average_checkpoints(checkpoints, image, data, tmp_path):
    Image.fromarray(image).save(tmp_path / 'a.png')
    out = tmp_path / 'out'
    flags = [f'--images={tmp_path}/a.png', f'--output={out}', '--write=ids,json']
    main(['predict', '--checkpoint', *checkpoints, *flags])
    expected = Predictor.load(checkpoints)(image)
    assert (out / 'a_panoptic.png').read_bytes() == expected.to_png()
    repeated = [f'--checkpoint={path}' for path in checkpoints]
    main(['evaluate', *repeated, f'--workdir={tmp_path}/scores', '--nopage'])
    report = json.loads((tmp_path / 'scores' / 'report_ensemble.json').read_text())
    assert report['checkpoints'] == [f'{x}/checkpoints/0' for x in checkpoints]
    assert report['num_images'] == 5 and report['miou'] > 0


def make_trained(data, **changes):
    experiment = tiny.make_experiment(data, **{**NETWORK, **changes})
    return Trained(experiment, open_split(data, 'val').spec, {})


def rename_class(trained):
    categories = list(trained.spec.categories)
    categories[3] = dataclasses.replace(categories[3], name='unicorn')
    spec = dataclasses.replace(trained.spec, categories=tuple(categories))
    return dataclasses.replace(trained, spec=spec)


def drop_class(trained):
    spec = dataclasses.replace(trained.spec, categories=trained.spec.categories[:-1])
    return dataclasses.replace(trained, spec=spec)


def change(**changes):
    def make(trained):
        fields = {**NETWORK, **changes}
        path = trained.experiment.data.path
        return dataclasses.replace(trained, experiment=tiny.make_experiment(path, **fields))

    return make


@pytest.mark.parametrize(
    ('modify', 'message'),
    [
        (rename_class, "class 3 is '.*' in the first and 'unicorn' in the second"),
        (drop_class, 'the first has 14 classes, the second 13'),
        (change(model__has_instances=False), 'the system is panoptic_deeplab in the first and sem'),
        (change(data__num_channels=1), 'config.data.num_channels is 3 in the first and 1'),
        (
            change(augment__resize_max_px=64),
            'config.augment.resize_max_px is 0 in the first and 64',
        ),
    ],
)
def test_networks_that_differ_too_much_are_named(data, modify, message):
    first = make_trained(data)
    check_member(first, make_trained(data, **OTHER), 'a', 'b')
    with pytest.raises(ValueError, match=f'a and b cannot be averaged: {message}'):
        check_member(first, modify(first), 'a', 'b')


def test_queries_are_not_averaged(data):
    from pdl_jax.commands.config_file import load_config
    from pdl_jax.experiment import Experiment

    config = load_config('scenes_kmax')
    trained = Trained(Experiment.from_config(config), open_split(data, 'val').spec, {})
    with pytest.raises(ValueError, match='kmax_deeplab networks have no mean'):
        check_member(trained, trained, 'a', 'b')


def test_several_checkpoints_are_not_tuned(checkpoints, tmp_path, capsys):
    flags = ['--checkpoint', *checkpoints, f'--workdir={tmp_path}', '--tune']
    with pytest.raises(SystemExit):
        main(['evaluate', *flags])
    assert 'leave out --config, --tune' in capsys.readouterr().err


def test_memory_is_that_of_one_network(checkpoints):
    """Maps of members are added up one after the other."""
    two = Predictor.load(checkpoints[:2])
    inference = two.make_inference((256, 256))
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.uint8)
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)

    def measure(count):
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), two.variables
        )
        run = jax.jit(inference.outputs).lower(shapes, image, size).compile()
        return run.memory_analysis().temp_size_in_bytes

    assert measure(6) < 1.1 * measure(2)
