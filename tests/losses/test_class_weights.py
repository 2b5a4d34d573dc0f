"""Class weights: their forms, median frequency balancing, and their place in the loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.class_weights import balance_classes, resolve_class_weights
from pdl_jax.losses.panoptic_deeplab import LossOptions, panoptic_loss
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.systems.semantic_deeplab import SemanticDeepLabOptions
from pdl_jax.typing import LabelFormat
from tests import tiny

NAMES = ('road', 'car', 'sky')


def _count():
    raise AssertionError('counted in vain')


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ((0.5, 2, 1.0), (0.5, 2.0, 1.0)),
        ((('car', 2.0),), (1.0, 2.0, 1.0)),
        (((2, 3), ('road', 0)), (0.0, 1.0, 3.0)),
    ],
)
def test_given_by_index_or_by_name(given, expected):
    LossOptions(class_weights=given)
    assert resolve_class_weights(given, NAMES, _count) == expected


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ((1.0, 2.0), r'has 2 weights, the data 3 classes'),
        ((('cra', 2.0),), r"no class 'cra'; did you mean 'car'"),
        (((3, 2.0),), r'no class 3; .*by index 0 \.\. 2'),
    ],
)
def test_what_does_not_fit_the_classes_is_named(given, message):
    with pytest.raises(ValueError, match=message) as error:
        resolve_class_weights(given, NAMES, _count)
    assert f'config.loss.class_weights (={given!r})' in str(error.value)


@pytest.mark.parametrize(
    'given',
    [
        'from_frequencies',
        ('car',),
        ('from_frequencies', 1.0),
        (-1.0, 1.0, 1.0),
        (float('nan'),),
        (('car', -2.0),),
        (('car', '2'),),
        (('car', 2.0, 3.0),),
        ((True, 2.0),),
        (None,),
        {'car': 2.0},
    ],
)
def test_other_forms_are_refused(given):
    with pytest.raises(ValueError, match=r'config\.loss\.class_weights'):
        LossOptions(class_weights=given)


def test_median_frequency_balancing_equals_its_formula():
    # Two images of 100 pixels; the second has no car, and nothing is sky.
    pixels, images = np.array([150, 10, 0, 40]), np.array([2, 1, 0, 2])
    # As Eigen and Fergus write it, by the pixels of the images that have the class.
    frequency = np.array([150 / 200, 10 / 100, 40 / 200])
    median = np.median(frequency)
    assert median == 0.2
    expected = [median / 0.75, median / 0.1, 1.0, 1.0]
    np.testing.assert_allclose(balance_classes(pixels, images), expected)
    np.testing.assert_allclose(balance_classes(np.zeros(2), np.zeros(2)), 1)


def _make_system(**loss):
    options = SemanticDeepLabOptions(
        (33, 33),
        loss=LossOptions(**loss),
        targets=TargetOptions(small_instance_area_px=30, small_instance_weight=3.0),
    )
    return options.make_system(LabelFormat(3, (1,), 255, 10))


@pytest.mark.slow
def test_weights_multiply_those_of_small_instances_and_come_before_the_hardest_pixels():
    rng = np.random.default_rng(0)
    panoptic = np.zeros((2, 12, 12), np.int32)
    panoptic[:, 1:4, 1:4] = 11  # A small car.
    panoptic[:, 6:, :] = 20
    panoptic[:, 11] = 2550
    weights = (0.5, 4.0, 1.0)
    targets = _make_system(class_weights=weights).make_targets(jnp.asarray(panoptic))
    plain = _make_system().make_targets(jnp.asarray(panoptic))
    semantic = panoptic // 10
    by_class = np.array(weights)[np.minimum(semantic, 2)]
    valid = semantic != 255
    assert plain['semantic_weight'][0, 2, 2] == 3
    np.testing.assert_allclose(
        targets['semantic_weight'][valid], (plain['semantic_weight'] * by_class)[valid]
    )
    logits = rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
    options = LossOptions(top_k_fraction=0.25)
    _, terms = panoptic_loss(
        {'semantic': jnp.asarray(logits)}, targets, ignore_label=255, options=options
    )
    # bowenc0221's DeepLabCE: weighted cross entropy, sorted, the mean of the largest.
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_probability, np.minimum(semantic, 2)[..., None], -1)[..., 0]
    losses = -picked * by_class * np.asarray(plain['semantic_weight']) * valid
    kept = np.sort(losses.reshape(2, -1), axis=1)[:, -36:]
    np.testing.assert_allclose(terms['semantic'], kept.mean(), rtol=1e-5)


def test_weights_by_name_need_the_data():
    system = _make_system(class_weights=(('car', 2.0),))
    with pytest.raises(ValueError, match='need the data'):
        system.make_targets(jnp.zeros((1, 4, 4), jnp.int32))


def test_a_configuration_fills_them_in_and_stores_numbers():
    fields = {'loss__class_weights': (('car', 2.0),)}
    experiment = tiny.make_experiment('unused', **fields)
    assert type(experiment).from_dict(experiment.to_json()) == experiment
    filled = experiment.for_data(NAMES, _count)
    assert filled.system.loss.class_weights == (1.0, 2.0, 1.0)
    assert type(filled).from_dict(filled.to_json()) == filled
    # Stored weights are not counted again, and an experiment without weights stays as it is.
    assert filled.for_data(NAMES, _count) == filled
    plain = tiny.make_experiment('unused')
    assert plain.for_data(NAMES, _count) is not None and plain.for_data(NAMES, _count) == plain
    # A plan without data needs shapes only.
    assert experiment.for_data(None, _count).system.loss.class_weights == (1.0,)
    experiment = tiny.make_experiment('unused', loss__class_weights=('from_frequencies',))
    counts = np.array([60, 20, 20]), np.array([1, 1, 1])
    weights = experiment.for_data(NAMES, lambda: counts).system.loss.class_weights
    np.testing.assert_allclose(weights, [1 / 3, 1, 1])
