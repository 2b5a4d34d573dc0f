"""What training takes over from an earlier run, and what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from pdl_jax.config import config_to_json, make_model, make_model_options

from pdl_jax.data import catalog
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.training.initialize import describe_backbone, load_initial_variables, merge_variables
from pdl_jax.training.state import TrainState
from tests import tiny


def make_config(**changes):
    return tiny.make_config('data', data__num_classes=0, **changes)


def draw_variables(config, num_classes, seed=0):
    """Variables of random numbers, without compiling anything."""
    model = make_model(config, num_classes)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3))))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def save(folder, config, variables, average=None):
    state = TrainState(
        step=np.int32(3),
        **variables,
        opt_state={'moment': jax.tree.map(np.copy, variables['params'])},
        ema_variables=average,
    )
    checkpointer = Checkpointer(str(folder), keep=1)
    description = {'config': config_to_json(config), 'dataset': catalog.cityscapes().to_dict()}
    checkpointer.save(state, step=3, input_position={}, description=description)
    checkpointer.close()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with a checkpoint of 5 classes, its configuration and its variables."""
    folder = tmp_path_factory.mktemp('run')
    config = make_config()
    variables = draw_variables(config, 5)
    save(folder, config, variables)
    return folder, config, variables


def check_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_the_same_network_is_taken_over_wholly(run):
    folder, config, variables = run
    loaded, report = load_initial_variables(str(folder), draw_variables(config, 5, seed=1))
    check_equal(loaded, variables)
    assert not report.left_out and len(report.loaded) == len(jax.tree.leaves(variables))
    assert not (report.is_partial or report.has_folded_norm)
    assert report.backbone == describe_backbone(make_model_options(config))
    assert report.find_differences(make_model_options(config)) == []


def test_heads_of_other_classes_are_left_out(run):
    folder, config, variables = run
    drawn = draw_variables(config, 7, seed=1)
    loaded, report = load_initial_variables(str(folder), drawn)
    assert report.left_out == {
        'params/semantic_head/predict/bias': 'of shape [5] in the checkpoint, [7] in the network',
        'params/semantic_head/predict/kernel': 'of shape [1, 1, 8, 5] in the checkpoint, [1, 1, 8, 7] in the network',
    }
    merged = flatten_dict(merge_variables(drawn, loaded))
    drawn, old = flatten_dict(drawn), flatten_dict(variables)
    assert merged.keys() == drawn.keys()
    for path, value in merged.items():
        np.testing.assert_array_equal(
            value, (drawn if path[1:3] == ('semantic_head', 'predict') else old)[path]
        )


def test_averaged_variables_are_preferred(run, tmp_path):
    _, config, variables = run
    average = draw_variables(config, 5, seed=2)
    save(tmp_path, config, variables, average)
    loaded, _ = load_initial_variables(str(tmp_path), variables)
    check_equal(loaded, average)


def test_another_backbone_is_refused(run):
    folder, _, _ = run
    wider = draw_variables(make_config(model__width_multiplier=0.5), 5)
    with pytest.raises(
        ValueError,
        match=r'does not hold the backbone of this network: .*block_\d.*Choose the model.preset',
    ):
        load_initial_variables(str(folder), wider)
    other = draw_variables(
        make_config(model__backbone='resnet18', model__width_multiplier=0.125), 5
    )
    with pytest.raises(ValueError, match='stage2_block1'):
        load_initial_variables(str(folder), other)
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        load_initial_variables(str(folder / 'absent'), wider)


def test_differences_that_shapes_do_not_show_are_told(run):
    folder, config, variables = run
    _, report = load_initial_variables(str(folder), variables)
    other = make_model_options(
        make_config(model__normalization='imagenet', model__backbone_padding='symmetric')
    )
    assert report.find_differences(other) == [
        "the backbone was trained with normalization 'unit', the network has 'imagenet'",
        "the backbone was trained with padding 'same', the network has 'symmetric'",
    ]
