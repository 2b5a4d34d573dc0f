"""Top-1 and top-5 accuracy against NumPy."""

import jax
import numpy as np
import pytest

from pdl_jax.metrics.class_accuracy import ClassAccuracy
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(9, (), 255, 10)


def make_batch(rng, num_images=32):
    label = rng.integers(0, 9, num_images)
    return {
        'panoptic_label': np.broadcast_to(10 * label[:, None, None], (num_images, 4, 5)).astype(
            np.int32
        ),
        'image_scores': rng.random((num_images, 9), np.float32),
        'valid': rng.random(num_images) < 0.8,
    }, label


def test_equals_numpy_over_batches():
    metric = ClassAccuracy.for_format(FORMAT)
    count = jax.jit(metric.from_model_output)
    rng = np.random.default_rng(0)
    total, top1, top5 = metric.empty(), [], []
    for _ in range(3):
        batch, label = make_batch(rng)
        total = total.merge(count(**batch).to_host())
        order = np.argsort(-batch['image_scores'], axis=1)
        top1 += [(order[:, 0] == label)[batch['valid']]]
        top5 += [(order[:, :5] == label[:, None]).any(1)[batch['valid']]]
    result = total.compute()
    assert result['top1'] == np.concatenate(top1).mean()
    assert result['top5'] == np.concatenate(top5).mean()
    assert total.confusion.sum() == sum(map(len, top1))


def test_images_of_void_and_the_padding_of_images_do_not_count():
    metric = ClassAccuracy.for_format(FORMAT)
    label = np.full((2, 3, 3), 2550, np.int32)
    label[0, :2, :2] = 70
    scores = np.eye(9, dtype=np.float32)[[7, 0]]
    result = metric.from_model_output(
        panoptic_label=label, image_scores=scores, valid=np.ones(2, bool)
    )
    assert int(result.confusion.sum()) == 1
    values = result.compute()
    assert (values['top1'], values['top5']) == (1.0, 1.0)
    np.testing.assert_array_equal(np.flatnonzero(values['per_class']['valid']), [7])


def test_without_images_nothing_is_claimed():
    values = ClassAccuracy.for_format(FORMAT).empty().compute()
    assert np.isnan(values['top1']) and np.isnan(values['top5'])


def test_scores_that_are_all_equal_hit_the_first_class_only():
    metric = ClassAccuracy.for_format(FORMAT)
    label = np.full((1, 2, 2), 80, np.int32)
    result = metric.from_model_output(
        panoptic_label=label, image_scores=np.zeros((1, 9), np.float32), valid=np.ones(1, bool)
    ).compute()
    assert result['top1'] == 0.0
    # Ties count for the image.
    assert result['top5'] == pytest.approx(1.0)
