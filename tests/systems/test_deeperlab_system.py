"""DeeperLab as a system: its targets and labels meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.commands.config_file import load_config
from pdl_jax.experiment import Experiment
from pdl_jax.systems.system import Samples
from pdl_jax.typing import LabelFormat
from tests import toy_backbone

_TERMS = {'semantic', 'keypoint', 'short', 'middle', 'long'}


def make_system(label_format, **overrides):
    flags = [f'--config.{name}={value}' for name, value in overrides.items()]
    config = load_config('scenes_deeperlab', flags)
    config.data.path = 'unused'
    return Experiment.from_config(config).system.make_system(label_format)


def make_panoptic(label_format):
    panoptic = np.full((1, 65, 97), label_format.void_label, np.int32)
    panoptic[0, :30] = 3 * 256
    panoptic[0, 35:50, :30] = 1 * 256 + 7
    panoptic[0, 35:50, 30:75] = 1 * 256 + 9
    panoptic[0, 50:, 60:] = 2 * 256 + 1
    return panoptic


@pytest.fixture(scope='module', params=[0, 255])
def truth(request):
    """A label map, its system, and the true outputs, mirrored too."""
    # Void is the first class, or none.
    label_format = LabelFormat(4, (1, 2), request.param, 256)
    system = make_system(label_format)
    oracle = ('semantic', 'keypoint', 'short', 'middle', 'long')

    @jax.jit
    def replace(panoptic):
        channels = {'semantic': 4, 'keypoint': 5, 'short': 10, 'middle': 16, 'long': 10}
        outputs = {key: jnp.zeros((*panoptic.shape, n)) for key, n in channels.items()}
        return system.replace_by_truth(outputs, panoptic, oracle)

    panoptic = make_panoptic(label_format)
    return panoptic, system, replace(panoptic), replace(panoptic[:, :, ::-1])


def test_the_truth_in_the_place_of_outputs_is_found_again(truth):
    panoptic, system, outputs, _ = truth
    maps = jax.jit(lambda x: system.label_maps(x, size=(65, 97)))(outputs)
    found = {}
    for label in (768, 263, 265, 513):
        labels = np.unique(np.asarray(maps.panoptic)[panoptic == label])
        assert len(labels) == 1 and labels[0] // 256 == label // 256
        found[label] = labels[0]
    assert len(set(found.values())) == 4
    is_thing = np.isin(panoptic, (263, 265, 513))
    np.testing.assert_allclose(np.asarray(maps.score)[is_thing], 1, atol=1e-3)


def test_the_mirror_image_is_brought_back(truth):
    _, system, outputs, mirrored = truth
    back = system.averaging.mirror(mirrored, True)
    kept = system.averaging.mirror(outputs, False)
    for key, expected in outputs.items():
        np.testing.assert_allclose(kept[key], expected, err_msg=key)
        # Void pixels keep logits of 0, elsewhere they are certain.
        np.testing.assert_allclose(back[key], expected, atol=1e-4, err_msg=key)


def test_means_of_equal_outputs_are_these_outputs():
    averaging = make_system(LabelFormat(4, (1, 2), 255, 256)).averaging
    rng = np.random.default_rng(0)
    outputs = {
        'semantic': jnp.asarray(rng.normal(size=(1, 3, 4, 4))),
        'keypoint': jnp.asarray(rng.normal(size=(1, 3, 4, 5))),
    }
    again = averaging.from_mean(averaging.to_mean(outputs))
    np.testing.assert_allclose(again['keypoint'], outputs['keypoint'], atol=1e-5)
    np.testing.assert_allclose(
        jax.nn.softmax(again['semantic']), jax.nn.softmax(outputs['semantic']), atol=1e-6
    )


@pytest.mark.slow
def test_the_loss_reaches_every_parameter():
    label_format = LabelFormat(4, (1, 2), 255, 256)
    system = make_system(
        label_format,
        **{
            'model.backbone': toy_backbone.NAME,
            'model.fusion': 'conv3x3',
            'model.head_conv': 'conv3x3',
            'model.fusion_features': 64,
            'model.aspp_rates': '(2,)',
        },
    )
    panoptic = jnp.asarray(make_panoptic(label_format))
    image = jax.random.normal(jax.random.key(1), (1, 65, 97, 3))

    def total(params, variables):
        variables = {**variables, 'params': params}
        return system.loss(variables, Samples(image, panoptic), rng=jax.random.key(2))

    @jax.jit
    def run():
        variables = system.init(jax.random.key(0))
        return jax.grad(total, has_aux=True)(variables['params'], variables)

    gradients, (terms, updates) = run()
    assert set(terms) == _TERMS and 'batch_stats' in updates
    zero = [
        jax.tree_util.keystr(path)
        for path, x in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.any(x)
    ]
    # The pooling's norm sees one pixel per image: with one image its output is constant.
    assert all('pool' in path for path in zero), zero


def test_what_makes_no_sense_is_refused():
    config = load_config('scenes')
    config.model.preset = 'deeperlab/xception71'
    with pytest.raises(ValueError, match=r'configs/deeperlab\.py'):
        Experiment.from_config(config)
    for flag, words in (
        ('model.fusion_features=100', 'multiple of 16'),
        ('evaluate.oracle=("center",)', 'keypoint'),
        ('postprocess.keypoint_threshold=2.0', 'keypoint_threshold'),
        ('targets.radius_px=0.0', 'radius_px'),
    ):
        config = load_config('scenes_deeperlab', [f'--config.{flag}'])
        with pytest.raises(ValueError, match=words):
            Experiment.from_config(config)
