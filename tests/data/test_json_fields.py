"""Fields of untrusted JSON: the right ones pass, errors name place, field and value."""

import pytest

from pdl_jax.data.json_fields import get_field, refuse_repeated


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
