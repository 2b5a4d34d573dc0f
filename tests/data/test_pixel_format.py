"""Value ranges: what becomes 0 and 255, measured, given, stored and read back."""

import numpy as np
import pytest

from pdl_jax.data import pixel_format
from pdl_jax.data.pixel_format import PixelFormat, measure_range, parse_value_range, sample_values


def test_eight_bits_are_never_scaled():
    values = np.random.default_rng(0).integers(3, 90, (8, 9, 3), dtype=np.uint8)
    assert PixelFormat(value_range=((0.0, 10.0),)).scale(values) is values


@pytest.mark.parametrize('dtype', ['u2', 'i2', 'u4', 'i4', 'f4', 'f8'])
def test_every_type_is_scaled_alike(dtype, monkeypatch):
    monkeypatch.setattr(pixel_format, '_MAX_PART', 30)
    values = np.random.default_rng(0).integers(0, 4096, (17, 9, 2)).astype(dtype)
    scaled = PixelFormat(2, ((100.0, 4000.0), (0.0, 2000.0))).scale(values)
    expected = np.stack(
        [
            np.rint((values[..., 0] - 100.0) / 3900 * 255).clip(0, 255),
            np.rint(values[..., 1] / 2000.0 * 255).clip(0, 255),
        ],
        axis=-1,
    )
    assert scaled.dtype == np.uint8
    np.testing.assert_array_equal(scaled, expected)


def test_values_that_are_no_numbers_become_black():
    values = np.array([[[np.nan], [np.inf], [-np.inf], [1.0]]], np.float32)
    scaled = PixelFormat(1, ((0.0, 1.0),)).scale(values)
    assert scaled[0, :, 0].tolist() == [0, 255, 0, 255]
    # Only what is finite is measured.
    assert PixelFormat(1).scale(values).shape == (1, 4, 1)
    assert not PixelFormat(1).scale(np.full((2, 2, 1), np.nan, np.float32)).any()


def test_a_range_leaves_hot_pixels_out_and_each_channel_has_its_own():
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(100, 4000, (200, 200)), rng.integers(0, 50, (200, 200))], -1)
    values[3, 4] = 60_000
    (low, high), faint = measure_range([sample_values(values)])
    assert 100 <= low < 110 and 3980 < high <= 4000
    assert faint == (0.0, 49.0)


def test_flat_images_have_a_range_too():
    assert measure_range([np.full((9, 1), 7.0)]) == ((7.0, 8.0),)
    # Objects of less than the percentile's share do not vanish.
    mostly = np.zeros((100_000, 1))
    mostly[0] = 900.0
    assert measure_range([mostly]) == ((0.0, 900.0),)


def test_samples_are_bounded():
    assert len(sample_values(np.zeros((3000, 2000, 2), np.uint16))) <= 2**16
    assert len(sample_values(np.zeros((1, 300_000, 1), np.uint16))) > 1000


def test_a_format_is_stored_and_read_back():
    for pixels in (PixelFormat(), PixelFormat(5), PixelFormat(2, ((0.5, 3.25), (1.0, 2.0)))):
        assert PixelFormat.from_dict(pixels.to_dict(), source='x') == pixels
    assert PixelFormat.from_dict({}, source='x') == PixelFormat()


@pytest.mark.parametrize(
    'values',
    [
        {'num_channels': 0},
        {'num_channels': 10**9},
        {'num_channels': 'three'},
        {'num_channels': None},
        {'value_range': [[1, 0]]},
        {'value_range': [[0, float('nan')]]},
        {'value_range': 7},
        {'value_range': [[0, 1, 2]]},
        {'value_range': [[0, 1], [0, 1]]},
        {'value_range': [['a', 'b']]},
        [],
    ],
)
def test_damaged_formats_are_named(values):
    with pytest.raises(ValueError, match=r'^metadata\.json: the pixel format'):
        PixelFormat.from_dict(values, source='metadata.json')


def test_choices_of_a_range_are_read():
    assert parse_value_range('dataset') == 'dataset'
    assert parse_value_range('image') == 'image'
    assert parse_value_range('-100,4000.5') == ((-100.0, 4000.5),)
    for text in ('', 'all', '5', '1,2,3', 'a,b'):
        with pytest.raises(ValueError, match='dataset, image or two numbers LOW,HIGH'):
            parse_value_range(text)
    with pytest.raises(ValueError, match=r'LOW \(=9.0\) must be below HIGH \(=3.0\)'):
        parse_value_range('9,3')
