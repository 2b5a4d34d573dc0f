"""Stacking of objects: smaller ones on top, crowds at the bottom, counts of what is hidden."""

import numpy as np
import pytest

from pdl_jax.data import catalog, objects
from pdl_jax.data.objects import EMPTY, HIDDEN, OVERLAPPED, AnnotatedObject, ObjectCanvas
from pdl_jax.data.regions import Bitmap, Patch

SIZE = (8, 10)
SPEC = catalog.from_categories(
    'own',
    [
        {'id': 0, 'name': 'background', 'isthing': 0},
        {'id': 1, 'name': 'cell', 'isthing': 1},
        {'id': 2, 'name': 'nucleus', 'isthing': 1},
        {'id': 3, 'name': 'dirt', 'isthing': 0},
    ],
)
VOID = SPEC.ignore_label


def make_object(semantic, top, left, height, width, *, is_crowd=False):
    region = Bitmap(top, left, np.ones((height, width), bool))
    return AnnotatedObject(semantic, (region,), is_crowd, f'object {semantic}')


def label(items, base=0):
    return objects.label_objects(items, size=SIZE, base=base, spec=SPEC, name='a.png')


def test_smaller_objects_lie_on_top_in_any_order():
    large, small = make_object(1, 0, 0, 6, 6), make_object(2, 4, 4, 3, 3)
    expected = np.zeros(SIZE, np.int32)
    expected[:6, :6] = 1001
    expected[4:7, 4:7] = 2001
    for items in ([large, small], [small, large]):
        found, remarks = label(items)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
        assert remarks == {OVERLAPPED: 1}


def test_instances_are_numbered_within_their_class_without_gaps():
    hidden = make_object(1, 1, 1, 2, 2)
    cover = [make_object(2, 1, 1, 2, 1), make_object(2, 1, 2, 2, 1)]
    items = [hidden, *cover, make_object(1, 5, 5, 1, 1), make_object(1, 20, 0, 1, 1)]
    found, remarks = label(items)
    assert sorted(set(found.ravel().tolist())) == [0, 1001, 2001, 2002]
    assert remarks == {HIDDEN: 1, EMPTY: 1}


def test_equal_objects_keep_the_first():
    found, remarks = label([make_object(1, 0, 0, 2, 2), make_object(2, 0, 0, 2, 2)])
    assert set(found.ravel().tolist()) == {0, 1001}
    assert remarks == {HIDDEN: 1}


def test_crowds_stuff_and_void_are_no_objects():
    crowd = make_object(1, 0, 0, 1, 2, is_crowd=True)
    items = [
        crowd,
        make_object(1, 0, 0, 8, 1),
        make_object(3, 7, 0, 1, 10),
        make_object(3, 0, 9, 8, 1),
        make_object(VOID, 3, 3, 2, 2),
    ]
    found, remarks = label(items, base=VOID * 1000)
    # The object lies on top of the crowd, although it is larger.
    assert found[0, 0] == 1001 and found[0, 1] == 1000
    # The smaller one of two on top, whatever they are.
    assert found[7, 0] == 1001 and found[7, 5] == found[2, 9] == 3000
    assert (found[3:5, 3:5] == VOID * 1000).all() and found[2, 2] == VOID * 1000
    assert remarks == {}


def test_objects_may_have_parts_and_lie_on_a_label_map():
    base = np.full(SIZE, 3000, np.int32)
    parts = (Bitmap(0, 0, np.ones((1, 1), bool)), Bitmap(7, 9, np.ones((1, 1), bool)))
    found, _ = label([AnnotatedObject(1, parts, False, 'x')], base=base)
    assert found[0, 0] == found[7, 9] == 1001 and (found == 3000).sum() == 78


def test_maps_of_several_objects():
    ids = np.zeros(SIZE, np.int32)
    ids[:, :4], ids[:, 6:] = 1, 2
    canvas = ObjectCanvas(SIZE, 3, 'a.png')
    canvas.add(Patch(0, 0, ids), [1, 1])
    canvas.add(Patch(2, 3, np.ones((3, 4), np.uint8)), [2])
    found, remarks = canvas.make_label(0, SPEC)
    assert found[0, 0] == 1001 and found[0, 9] == 1002
    assert (found[2:5, 3:7] == 2001).all() and remarks == {OVERLAPPED: 2}


def test_too_many_or_too_large_objects(monkeypatch):
    items = [make_object(1, i % 8, i % 10, 1, 1) for i in range(40)]
    narrow = catalog.DatasetSpec('own', SPEC.categories, 0, VOID, label_divisor=20)
    with pytest.raises(
        ValueError, match=r'label_divisor \(=20\) must exceed the 40 objects of .*a'
    ):
        objects.label_objects(items, size=SIZE, base=0, spec=narrow, name='a.png')
    monkeypatch.setattr(objects, 'MAX_DRAWN_PX', 39)
    with pytest.raises(ValueError, match=r'a\.png: the objects of one image take over 39 pixels'):
        label(items)


def test_errors_name_the_object():
    class Broken:
        def draw(self, size):
            raise ValueError('it is broken')

    with pytest.raises(ValueError, match=r'annotations\[3\]: it is broken'):
        label([AnnotatedObject(1, (Broken(),), False, 'annotations[3]')])


def test_majorities():
    numbers = np.array([7, 7, 7, 3, 3, 0])
    classes = np.array([2, 1, 2, 5, 1, 4])
    assert list(objects.find_majorities(numbers, classes).items()) == [(0, 4), (3, 1), (7, 2)]
    assert objects.find_majorities(numbers[:0], classes[:0]) == {}
    assert objects.count_most([[make_object(1, 0, 0, 1, 1)] * 3, []]) == 3
    assert objects.count_most([]) == 0
