"""Palettes: how far apart their colours are."""

import numpy as np
import pytest

from pdl_jax.data.catalog import get_spec
from pdl_jax.data.color_difference import SIGHTS, color_distances
from pdl_jax.data.palette import choose_colors, match_colors
from pdl_jax.data.scenes.dataset import CATEGORIES


def smallest_distance(colors, sights=SIGHTS):
    """The smallest CIEDE2000 of two of the colours."""
    distances = color_distances(np.array(colors), sights=sights)
    return distances[~np.eye(len(colors), dtype=bool)].min()


@pytest.mark.parametrize(
    ('num', 'expected'), [(2, 80), (3, 50), (5, 28), (8, 22), (10, 17.5), (14, 14), (19, 11.5)]
)
def test_colors_differ_under_all_kinds_of_sight(num, expected):
    colors = choose_colors(num)
    assert len(set(colors)) == num
    assert smallest_distance(colors) > expected


def test_chosen_colors_beat_those_of_okabe_and_ito():
    famous = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178)]
    famous += [(213, 94, 0), (204, 121, 167)]
    assert smallest_distance(choose_colors(7)) > smallest_distance(famous)


def test_colors_are_deterministic_and_known_for_any_number():
    assert choose_colors(0) == ()
    first = choose_colors(12)
    choose_colors.cache_clear()
    assert choose_colors(12) == first
    assert len(set(choose_colors(133))) == 133 and smallest_distance(choose_colors(133)) > 1.5
    many = choose_colors(3000)
    assert len(many) == 3000 and all(0 <= v <= 255 for color in many for v in color)


def test_chosen_colors_differ_from_those_that_are_taken():
    taken = ((128, 128, 128), (255, 219, 36))
    colors = choose_colors(4, taken)
    assert smallest_distance([*taken, *colors]) > 25


def test_matched_colors_are_the_same_ones_near_those_wanted():
    colors = [(0, 0, 255), (250, 250, 0), (250, 0, 0)]
    wanted = [(200, 30, 30), (20, 40, 200), (220, 220, 60)]
    assert match_colors(colors, wanted) == [colors[2], colors[0], colors[1]]


def test_classes_of_the_scenes_differ_under_all_kinds_of_sight():
    assert smallest_distance([category['color'] for category in CATEGORIES]) >= 12
    spec = get_spec('auto', CATEGORIES, source='scenes')
    np.testing.assert_array_equal(spec.make_palette()[0], CATEGORIES[0]['color'])
    palette = spec.make_palette('colorblind')
    assert palette.shape == spec.make_palette().shape
    assert smallest_distance(palette[:14]) >= 14
    with pytest.raises(ValueError, match="palette .='colourblind'. must be one of given, color"):
        spec.make_palette('colourblind')


def test_classes_without_a_color_get_one_far_from_those_given():
    categories = [{'id': i, 'name': f'c{i}', 'isthing': 1} for i in range(6)]
    categories[2]['color'] = [128, 128, 128]
    colors = [c.color for c in get_spec('auto', categories, source='x').categories]
    assert colors[2] == (128, 128, 128)
    assert smallest_distance(colors) > 20
