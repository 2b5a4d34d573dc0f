"""Pixel counts of a split against its labels, one by one."""

import numpy as np
import pytest

from pdl_jax.data.pixel_counts import count_class_pixels
from pdl_jax.data.records import open_split


@pytest.mark.parametrize('has_statistics', [True, False])
def test_counts_are_those_of_the_labels(data, has_statistics):
    source = open_split(data, 'train')
    if not has_statistics:
        source.statistics = None
    pixels, images = count_class_pixels(source)
    num_classes = source.spec.num_classes
    assert pixels.shape == images.shape == (num_classes,)
    labels = [source.decode(i)[1] // source.spec.label_divisor for i in range(len(source))]
    counts = np.array([[int((label == c).sum()) for c in range(num_classes)] for label in labels])
    np.testing.assert_array_equal(pixels, counts.sum(0))
    np.testing.assert_array_equal(images, (counts > 0).sum(0))
    assert pixels.sum() > 0
