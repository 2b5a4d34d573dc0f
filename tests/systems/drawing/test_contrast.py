"""Contrast of dark and flat images."""

import numpy as np
import pytest

from pdl_jax.systems.drawing.contrast import stretch_contrast


def make_image(low, high):
    """Grey values from `low` to `high`, evenly."""
    values = np.linspace(low, high, 100 * 100).round().astype(np.uint8)
    return np.repeat(values.reshape(100, 100, 1), 3, axis=2)


@pytest.mark.parametrize(('low', 'high'), [(3, 50), (0, 120), (100, 150), (200, 240)])
def test_dark_and_flat_images_get_the_whole_range(low, high):
    image = make_image(low, high)
    before = image.copy()
    stretched = stretch_contrast(image)
    assert stretched.dtype == np.uint8 and stretched.min() == 0 and stretched.max() == 255
    np.testing.assert_array_equal(image, before)
    # The order of the values stays.
    assert (np.diff(stretched[..., 0].ravel().astype(int)) >= 0).all()
    np.testing.assert_array_equal(stretch_contrast(image, 'none'), image)


def test_other_images_stay_unless_told():
    image = make_image(40, 180)
    np.testing.assert_array_equal(stretch_contrast(image), image)
    assert stretch_contrast(image, 'stretch').max() == 255
    # Few bright pixels do not make a dark image bright.
    image = make_image(0, 30)
    image[0, :10] = 255
    assert np.median(stretch_contrast(image)) > 110
    with pytest.raises(ValueError, match="contrast .='more'. must be one of auto, stretch, none"):
        stretch_contrast(image, 'more')


def test_hues_and_constant_images_stay():
    image = make_image(0, 60) // np.array([1, 2, 4], np.uint8)
    stretched = stretch_contrast(image)[-1, -1].astype(int)
    np.testing.assert_allclose(stretched, [255, 128, 64], atol=5)
    constant = np.full((5, 7, 3), 9, np.uint8)
    np.testing.assert_array_equal(stretch_contrast(constant), constant)
