"""Fields of untrusted JSON: the right ones pass, errors name place, field and value."""

import pytest

from pdl_jax.data.json_fields import (
    get_field,
    get_flag,
    get_integer,
    has_value,
    refuse_repeated,
    to_integer,
)
from pdl_jax.data.notices import Notices


@pytest.mark.parametrize(
    'value, kind', [(3, int), ('x', (int, str)), ([], list), (True, bool), (0.5, (int, float))]
)
def test_fields_of_the_right_type_pass(value, kind):
    assert get_field({'key': value}, 'key', kind, 'a.json') == value


@pytest.mark.parametrize(
    'values, kind, message',
    [
        ([1], int, r"a\.json must be an object with a field 'key', got \[1\]"),
        ({'other': 1}, int, r"a\.json lacks the field 'key'"),
        ({'key': '3'}, (int, float), r"a\.json: key must be int or float, got '3'"),
        ({'key': True}, (int, str), r'a\.json: key must be int or str, got True'),
        ({'key': 1}, bool, r'a\.json: key must be bool, got 1'),
    ],
)
def test_other_fields_are_named(values, kind, message):
    with pytest.raises(ValueError, match=message):
        get_field(values, 'key', kind, 'a.json')


def test_repeated_values_are_named():
    refuse_repeated(['a', 'b'], 'names')
    with pytest.raises(ValueError, match="names holds 'b' more than once: it must be unique"):
        refuse_repeated(['a', 'b', 'b'], 'names')


@pytest.mark.parametrize('value', [3, 3.0, '3', ' 3 '])
def test_integers_of_any_type_are_read(value):
    notices = Notices()
    assert get_integer({'id': value}, 'id', 'a.json', notices=notices) == 3
    assert len(notices.to_lines()) == (type(value) is not int)


@pytest.mark.parametrize(
    'value', [None, True, 3.5, '3.5', '', 'x', '٣', [3], {}, float('nan'), float('inf'), '9' * 400]
)
def test_what_is_no_integer_is_named(value):
    with pytest.raises(ValueError, match=r'a\.json: id must be int, got '):
        get_integer({'id': value}, 'id', 'a.json')
    assert to_integer(value) is None


@pytest.mark.parametrize('value', [-1, 10, '10', 10**400, 1e300])
def test_integers_out_of_bounds_are_named(value):
    with pytest.raises(ValueError, match=r'a\.json: id must lie in 0 \.\. 9, got '):
        get_integer({'id': value}, 'id', 'a.json', low=0, high=9)


def test_flags_of_any_type_are_read():
    notices = Notices()
    for value in (1, True, 1.0, '1', 'true', 'True'):
        assert get_flag({'a': value}, 'a', 'x', notices=notices) is True
        assert get_flag({'a': {1: 0, '1': '0'}.get(value, False)}, 'a', 'x') is False
    # true and 1 are what JSON has for a flag.
    assert notices.to_lines()[0].startswith('4 numbers of another type')
    for value in (2, '2', 'yes', None, [], float('nan')):
        with pytest.raises(ValueError, match='x: a must be 0 or 1, got '):
            get_flag({'a': value}, 'a', 'x')


def test_null_and_nan_are_no_values():
    values = {'a': None, 'b': float('nan'), 'c': 0, 'd': ''}
    assert [has_value(values, key, 'x') for key in 'abcde'] == [False, False, True, True, False]
    with pytest.raises(ValueError, match=r"x must be an object with a field 'a', got \[1\]"):
        has_value([1], 'a', 'x')


def test_notices_are_counted_with_their_first_place():
    notices = Notices()
    notices.add('segments lack area', 'a')
    notices.add('images lack height', 'b')
    notices.add('segments lack area', 'c', 3)
    other = Notices()
    other.add_remarks({'{} segments lack area': 2, '{} PNGs are grey': 1}, 'd.png')
    notices.merge(other)
    assert notices.to_lines() == (
        '6 segments lack area (first: a)',
        '1 images lack height (first: b)',
        '1 PNGs are grey (first: d.png)',
    )
