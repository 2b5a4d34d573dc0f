"""What training takes over from an earlier run, and what it must not."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pdl_jax.data import catalog
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.training.initialize import load_initial_variables, merge_variables
from pdl_jax.training.state import TrainState
from pdl_jax.typing import LabelFormat
from tests import tiny


def make_experiment(**changes):
    return tiny.make_experiment('data', data__num_classes=0, **changes)


@functools.cache
def find_shapes(system_options, num_classes):
    return abstract_variables(system_options.make_system(LabelFormat(num_classes, (), 255, 1000)))


def draw_variables(experiment, num_classes, seed=0):
    """Variables of random numbers, without compiling anything."""
    shapes = find_shapes(experiment.system, num_classes)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def save(folder, experiment, variables, average=None):
    state = TrainState(
        step=np.int32(3),
        **variables,
        opt_state={'moment': jax.tree.map(np.copy, variables['params'])},
        ema_variables=average,
    )
    checkpointer = Checkpointer(str(folder), keep=1)
    description = {'config': experiment.to_json(), 'dataset': catalog.cityscapes().to_dict()}
    checkpointer.save(state, step=3, input_position={}, description=description)
    checkpointer.close()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with a checkpoint of 5 classes, its experiment and its variables."""
    folder = tmp_path_factory.mktemp('run')
    experiment = make_experiment()
    variables = draw_variables(experiment, 5)
    save(folder, experiment, variables)
    return folder, experiment, variables


def check_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_the_same_network_is_taken_over_wholly(run):
    folder, experiment, variables = run
    loaded, report = load_initial_variables(str(folder), draw_variables(experiment, 5, seed=1))
    check_equal(loaded, variables)
    assert not report.left_out and len(report.loaded) == len(jax.tree.leaves(variables))
    assert not (report.is_partial or report.has_folded_norm)
    assert report.expected == experiment.system.describe_weights()
    assert report.expected['backbone'] == 'mobilenet_v2'
    assert report.find_differences(experiment.system.describe_weights()) == []


def test_heads_of_other_classes_are_left_out(run):
    folder, experiment, variables = run
    drawn = draw_variables(experiment, 7, seed=1)
    loaded, report = load_initial_variables(str(folder), drawn)
    assert report.left_out == {
        'params/semantic_head/predict/bias': 'shape [5] in the checkpoint, [7] in the network',
        'params/semantic_head/predict/kernel': (
            'shape [1, 1, 8, 5] in the checkpoint, [1, 1, 8, 7] in the network'
        ),
    }
    merged = flatten_dict(merge_variables(drawn, loaded))
    drawn, old = flatten_dict(drawn), flatten_dict(variables)
    assert merged.keys() == drawn.keys()
    for path, value in merged.items():
        np.testing.assert_array_equal(
            value, (drawn if path[1:3] == ('semantic_head', 'predict') else old)[path]
        )


def test_averaged_variables_are_preferred(run, tmp_path):
    _, experiment, variables = run
    average = draw_variables(experiment, 5, seed=2)
    save(tmp_path, experiment, variables, average)
    loaded, _ = load_initial_variables(str(tmp_path), variables)
    check_equal(loaded, average)


def test_another_backbone_is_refused(run):
    folder, _, _ = run
    wider = draw_variables(make_experiment(model__width_multiplier=0.5), 5)
    with pytest.raises(
        ValueError,
        match=r'does not hold the backbone of this network: .*block_\d.*Choose the model.preset',
    ):
        load_initial_variables(str(folder), wider)
    other = draw_variables(
        make_experiment(model__backbone='resnet18', model__width_multiplier=0.125), 5
    )
    with pytest.raises(ValueError, match='stage2_block1'):
        load_initial_variables(str(folder), other)
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        load_initial_variables(str(folder / 'absent'), wider)


def test_differences_that_shapes_do_not_show_are_told(run):
    folder, experiment, variables = run
    _, report = load_initial_variables(str(folder), variables)
    other = make_experiment(model__normalization='imagenet', model__backbone_padding='symmetric')
    assert report.find_differences(other.system.describe_weights()) == [
        "the backbone was trained with normalization 'unit', the network has 'imagenet'",
        "the backbone was trained with padding 'same', the network has 'symmetric'",
    ]


@pytest.mark.parametrize('num_channels', [1, 5])
def test_the_first_convolution_is_adapted_to_the_channels_of_the_data(run, num_channels):
    folder, _, variables = run
    experiment = make_experiment(data__num_channels=num_channels)
    wanted = find_shapes(experiment.system, 5)
    loaded, report = load_initial_variables(str(folder), wanted)
    assert not report.left_out and len(report.adapted) == 1
    assert f'from 3 to {num_channels} channels' in report.summarize()[-1]
    new, old = flatten_dict(loaded), flatten_dict(variables)
    different = [path for path in old if new[path].shape != old[path].shape]
    assert len(different) == 1 and different[0][:2] == ('params', 'backbone')
    kernel = old[different[0]]
    expected = kernel.sum(axis=2) if num_channels == 1 else kernel[:, :, 0] * 3 / 5
    np.testing.assert_allclose(new[different[0]][:, :, 0], expected, rtol=1e-6)
    jax.tree.map(lambda x, shape: np.testing.assert_equal(x.shape, shape.shape), loaded, wanted)
