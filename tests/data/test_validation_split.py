"""Division into training and validation images by the hashes of names."""

import pytest

from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import AnnotatedSplit, ImagePair
from pdl_jax.data.validation_split import divide_split


def make_split(names):
    spec = catalog.from_categories('own', [{'id': 0, 'name': 'a', 'isthing': 0}])
    items = tuple(ImagePair(name, f'{name}.png', f'{name}.png', f'{name}.png') for name in names)
    return AnnotatedSplit(spec, items, lambda item: item, 'f', notes=('n',))


def divide(names, fraction=0.2, **options):
    train, val = divide_split(make_split(names), fraction, **options)
    assert {i.image_id for i in (*train.items, *val.items)} == set(names)
    return [item.image_id for item in train.items], [item.image_id for item in val.items]


NAMES = [f'image_{i:04}' for i in range(1000)]


def test_share_is_about_the_fraction():
    for fraction in (0.05, 0.2, 0.5):
        train, val = divide(NAMES, fraction)
        assert abs(len(val) - 1000 * fraction) < 45
        assert train == sorted(train) and val == sorted(val)


def test_later_images_change_no_other_place():
    before = set(divide(NAMES[::3])[1])
    after = set(divide(NAMES)[1])
    assert after & set(NAMES[::3]) == before
    assert set(divide(NAMES, seed=1)[1]) != after
    # A larger share takes more, and leaves the others where they are.
    assert after < set(divide(NAMES, 0.4)[1])


@pytest.mark.parametrize('fraction', [0.001, 0.999])
@pytest.mark.parametrize('number', [2, 3, 7])
def test_no_part_is_empty(fraction, number):
    train, val = divide(NAMES[:number], fraction)
    assert train and val
    assert min(len(train), len(val)) == 1


def test_parts_know_what_they_are_made_of():
    train, val = divide_split(make_split(NAMES), 0.2)
    other, _ = divide_split(make_split(NAMES), 0.3)
    assert len({train.fingerprint, val.fingerprint, other.fingerprint, 'f'}) == 4
    # Notes are told once.
    assert train.notes == ('n',) and val.notes == ()


@pytest.mark.parametrize('fraction', [0, 1, -0.1, 20, float('nan')])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match=r'val_fraction \(=.*\) must lie between 0 and 1'):
        divide(NAMES, fraction)
    with pytest.raises(ValueError, match='at least two images'):
        divide(NAMES[:1])
