"""Categories of annotation files: what is malformed is named."""

import pytest

from pdl_jax.data import categories
from pdl_jax.data.notices import Notices

CATEGORY = {'id': 1, 'name': 'cat', 'isthing': 1, 'color': [1, 2, 3]}


@pytest.mark.parametrize(
    'values, message',
    [
        ([], r'categories of f\.json must be a list'),
        ('text', r'must be a list'),
        ([3], r'categories\[0\] of f\.json must be an object'),
        ([CATEGORY, {'id': 2, 'name': 'x'}], r"\[1\] of f\.json lacks the field 'isthing'"),
        ([dict(CATEGORY, id='1a')], r"id must be int, got '1a'"),
        ([dict(CATEGORY, id=True)], r'id must be int, got True'),
        ([dict(CATEGORY, id=-1)], r'id must lie in 0 \.\. 2147483647, got -1'),
        ([dict(CATEGORY, id=10**400)], r'got an integer of more than 70 digits'),
        ([dict(CATEGORY, name='')], r"name must be a non-empty string, got ''"),
        ([dict(CATEGORY, isthing=2)], r'isthing must be 0 or 1, got 2'),
        ([dict(CATEGORY, isthing='yes')], r"isthing must be 0 or 1, got 'yes'"),
        ([dict(CATEGORY, color=[1, 2, 256])], r'color must be three integers'),
        ([dict(CATEGORY, color='#12345g')], r"color must be three integers.*got '#12345g'"),
        ([dict(CATEGORY, color='ff00ff00')], r"got 'ff00ff00'"),
        ([dict(CATEGORY, name='a' * 300)], r'name must be text of at most 200 letters'),
        ([dict(CATEGORY, name='\ud800')], r'name must be text of at most'),
        ([CATEGORY] * 20_000, r'lists 20000 categories, more than 16384'),
        ([CATEGORY, dict(CATEGORY)], r'categories\[\]\.id of f\.json holds 1 more than once'),
    ],
)
def test_malformed_categories_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        categories.parse_categories(values, source='f.json')


@pytest.mark.parametrize(
    'color', [[255, 0, 16], [255.0, 0, '16'], '#ff0010', 'FF0010', ' 0xff0010']
)
def test_colors_of_several_kinds(color):
    (category,) = categories.parse_categories([dict(CATEGORY, color=color)], source='f.json')
    assert category.color == (255, 0, 16)


def test_numbers_of_other_types_are_read_and_counted():
    notices = Notices()
    values = [dict(CATEGORY, id='7', isthing=True), dict(CATEGORY, id=8.0, isthing='0', name='x')]
    parsed = categories.parse_categories(values, source='f.json', notices=notices)
    assert [(c.id, c.is_thing) for c in parsed] == [(7, True), (8, False)]
    (line,) = notices.to_lines()
    assert line.startswith('3 numbers of another type') and "id '7' in categories[0]" in line


def test_equal_names_get_their_ids():
    notices = Notices()
    values = [CATEGORY, dict(CATEGORY, id=5), dict(CATEGORY, id=6, name='dog')]
    parsed = categories.parse_categories(values, source='f.json', notices=notices)
    assert [c.name for c in parsed] == ['cat (1)', 'cat (5)', 'dog']
    assert '2 categories share a name' in notices.to_lines()[0]
    assert "'cat' has the ids [1, 5] in f.json" in notices.to_lines()[0]


def test_a_missing_isthing_is_guessed_for_all_or_none():
    notices = Notices()
    values = [{'id': 1, 'name': 'sky'}, {'id': 2, 'name': 'car', 'isthing': None}]
    parsed = categories.parse_categories(
        values, source='f.json', notices=notices, guess_things=lambda: {2}
    )
    assert [c.is_thing for c in parsed] == [False, True]
    assert 'things: car; stuff: sky' in notices.to_lines()[0]
    with pytest.raises(ValueError, match=r"categories\[1\] of f\.json lacks the field 'isthing'"):
        categories.parse_categories(
            [CATEGORY, {'id': 2, 'name': 'car'}], source='f.json', guess_things=lambda: {2}
        )
