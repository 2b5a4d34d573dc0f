"""The crops of classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.preprocess.augment import (
    AugmentOptions,
    Window,
    centered_window,
    random_window,
    sample_image,
    scale_size,
)
from pdl_jax.preprocess.normalize import ChannelStatistics
from pdl_jax.preprocess.resized_crop import draw_part, resize_part

AS_GIVEN = ChannelStatistics((0.0,), (1.0,))
FIELDS = {'convention': 'torchvision', 'resize_min_px': 40, 'normalization': AS_GIVEN}
OPTIONS = AugmentOptions((32, 32), flip_probability=0.0, **FIELDS)


def draw_parts(size, **fields):
    fields = {'min_share': 0.08, 'max_share': 1.0, 'max_aspect': 4 / 3, **fields}
    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.vmap(lambda key: draw_part(key, jnp.array(size), **fields))
    return map(np.asarray, jax.jit(draw)(keys))


def test_parts_lie_inside_and_have_the_shares_and_ratios_that_were_asked_for():
    size = np.array([300, 200])
    start, part = draw_parts(size)
    assert (start >= 0).all() and (start + part <= size).all()
    share = part.prod(1) / size.prod()
    aspect = part[:, 1] / part[:, 0]
    assert 0.075 < share.min() < 0.12 and share.max() > 0.8
    assert 0.74 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.35
    # The logarithm of the ratio is symmetric; the shape of the image favours tall parts a little.
    assert abs(np.log(aspect).mean()) < 0.05


def test_an_image_that_no_part_fits_into_gives_its_centre():
    start, part = draw_parts((400, 20), min_share=0.9)
    np.testing.assert_array_equal(part, np.tile([27, 20], (500, 1)))
    np.testing.assert_array_equal(start, np.tile([186, 0], (500, 1)))


def test_a_part_is_resized_as_pillow_resizes_a_crop():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    start, part = (7, 11), (20, 24)
    rows, columns = resize_part(jnp.array(start), jnp.array(part), (40, 48))
    crop = image[7:27, 11:35]
    # Pillow's bilinear filter is the plain one where it enlarges.
    expected = np.asarray(Image.fromarray(crop).resize((48, 40), Image.Resampling.BILINEAR))
    found = sample_image(
        jnp.asarray(image), jnp.array([50, 60]), Window(rows, columns), normalization=AS_GIVEN
    )
    assert np.abs(np.asarray(found) - expected).max() < 1.01


def test_inference_sees_the_central_crop():
    image = np.random.default_rng(0).integers(0, 256, (25, 35, 3), dtype=np.uint8)
    size = jnp.array(image.shape[:2])
    resized = scale_size(size, OPTIONS)
    # torchvision's Resize(40): int(40 * 35 / 25).
    assert resized.tolist() == [40, 56]
    window = centered_window(size, resized, (32, 32), 'torchvision')
    found = sample_image(jnp.asarray(image), size, window, normalization=AS_GIVEN)
    whole = Image.fromarray(image).resize((56, 40), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[4:36, 12:44]
    assert np.abs(np.asarray(found) - expected).max() < 1.01


def test_random_windows_fill_the_crop_and_flip():
    draw = jax.jit(lambda key: random_window(key, jnp.array([64, 80]), OPTIONS))
    window = draw(jax.random.key(1))
    assert window.rows.shape == window.columns.shape == (32,)
    assert (np.diff(window.columns) > 0).all() and window.rows.min() >= 0
    flipping = AugmentOptions((32, 32), flip_probability=1.0, **FIELDS)
    flipped = random_window(jax.random.key(1), jnp.array([64, 80]), flipping)
    np.testing.assert_allclose(flipped.columns, window.columns[::-1], rtol=1e-6)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'resize_min_px': 16}, r'resize_min_px \(=16\) must hold the crop'),
        ({'max_rotation_degrees': 5.0}, 'nothing be rotated'),
        ({'min_crop_share': 0.0}, r'min_crop_share \(=0.0\)'),
        ({'max_crop_aspect': 0.5}, r'max_crop_aspect \(=0.5\)'),
    ],
)
def test_wrong_options_are_named(fields, message):
    fields = {'convention': 'torchvision', 'resize_min_px': 40, **fields}
    with pytest.raises(ValueError, match=message):
        AugmentOptions((32, 32), **fields)
