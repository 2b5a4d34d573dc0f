"""Targets of classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.classification import class_losses
from pdl_jax.ops.image_classes import find_classes
from pdl_jax.preprocess.class_targets import (
    ClassTargetOptions,
    make_class_targets,
    mix_images,
)
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(4, (), 255, 10)


def make_labels(*classes):
    labels = np.full((len(classes), 3, 4), 2550, np.int32)
    labels[:, 1:] = 10 * np.array(classes)[:, None, None]
    return jnp.asarray(labels)


def test_the_class_of_an_image_is_that_of_its_labelled_pixels():
    labels = make_labels(0, 3, 255)
    assert find_classes(labels, label_format=FORMAT).tolist() == [0, 3, -1]


def test_smoothing_leaves_a_void_class_and_void_images_without_probability():
    options = ClassTargetOptions(label_smoothing=0.3)
    targets = make_class_targets(make_labels(1, 255), label_format=FORMAT, options=options)
    np.testing.assert_allclose(targets, [[0.075, 0.775, 0.075, 0.075], [0, 0, 0, 0]], rtol=1e-6)
    with_void = LabelFormat(4, (), 0, 10)
    targets = make_class_targets(make_labels(1), label_format=with_void, options=options)
    np.testing.assert_allclose(targets, [[0, 0.8, 0.1, 0.1]], rtol=1e-6)


def test_the_loss_is_the_cross_entropy_in_nats():
    logits = jnp.array([[1.0, 2.0, 0.0, -1.0]])
    one_hot = jnp.eye(4)[1:2]
    expected = -2.0 + np.log(np.exp([1, 2, 0, -1]).sum())
    np.testing.assert_allclose(class_losses(logits, one_hot), [expected], rtol=1e-6)
    assert float(class_losses(logits, jnp.zeros((1, 4)))[0]) == 0


def test_mixing_keeps_the_sum_of_probabilities_and_mixes_both_alike():
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 1))
    targets = jnp.eye(4)
    mixed, soft = mix_images(jax.random.key(1), images, targets, alpha=0.4)
    np.testing.assert_allclose(jnp.sum(soft, axis=1), np.ones(4), rtol=1e-6)
    share = float(soft[0, 0])
    assert 0 < share < 1 and float(soft[0, 3]) == pytest.approx(1 - share)
    np.testing.assert_allclose(mixed[0], share * images[0] + (1 - share) * images[3], rtol=1e-5)


@pytest.mark.parametrize('fields', [{'label_smoothing': 1.5}, {'mixup_alpha': -1.0}])
def test_wrong_options_are_named(fields):
    with pytest.raises(ValueError, match=f'config.targets.{next(iter(fields))}'):
        ClassTargetOptions(**fields)
