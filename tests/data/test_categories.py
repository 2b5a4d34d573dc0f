"""Categories of annotation files: what is malformed is named."""

import pytest

from pdl_jax.data import categories

CATEGORY = {'id': 1, 'name': 'cat', 'isthing': 1, 'color': [1, 2, 3]}


@pytest.mark.parametrize(
    'values, message',
    [
        ([], r'categories of f\.json must be a list'),
        ('text', r'must be a list'),
        ([3], r'categories\[0\] of f\.json must be an object'),
        ([CATEGORY, {'id': 2, 'name': 'x'}], r"\[1\] of f\.json lacks the field 'isthing'"),
        ([dict(CATEGORY, id='1')], r"id must be an integer >= 0, got '1'"),
        ([dict(CATEGORY, id=True)], r'id must be an integer >= 0, got True'),
        ([dict(CATEGORY, name='')], r"name must be a non-empty string, got ''"),
        ([dict(CATEGORY, isthing=2)], r'isthing must be 0 or 1, got 2'),
        ([dict(CATEGORY, isthing='1')], r"isthing must be 0 or 1, got '1'"),
        ([dict(CATEGORY, color=[1, 2, 256])], r'color must be three integers'),
        ([CATEGORY, dict(CATEGORY)], r'categories\[\]\.id of f\.json holds 1 more than once'),
    ],
)
def test_malformed_categories_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        categories.parse_categories(values, source='f.json')
