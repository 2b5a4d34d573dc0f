"""Resizing, random windows and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.ops import sampling
from pdl_jax.preprocess.augment import (
    AugmentOptions,
    centered_window,
    random_window,
    resize_to_range,
    sample_image,
    sample_labels,
)
from pdl_jax.preprocess.normalize import ChannelStatistics, normalize_image


# DeepLab2's own expectations.
@pytest.mark.parametrize(
    ('size', 'low', 'high', 'expected'),
    [
        ((480, 640), 641, 641, (481, 641)),
        ((640, 480), 641, 641, (641, 481)),
        ((427, 640), 641, 641, (428, 641)),
        ((640, 427), 641, 641, (641, 428)),
        ((500, 375), 641, 641, (641, 481)),
        ((60, 40), 50, 100, (75, 50)),
        ((15, 30), 50, 100, (50, 100)),
        ((15, 50), 50, 100, (30, 100)),
        ((15, 50), 0, 0, (15, 50)),
        ((30, 50), 0, 25, (15, 25)),
    ],
)
def test_resize_to_range(size, low, high, expected):
    assert tuple(resize_to_range(jnp.array(size), low, high).tolist()) == expected


def _reference(image, labels, size, window, fill):
    """Pixel by pixel in float64."""
    rows, columns = np.asarray(window.rows, np.float64), np.asarray(window.columns, np.float64)
    out = np.full((len(rows), len(columns), image.shape[2]), 0.0)
    out_labels = np.full((len(rows), len(columns)), fill)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            if not (-1e-3 < y < size[0] - 1 + 1e-3 and -1e-3 < x < size[1] - 1 + 1e-3):
                continue
            y1, x1 = np.clip(y, 0, size[0] - 1), np.clip(x, 0, size[1] - 1)
            y0, x0 = int(y1), int(x1)
            a, b = y1 - y0, x1 - x0
            ya, xa = min(y0 + 1, size[0] - 1), min(x0 + 1, size[1] - 1)
            top = image[y0, x0] * (1 - b) + image[y0, xa] * b
            low = image[ya, x0] * (1 - b) + image[ya, xa] * b
            out[i, j] = top * (1 - a) + low * a
            out_labels[i, j] = labels[int(np.floor(y1 + 0.5)), int(np.floor(x1 + 0.5))]
    return out, out_labels


@pytest.mark.parametrize('seed', range(6))
def test_random_window_equals_definition(seed):
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(5, 20)), int(rng.integers(5, 24)))
    canvas = rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)
    labels = rng.integers(1, 9, (20, 24)).astype(np.int32)
    options = AugmentOptions((17, 13), min_scale=0.5, max_scale=2.0, num_scales=5)
    window = random_window(jax.random.key(seed), jnp.array(size), options)
    image = sample_image(jnp.asarray(canvas), jnp.array(size), window, normalization='unit')
    sampled = sample_labels(jnp.asarray(labels), jnp.array(size), window, fill=0)
    expected, expected_labels = _reference(canvas / 127.5 - 1, labels, size, window, 0)
    np.testing.assert_allclose(image, expected, atol=1e-4)
    assert np.mean(np.asarray(sampled) == expected_labels) > 0.99
    # Void and padding are the same pixels.
    np.testing.assert_array_equal(np.asarray(sampled) == 0, expected_labels == 0)
    # The implementation for TPUs, which a CPU does not choose.
    low, high, fraction, _ = sampling._split(window.rows, size[0])
    matrix = sampling._interpolation(low, high, fraction, 20)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)


def test_without_scale_and_flip_the_crop_is_a_cut():
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 1000, (12, 16)), jnp.int32)
    options = AugmentOptions((8, 9), min_scale=1.0, max_scale=1.0, flip_probability=0.0)
    window = random_window(jax.random.key(3), jnp.array([12, 16]), options)
    cut = np.asarray(sample_labels(labels, jnp.array([12, 16]), window, fill=-1))
    y, x = round(float(window.rows[0])), round(float(window.columns[0]))
    np.testing.assert_array_equal(cut, labels[y : y + 8, x : x + 9])


def test_flip_mirrors_and_all_draws_occur():
    options = AugmentOptions((4, 4), min_scale=1.0, max_scale=1.0)
    keys = jax.random.split(jax.random.key(0), 200)
    windows = jax.vmap(lambda key: random_window(key, jnp.array([6, 6]), options))(keys)
    is_flipped = windows.columns[:, 0] > windows.columns[:, -1]
    assert 0.35 < float(is_flipped.mean()) < 0.65
    assert set(np.round(np.asarray(windows.rows[:, 0])).astype(int)) == {0, 1, 2}


def _draw_windows(size, num_draws=60, **fields):
    """Windows without scale, and options, that show every image whole."""
    options = AugmentOptions(**{'crop_size': size, 'min_scale': 1.0, 'max_scale': 1.0, **fields})
    keys = jax.random.split(jax.random.key(0), num_draws)
    return jax.vmap(lambda key: random_window(key, jnp.array(size), options))(keys)


def _sample_both(window, size, seed=0):
    """An image and a label map that codes the same positions, through one window."""
    values = np.random.default_rng(seed).permutation(size[0] * size[1]).reshape(size)
    image = jnp.asarray(np.stack([values % 251, values // 251, values * 0], -1), jnp.uint8)
    labels = jnp.asarray(values, jnp.int32)
    sampled = sample_image(image, jnp.array(size), window, normalization='unit')
    cut = sample_labels(labels, jnp.array(size), window, fill=-1)
    return values, np.asarray((sampled + 1) * 127.5), np.asarray(cut)


def test_vertical_flip_mirrors_rows_and_twice_is_nothing():
    size = (7, 9)
    windows = _draw_windows(size, flip_probability=0.0, vertical_flip_probability=0.5)
    is_flipped = np.asarray(windows.rows[:, 0] > windows.rows[:, -1])
    assert 0.3 < is_flipped.mean() < 0.7
    window = jax.tree.map(lambda x: x[int(np.argmax(is_flipped))], windows)
    values, _, cut = _sample_both(window, size)
    np.testing.assert_array_equal(cut, values[::-1])
    again = sample_labels(jnp.asarray(cut), jnp.array(size), window, fill=-1)
    np.testing.assert_array_equal(again, values)


@pytest.mark.slow
@pytest.mark.parametrize('size', [(9, 9), (6, 6), (5, 8)])
def test_quarter_turns_are_those_of_numpy(size):
    """Of a frame that holds the image and its turn, exactly, image and label alike."""
    side = max(size)
    windows = _draw_windows(
        size, crop_size=(side, side), flip_probability=0.0, quarter_turn_probability=0.9
    )
    seen = set()
    for i in range(60):
        window = jax.tree.map(lambda x, i=i: x[i], windows)
        values, image, cut = _sample_both(window, size)
        is_inside = cut >= 0
        rows, columns = np.flatnonzero(is_inside.any(1)), np.flatnonzero(is_inside.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        turns = [k for k in range(4) if np.array_equal(np.rot90(values, k), cut[box])]
        assert len(turns) == 1
        seen |= set(turns)
        np.testing.assert_allclose(image[..., 0][is_inside], cut[is_inside] % 251, atol=1e-4)
        # Padding is the neutral grey, and void.
        np.testing.assert_allclose(image[~is_inside], 127.5)
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize('seed', range(3))
def test_rotation_by_any_angle_is_that_of_pillow(seed):
    size = (41, 33)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    options = AugmentOptions(
        size, min_scale=1.0, max_scale=1.0, flip_probability=0.0, max_rotation_degrees=90.0
    )
    window = random_window(jax.random.key(seed), jnp.array(size), options)
    # The angle that was drawn, by the positions of three pixels around the centre.
    down = [float(x[22, 16] - x[19, 16]) for x in (window.rows, window.columns)]
    angle = np.rad2deg(np.arctan2(-down[1], down[0]))
    assert abs(angle) > 1
    actual = sample_image(jnp.asarray(image), jnp.array(size), window, normalization='unit')
    actual = np.asarray((actual + 1) * 127.5)
    expected = np.stack(
        [
            Image.fromarray(channel).rotate(angle, Image.Resampling.BILINEAR, fillcolor=-1e6)
            for channel in image.transpose(2, 0, 1).astype(np.float32)
        ],
        axis=-1,
    )
    # Pillow extends the border by half a pixel.
    is_inside = (
        (window.rows >= 0)
        & (window.rows <= size[0] - 1)
        & (window.columns >= 0)
        & (window.columns <= size[1] - 1)
    )
    assert 0.4 < is_inside.mean() < 1
    np.testing.assert_allclose(actual[is_inside], expected[is_inside], atol=0.05)
    np.testing.assert_allclose(actual[~is_inside], 127.5)


@pytest.mark.slow
def test_rotated_label_and_image_are_aligned_and_void_is_outside():
    size = (40, 52)
    windows = _draw_windows(
        size,
        num_draws=8,
        crop_size=(33, 47),
        min_scale=0.6,
        max_scale=1.5,
        vertical_flip_probability=0.5,
        quarter_turn_probability=0.5,
        max_rotation_degrees=30.0,
    )
    # Vertical and horizontal ramps, in the image and in the label: no position may differ.
    labels = jnp.arange(40)[:, None] * 64 + jnp.arange(52)[None, :]
    image = jnp.stack([labels // 64, labels % 64, labels * 0], -1).astype(jnp.uint8)
    for i in range(8):
        window = jax.tree.map(lambda x, i=i: x[i], windows)
        sampled = sample_image(image, jnp.array(size), window, normalization='unit')
        cut = np.asarray(sample_labels(labels, jnp.array(size), window, fill=-1))
        ramps = np.asarray((sampled + 1) * 127.5)
        inside = cut >= 0
        assert inside.any()
        np.testing.assert_allclose(ramps[..., 0][inside], cut[inside] // 64, atol=0.51)
        np.testing.assert_allclose(ramps[..., 1][inside], cut[inside] % 64, atol=0.51)
        np.testing.assert_allclose(ramps[~inside], 127.5, atol=1e-3)
        # At the positions that the window names.
        np.testing.assert_allclose(
            ramps[..., 0][inside], np.asarray(window.rows)[inside], atol=0.01
        )


@pytest.mark.slow
def test_probability_0_turns_nothing_and_draws_what_was_drawn_before():
    size = (20, 24)
    fields = {'crop_size': (13, 17), 'min_scale': 0.5, 'max_scale': 2.0}
    plain = _draw_windows(size, 10, **fields)
    still = _draw_windows(size, 10, **fields, max_rotation_degrees=30.0, rotation_probability=0.0)
    assert still.rows.shape == (10, 13, 17)
    for i in range(10):
        a, b = (jax.tree.map(lambda x, i=i: x[i], w) for w in (plain, still))
        _, image, cut = _sample_both(a, size)
        _, other_image, other_cut = _sample_both(b, size)
        np.testing.assert_array_equal(cut, other_cut)
        np.testing.assert_allclose(image, other_image, atol=1e-3)


def test_small_image_lies_anywhere_in_the_crop():
    options = AugmentOptions((9, 9), min_scale=1.0, max_scale=1.0, flip_probability=0.0)
    keys = jax.random.split(jax.random.key(0), 100)
    windows = jax.vmap(lambda key: random_window(key, jnp.array([5, 5]), options))(keys)
    starts = {int(np.flatnonzero(np.round(rows) == 0)[0]) for rows in np.asarray(windows.rows)}
    # DeepLab2 draws the padding before an image from 0 .. crop - size - 1.
    assert starts == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize('resized', [(7, 9), (13, 17), (25, 33)])
def test_there_and_back_keeps_labels(resized):
    """Enlarging and shrinking with nearest neighbours on aligned corners returns every label."""
    size = jnp.array([7, 9])
    labels = jnp.arange(1, 64).reshape(7, 9)
    window = centered_window(size, jnp.array(resized), (27, 35))
    large = sample_labels(labels, size, window, fill=0)
    assert large[resized[0] :].max() == 0 and large[:, resized[1] :].max() == 0
    back = sample_labels(
        large, jnp.array(resized), centered_window(jnp.array(resized), size, (8, 10)), fill=0
    )
    np.testing.assert_array_equal(back[:7, :9], labels)
    assert back[7:].max() == 0 and back[:, 9:].max() == 0


def test_per_image_normalization_sees_valid_pixels_only():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (8, 10, 3)).astype(np.uint8)
    image[5:] = 255
    normalized = normalize_image(jnp.asarray(image), jnp.array([5, 10]), kind='per_image')[:5]
    np.testing.assert_allclose(normalized.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(), 1, atol=1e-4)
    with pytest.raises(ValueError, match="'none' is unknown"):
        normalize_image(jnp.asarray(image), jnp.array([5, 10]), kind='none')


@pytest.mark.parametrize('num_channels', [1, 2, 3, 5])
def test_normalization_of_any_number_of_channels(num_channels):
    image = np.random.default_rng(0).integers(0, 256, (6, 7, num_channels), dtype=np.uint8)
    size = jnp.array([6, 7])
    mean = tuple(float(i + 1) for i in range(num_channels))
    given = ChannelStatistics(mean, tuple(2 * m for m in mean))
    normalized = normalize_image(jnp.asarray(image), size, kind=given)
    np.testing.assert_allclose(normalized, (image - np.array(mean)) / (2 * np.array(mean)), 1e-5)
    one = normalize_image(jnp.asarray(image), size, kind=ChannelStatistics((9.0,), (3.0,)))
    np.testing.assert_allclose(one, (image - 9.0) / 3.0, 1e-5)
    imagenet = normalize_image(jnp.asarray(image), size, kind='imagenet')
    average = normalize_image(jnp.asarray(np.repeat(image[..., :1], 3, 2)), size, kind='imagenet')
    assert imagenet.shape == image.shape
    if num_channels != 3:
        # Other channels than colours get the average over the colours.
        np.testing.assert_allclose(imagenet[..., 0], (image[..., 0] - 114.495) / 57.63, 1e-4)
    else:
        np.testing.assert_allclose(imagenet[..., 0], average[..., 0])


def test_statistics_of_channels_are_checked():
    with pytest.raises(ValueError, match='pixel_mean.*pixel_deviation.*one number per channel'):
        ChannelStatistics((), ())
    with pytest.raises(ValueError, match='must be positive'):
        ChannelStatistics((1.0,), (0.0,))
    with pytest.raises(ValueError, match=r'config\.data\.num_channels \(=4\)'):
        ChannelStatistics((1.0, 2.0), (1.0, 2.0)).check_channels(4)
