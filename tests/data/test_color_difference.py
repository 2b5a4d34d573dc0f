"""Colour differences against published values."""

import numpy as np
import pytest

from pdl_jax.data.color_difference import (
    SIGHTS,
    color_distances,
    delta_e_2000,
    simulate_sight,
    to_lab,
)

# Two CIELAB colours and their CIEDE2000. Source: Sharma, Wu and Dalal 2005, table 1.
PAIRS = np.array(
    [
        [50.0, 2.6772, -79.7751, 50.0, 0.0, -82.7485, 2.0425],
        [50.0, 3.1571, -77.2803, 50.0, 0.0, -82.7485, 2.8615],
        [50.0, 2.8361, -74.02, 50.0, 0.0, -82.7485, 3.4412],
        [50.0, -1.3802, -84.2814, 50.0, 0.0, -82.7485, 1.0],
        [50.0, -1.1848, -84.8006, 50.0, 0.0, -82.7485, 1.0],
        [50.0, -0.9009, -85.5211, 50.0, 0.0, -82.7485, 1.0],
        [50.0, 0.0, 0.0, 50.0, -1.0, 2.0, 2.3669],
        [50.0, -1.0, 2.0, 50.0, 0.0, 0.0, 2.3669],
        [50.0, 2.49, -0.001, 50.0, -2.49, 0.0009, 7.1792],
        [50.0, 2.49, -0.001, 50.0, -2.49, 0.001, 7.1792],
        [50.0, 2.49, -0.001, 50.0, -2.49, 0.0011, 7.2195],
        [50.0, 2.49, -0.001, 50.0, -2.49, 0.0012, 7.2195],
        [50.0, -0.001, 2.49, 50.0, 0.0009, -2.49, 4.8045],
        [50.0, -0.001, 2.49, 50.0, 0.001, -2.49, 4.8045],
        [50.0, -0.001, 2.49, 50.0, 0.0011, -2.49, 4.7461],
        [50.0, 2.5, 0.0, 50.0, 0.0, -2.5, 4.3065],
        [50.0, 2.5, 0.0, 73.0, 25.0, -18.0, 27.1492],
        [50.0, 2.5, 0.0, 61.0, -5.0, 29.0, 22.8977],
        [50.0, 2.5, 0.0, 56.0, -27.0, -3.0, 31.903],
        [50.0, 2.5, 0.0, 58.0, 24.0, 15.0, 19.4535],
        [50.0, 2.5, 0.0, 50.0, 3.1736, 0.5854, 1.0],
        [50.0, 2.5, 0.0, 50.0, 3.2972, 0.0, 1.0],
        [50.0, 2.5, 0.0, 50.0, 1.8634, 0.5757, 1.0],
        [50.0, 2.5, 0.0, 50.0, 3.2592, 0.335, 1.0],
        [60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644],
        [63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.263],
        [61.2901, 3.7196, -5.3901, 61.4292, 2.248, -4.962, 1.8731],
        [35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645],
        [22.7233, 20.0904, -46.694, 23.0331, 14.973, -42.5619, 2.0373],
        [36.4612, 47.858, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146],
        [90.8027, -2.0831, 1.441, 91.1528, -1.6435, 0.0447, 1.4441],
        [90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381],
        [6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377],
        [2.0776, 0.0795, -1.135, 0.9033, -0.0636, -0.5514, 0.9082],
    ]
)


def test_ciede2000_equals_the_published_pairs():
    assert len(PAIRS) == 34
    one, other, expected = PAIRS[:, :3], PAIRS[:, 3:6], PAIRS[:, 6]
    np.testing.assert_allclose(delta_e_2000(one, other), expected, atol=5e-5)
    np.testing.assert_allclose(delta_e_2000(other, one), expected, atol=5e-5)


@pytest.mark.parametrize(
    ('rgb', 'lab'),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (0.27, 0, 0)),
    ],
)
def test_lab_of_srgb(rgb, lab):
    found = to_lab(simulate_sight(np.array(rgb), 'normal'))
    np.testing.assert_allclose(found, lab, atol=0.02)


def test_dichromats_keep_greys_and_confuse_red_with_green():
    greys = np.repeat(np.arange(0, 256, 5)[:, None], 3, axis=1)
    normal = simulate_sight(greys, 'normal')
    for sight in SIGHTS:
        np.testing.assert_allclose(simulate_sight(greys, sight), normal, atol=2e-6)
    # A brown and a green of Ishihara's plates, and a blue that all tell apart.
    colors = np.array([[160, 110, 40], [112, 126, 45], [60, 90, 220]])
    normal = color_distances(colors, sights=('normal',))
    for sight in ('deuteranope', 'protanope'):
        found = color_distances(colors, sights=(sight,))
        assert found[0, 1] < normal[0, 1] / 2 and found[0, 2] > 40
    smallest = color_distances(colors)
    np.testing.assert_array_equal(
        smallest, np.min([color_distances(colors, sights=(s,)) for s in SIGHTS], axis=0)
    )
