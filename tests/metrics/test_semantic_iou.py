"""Mean IoU against reference numbers and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.typing import LabelFormat
from tests.metrics.panoptic_cases import REFERENCE_SIZE, pad, read_reference_cases


@pytest.mark.parametrize('name', ['coco', 'voc'])
def test_equals_the_reference_over_all_cases(name):
    label_format, _, cases, expected, confusion = read_reference_cases(name)
    expected = expected['miou']
    metric = SemanticIoU.for_format(label_format)
    count = jax.jit(metric.from_model_output)
    total = metric.empty()
    for case in cases.values():
        semantic = case['pred'] // label_format.label_divisor
        batch = {
            'panoptic_label': pad(case['gt'], REFERENCE_SIZE, label_format.void_label),
            'semantic_prediction': pad(semantic, REFERENCE_SIZE, label_format.ignore_label),
        }
        total = total.merge(count(**batch, valid=np.ones(1, bool)).to_host())
    np.testing.assert_array_equal(total.confusion, confusion)
    result = total.compute()
    assert result['miou'] == pytest.approx(expected['miou'], abs=1e-12)
    assert result['n'] == expected['n']
    assert result['pixel_accuracy'] == pytest.approx(expected['pixel_acc'], abs=1e-12)
    for c, iou in expected['per_class_iou'].items():
        assert result['per_class']['valid'][int(c)] == (iou is not None)
        assert result['per_class']['iou'][int(c)] == pytest.approx(iou or 0.0, abs=1e-12)


def test_ignored_class_inside_the_classes_is_a_miss_and_not_averaged():
    label_format = LabelFormat(4, (1,), 0, 10)
    label = np.array([[[10, 12, 20, 20, 0, 0]]], np.int32)
    prediction = np.array([[[1, 0, 2, 1, 2, 0]]], np.int32)
    metric = SemanticIoU.for_format(label_format)
    count = jax.jit(metric.from_model_output)
    result = count(
        panoptic_label=label, semantic_prediction=prediction, valid=np.ones(1, bool)
    ).compute()
    np.testing.assert_allclose(result['per_class']['iou'], [0, 1 / 3, 1 / 2, 0])
    np.testing.assert_array_equal(result['per_class']['valid'], [False, True, True, False])
    assert result['miou'] == pytest.approx(5 / 12)
    assert result['pixel_accuracy'] == 0.5


def test_padding_images_do_not_count():
    metric = SemanticIoU.for_format(LabelFormat(3, (1,), 255, 10))
    label, prediction = np.full((2, 4, 5), 20, np.int32), np.full((2, 4, 5), 2, np.int32)
    prediction[1] = 0
    batch = {'panoptic_label': label, 'semantic_prediction': prediction}
    count = jax.jit(metric.from_model_output)
    result = count(**batch, valid=np.array([True, False]))
    assert int(result.confusion.sum()) == 20
    assert result.compute()['miou'] == 1.0
    nothing = count(**batch, valid=np.zeros(2, bool)).compute()
    assert nothing['miou'] is None and nothing['n'] == 0 and nothing['pixel_accuracy'] is None


def test_pixels_on_the_host_do_not_overflow():
    metric = SemanticIoU.for_format(LabelFormat(1, (), 255, 10))
    batch = metric(confusion=jnp.full((1, 2), 2**30, jnp.int32))
    total = metric.empty()
    for _ in range(5):
        total = total.merge(batch.to_host())
    assert total.confusion.tolist() == [[5 * 2**30] * 2]
    assert total.compute()['miou'] == 0.5


def test_class_without_format_names_the_remedy():
    with pytest.raises(ValueError, match='for_format'):
        SemanticIoU.empty()
