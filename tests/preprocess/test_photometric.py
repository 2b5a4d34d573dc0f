"""Colours, blur and noise against Pillow and SciPy, and what is left alone."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.photometric import blur_image, distort_image, jitter_colors

SIZE = (21, 30)
ALL_ON = AugmentOptions(
    (8, 8),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    max_blur_sigma_px=2.0,
    max_noise_deviation=10.0,
)


def _make_canvas(seed=0):
    """A noisy picture of all hues on a canvas, whose padding is bright to be found out."""
    rng = np.random.default_rng(seed)
    canvas = np.full((24, 33, 3), 255, np.uint8)
    canvas[: SIZE[0], : SIZE[1]] = rng.integers(0, 256, (*SIZE, 3))
    canvas[:3, :10] = canvas[:3, :10, :1]  # Grey pixels have no hue.
    return canvas


def _crop(canvas):
    return np.asarray(canvas)[: SIZE[0], : SIZE[1]]


@pytest.mark.parametrize(
    ('name', 'kind', 'factor'),
    [
        ('brightness', ImageEnhance.Brightness, 1.4),
        ('brightness', ImageEnhance.Brightness, 0.6),
        ('contrast', ImageEnhance.Contrast, 1.7),
        ('contrast', ImageEnhance.Contrast, 0.3),
        ('saturation', ImageEnhance.Color, 1.9),
        ('saturation', ImageEnhance.Color, 0.0),
    ],
)
def test_factors_are_those_of_pillow(name, kind, factor):
    canvas = _make_canvas()
    expected = np.asarray(kind(Image.fromarray(_crop(canvas))).enhance(factor), np.float32)
    image = jnp.asarray(canvas, jnp.float32)
    actual = jitter_colors(image, jnp.array(SIZE), **{name: jnp.float32(factor)})
    # Pillow rounds the grey levels, their mean, and the result.
    np.testing.assert_allclose(_crop(actual), expected, atol=1.6)
    assert np.abs(_crop(actual) - expected).mean() < 0.6


@pytest.mark.parametrize('shift', [0.3, -0.5, 0.04, 0.0])
def test_hue_is_that_of_the_standard_library(shift):
    canvas = _make_canvas()
    expected = np.zeros((*SIZE, 3))
    for i, row in enumerate(_crop(canvas) / 255):
        for j, pixel in enumerate(row):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected[i, j] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    image = jnp.asarray(canvas, jnp.float32)
    actual = jitter_colors(image, jnp.array(SIZE), hue=jnp.float32(shift))
    np.testing.assert_allclose(_crop(actual), expected * 255, atol=2e-3)


@pytest.mark.parametrize('sigma', [0.0, 0.4, 1.0, 2.5])
def test_blur_is_that_of_the_valid_pixels(sigma):
    ndimage = pytest.importorskip('scipy.ndimage')
    canvas = _make_canvas()
    actual = blur_image(
        jnp.asarray(canvas, jnp.float32), jnp.array(SIZE), jnp.float32(sigma), radius_px=8
    )
    pixels = _crop(canvas).astype(np.float64)
    if sigma:
        # SciPy's kernel, cut off at the same radius, over zeros, and over ones for the weights.
        options = {'sigma': (sigma, sigma, 0), 'mode': 'constant', 'truncate': 8 / sigma}
        weights = ndimage.gaussian_filter(np.ones_like(pixels), **options)
        pixels = ndimage.gaussian_filter(pixels, **options) / weights
    np.testing.assert_allclose(_crop(actual), pixels, atol=1e-3)


def test_off_is_the_image_itself():
    canvas = jnp.asarray(_make_canvas())
    assert (
        distort_image(jax.random.key(0), canvas, jnp.array(SIZE), AugmentOptions((8, 8))) is canvas
    )


@pytest.mark.slow
@pytest.mark.parametrize('limit', ['brightness', 'hue', 'max_blur_sigma_px', 'max_noise_deviation'])
def test_probability_0_is_the_identity_and_1_is_not(limit):
    off = {'color_probability': 0.0, 'blur_probability': 0.0, 'noise_probability': 0.0}
    options = AugmentOptions((8, 8), **{limit: getattr(ALL_ON, limit)})
    canvas = jnp.asarray(_make_canvas())
    draw = jax.vmap(distort_image, in_axes=(0, None, None, None))
    keys = jax.random.split(jax.random.key(0), 4)
    changed = draw(keys, canvas, jnp.array(SIZE), options)
    # Each sample draws by itself.
    assert len({float(jnp.sum(image)) for image in changed}) == 4
    options = dataclasses.replace(options, **off)
    for image in draw(keys, canvas, jnp.array(SIZE), options):
        np.testing.assert_array_equal(image, canvas)


def test_everything_at_once_stays_in_range_and_draws_all_factors():
    canvas = jnp.asarray(_make_canvas())
    draw = jax.jit(jax.vmap(lambda key: distort_image(key, canvas, jnp.array(SIZE), ALL_ON)))
    images = draw(jax.random.split(jax.random.key(1), 64))
    assert images.dtype == jnp.float32
    assert float(images.min()) >= 0 and float(images.max()) <= 255
    means = np.asarray(images)[:, : SIZE[0], : SIZE[1]].mean((1, 2, 3)) / _crop(canvas).mean()
    assert means.min() < 0.75 and means.max() > 1.2


def test_noise_has_the_deviation_that_is_asked_for():
    options = AugmentOptions((8, 8), max_noise_deviation=20.0)
    canvas = jnp.full((64, 64, 3), 128, jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 100)
    noisy = jax.vmap(lambda key: distort_image(key, canvas, jnp.array([64, 64]), options))(keys)
    deviations = np.asarray(noisy).std((1, 2, 3))
    assert deviations.min() < 3 and 17 < deviations.max() < 20.5
    assert abs(deviations.mean() - 10) < 2


def test_grey_images_have_no_hue():
    grey = jnp.full((4, 4, 1), 100, jnp.uint8)
    options = AugmentOptions((8, 8), brightness=0.4, contrast=0.4)
    assert distort_image(jax.random.key(0), grey, jnp.array([4, 4]), options).shape == (4, 4, 1)
    options = AugmentOptions((8, 8), hue=0.1)
    with pytest.raises(ValueError, match=r'config.augment.hue need RGB images, these have 1'):
        distort_image(jax.random.key(0), grey, jnp.array([4, 4]), options)
