"""Dataset descriptions: official tables, recognition, validation."""

import json

import pytest

from pdl_jax.data import catalog

CATEGORY = {'id': 1, 'name': 'cat', 'isthing': 1, 'color': [1, 2, 3]}


def test_coco_is_the_official_table(shared_dir):
    path = shared_dir / 'data/coco_panoptic_200/panoptic_coco_categories.json'
    official = json.loads(path.read_text())
    assert catalog.from_categories('x', official).categories == catalog.coco().categories
    assert catalog.get_spec('auto', official) == catalog.coco()


def test_coco_labels_as_deeplab2_does():
    spec = catalog.coco()
    label_format = spec.label_format
    assert (label_format.num_classes, label_format.ignore_label) == (134, 0)
    assert label_format.label_divisor == 256
    assert label_format.thing_classes == tuple(range(1, 81))
    assert label_format.void_label == 0
    assert len(spec.class_names) == 134
    assert spec.class_names[:2] == ('void', 'person')
    assert spec.class_names[-1] == 'rug-merged'
    assert spec.class_of_category[90] == 80 and spec.class_of_category[92] == 81
    assert spec.category_of_class[133].id == 200
    assert 0 not in spec.category_of_class
    assert spec.make_palette()[0].tolist() == [0, 0, 0]
    assert spec.make_palette()[1].tolist() == [220, 20, 60]


def test_cityscapes_classes_are_train_ids():
    spec = catalog.cityscapes()
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [spec.class_of_category[i] for i in ids] == list(range(19))
    assert spec.label_format.thing_classes == tuple(range(11, 19))
    assert (spec.ignore_label, spec.label_divisor) == (255, 1000)
    assert spec.label_format.void_label == 255000
    assert spec.class_names[13] == 'car'
    assert spec.make_palette()[13].tolist() == [0, 0, 142]


def test_from_categories_keeps_the_order_of_the_file():
    spec = catalog.from_categories('pets', [dict(CATEGORY, id=8), dict(CATEGORY, id=2, isthing=0)])
    assert spec.class_of_category == {8: 0, 2: 1}
    assert spec.label_format.thing_classes == (0,)
    assert (spec.ignore_label, spec.label_divisor) == (255, 1000)


def test_from_categories_moves_void_behind_many_classes():
    spec = catalog.from_categories('many', [dict(CATEGORY, id=i) for i in range(300)])
    assert spec.ignore_label == 300


def test_missing_color_is_invented_and_differs():
    plain = [{'id': i, 'name': str(i), 'isthing': 0} for i in range(5)]
    assert len({c.color for c in catalog.from_categories('x', plain).categories}) == 5


@pytest.mark.parametrize('spec', [catalog.coco(), catalog.cityscapes(is_train_id=True)])
def test_dict_round_trip(spec):
    again = catalog.DatasetSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


@pytest.mark.parametrize('is_train_id', [False, True])
def test_auto_recognises_cityscapes(is_train_id):
    spec = catalog.cityscapes(is_train_id=is_train_id)
    assert catalog.get_spec('auto', spec.to_dict()['categories'][::-1]) == spec
    assert catalog.get_spec('own', spec.to_dict()['categories']).name == 'own'


def test_named_spec_takes_a_part_of_its_categories():
    part = catalog.coco().to_dict()['categories'][5:9]
    assert catalog.get_spec('coco', part) == catalog.coco()
    assert catalog.get_spec('auto', part).num_classes == 4


def test_named_spec_refuses_other_categories():
    with pytest.raises(ValueError, match=r"f\.json.*'coco'.*cat.*--spec=own"):
        catalog.get_spec('coco', [CATEGORY], source='f.json')
    with pytest.raises(ValueError, match="'lvis' is unknown.*auto, own, coco"):
        catalog.get_spec('lvis', [CATEGORY])


def test_spec_refuses_an_ignore_label_that_is_a_class():
    categories = catalog.from_categories('x', [CATEGORY]).categories
    with pytest.raises(ValueError, match=r"ignore_label \(=0\).*'cat'"):
        catalog.DatasetSpec('x', categories, first_class=0, ignore_label=0, label_divisor=10)
    with pytest.raises(ValueError, match='24-bit'):
        catalog.DatasetSpec('x', categories, first_class=0, ignore_label=255, label_divisor=2**20)
    with pytest.raises(ValueError, match="lacks the field 'label_divisor'"):
        catalog.DatasetSpec.from_dict({'name': 'x', 'first_class': 0, 'ignore_label': 255})
