"""COCO-Stuff in its published layouts."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import catalog, images, records
from pdl_jax.data.readers import coco_stuff
from tests.data.prepare_command import run_prepare

# The 11 of COCO's 91 things that nothing is annotated with, as labels.txt of COCO-Stuff names them.
ABSENT = {
    12: 'street sign', 26: 'hat', 29: 'shoe', 30: 'eye glasses', 45: 'plate', 66: 'mirror',
    68: 'window', 69: 'desk', 71: 'door', 83: 'blender', 91: 'hair brush',
}  # fmt: skip
LAYOUTS = [
    ('images', 'annotations'),
    ('', 'stuffthingmaps'),
    ('images', 'stuffthingmaps_trainval2017'),
]
NAMES = ('000000000139', '000000000285')


def make_labels(index: int) -> np.ndarray:
    """Returns u8[H, W] with every value that occurs."""
    values = [i - 1 for i in range(1, 183) if i not in ABSENT] + [255]
    labels = np.random.default_rng(index).choice(values, (16, 20)).astype(np.uint8)
    labels.flat[: len(values)] = values
    return labels


def make_expected(labels: np.ndarray) -> np.ndarray:
    """Returns i32[H, W], the labels as a record holds them."""
    expected = np.full(labels.shape, 255_000, np.int32)
    ids = [i for i in range(1, 183) if i not in ABSENT]
    for semantic, category_id in enumerate(ids):
        expected[labels == category_id - 1] = semantic * 1000
    return expected


def write_layout(root, folder='val2017', layout=LAYOUTS[0]):
    images_dir, labels_dir = (root / name / folder for name in layout)
    images_dir.mkdir(parents=True)
    labels_dir.mkdir(parents=True)
    for index, name in enumerate(NAMES):
        labels = make_labels(index)
        Image.fromarray(labels).save(labels_dir / f'{name}.png')
        Image.fromarray(np.full((*labels.shape, 3), 40, np.uint8)).save(images_dir / f'{name}.jpg')
    return images_dir, labels_dir


def test_classes():
    spec = coco_stuff.make_spec()
    assert (spec.num_classes, spec.ignore_label, spec.first_class) == (171, 255, 0)
    assert spec.label_format.thing_classes == ()
    assert [c.id for c in spec.categories] == [i for i in range(1, 183) if i not in ABSENT]
    # Things, and the kinds of stuff that COCO panoptic did not merge, are called the same there.
    panoptic = {c.id: c for c in catalog.coco().categories if c.id <= 182}
    shared = [c for c in spec.categories if c.id in panoptic]
    assert len(shared) == 80 + 36
    assert all((c.name, c.color) == (panoptic[c.id].name, panoptic[c.id].color) for c in shared)
    # Indices from mmsegmentation's list of classes.
    expected = {0: 'person', 11: 'stop sign', 79: 'toothbrush', 80: 'banner', 90: 'ceiling-other',
                111: 'furniture-other', 130: 'plant-other', 152: 'structural-other',
                170: 'wood'}  # fmt: skip
    assert {i: spec.class_names[i] for i in expected} == expected
    assert len(set(spec.class_names)) == 171


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout(tmp_path, layout):
    write_layout(tmp_path, layout=layout)
    split = coco_stuff.read_split(tmp_path, 'val')
    assert [pair.image_id for pair in split.items] == list(NAMES)
    for index, item in enumerate(split.items):
        record = split.load(item)
        np.testing.assert_array_equal(record.panoptic, make_expected(make_labels(index)))
        assert record.panoptic.dtype == np.int32
        assert record.file_name == f'{NAMES[index]}.jpg'
        assert record.annotation_file_name == f'{NAMES[index]}.png'


def test_real_images(shared_dir, tmp_path):
    # Panoptic COCO rewritten: merged stuff has no id in COCO-Stuff.
    source = shared_dir / 'data/coco_panoptic_200/val'
    content = json.loads((source / 'panoptic_val.json').read_text())
    images_dir, labels_dir = tmp_path / 'val2017', tmp_path / 'stuffthingmaps/val2017'
    images_dir.mkdir(parents=True)
    labels_dir.mkdir(parents=True)
    areas = {}
    for annotation in content['annotations'][:3]:
        name = annotation['file_name']
        ids = images.decode_ids((source / 'panoptic_val' / name).read_bytes(), name=name)
        labels = np.full(ids.shape, 255, np.uint8)
        counts = areas[name[:-4]] = {}
        for segment in annotation['segments_info']:
            if segment['category_id'] <= 182:
                labels[ids == segment['id']] = segment['category_id'] - 1
                category = catalog.coco().class_of_category[segment['category_id']]
                key = catalog.coco().class_names[category]
                counts[key] = counts.get(key, 0) + segment['area']
        Image.fromarray(labels).save(labels_dir / name)
        image = images_dir / f'{name[:-4]}.jpg'
        image.write_bytes((source / 'images' / image.name).read_bytes())
    split = coco_stuff.read_split(tmp_path, 'val')
    for item in split.items:
        labels, counts = np.unique(split.load(item).panoptic, return_counts=True)
        found = {
            split.spec.class_names[label // 1000]: count
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
            if label != 255_000
        }
        assert found == areas[item.image_id] and found


def test_command_line(tmp_path):
    images_dir, _ = write_layout(tmp_path, 'train2017')
    run_prepare([
        '--format=coco_stuff', f'--input={tmp_path}', '--split=train', '--num_processes=0',
        f'--out={tmp_path / "out"}',
    ])  # fmt: skip
    source = records.open_split(tmp_path / 'out', 'train')
    assert (len(source), source.max_segments, source.max_instances) == (2, 171, 0)
    assert source.spec == coco_stuff.make_spec()
    for index, name in enumerate(NAMES):
        image, label = source.decode(index)
        np.testing.assert_array_equal(label, make_expected(make_labels(index)))
        assert image.shape == (16, 20, 3)
        assert source[index]['image'] == (images_dir / f'{name}.jpg').read_bytes()
        assert source.info(index)['image_id'] == name


def test_converted_labels_are_not_read(tmp_path):
    _, labels_dir = write_layout(tmp_path)
    before = coco_stuff.read_split(tmp_path, 'val')
    converted = labels_dir / f'{NAMES[0]}_labelTrainIds.png'
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(converted)
    after = coco_stuff.read_split(tmp_path, 'val')
    assert (after.items, after.fingerprint) == (before.items, before.fingerprint)


@pytest.mark.parametrize('value', [i - 1 for i in ABSENT] + [182, 254])
def test_values_that_never_occur(tmp_path, value):
    _, labels_dir = write_layout(tmp_path)
    labels = make_labels(1)
    labels[3, 2] = value
    Image.fromarray(labels).save(labels_dir / f'{NAMES[1]}.png')
    split = coco_stuff.read_split(tmp_path, 'val')
    message = rf'{NAMES[1]}\.png holds value {value} \(first at y=3, x=2.*never 11, 25, 28'
    with pytest.raises(ValueError, match=message):
        split.load(split.items[1])


def test_files_that_do_not_fit(tmp_path):
    images_dir, labels_dir = write_layout(tmp_path)
    split = coco_stuff.read_split(tmp_path, 'val')
    label = labels_dir / f'{NAMES[0]}.png'
    Image.fromarray(make_labels(0).T).save(label)
    with pytest.raises(ValueError, match=r'139\.jpg has 16x20 .*139\.png has 20x16'):
        split.load(split.items[0])
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(label)
    with pytest.raises(ValueError, match=r"139\.png: indices must be.*mode 'RGB'"):
        split.load(split.items[0])
    label.unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 names lack a label map.*000000000139'):
        coco_stuff.read_split(tmp_path, 'val')
    for path in images_dir.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match='val2017 holds no file.*unpack the images'):
        coco_stuff.read_split(tmp_path, 'val')


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='images/train2017 does not exist: unpack the'):
        coco_stuff.read_split(tmp_path, 'train')
    (tmp_path / 'train2017').mkdir()
    (tmp_path / 'train2017/1.jpg').touch()
    with pytest.raises(FileNotFoundError, match='stuffthingmaps/train2017 does not.*unpack st'):
        coco_stuff.read_split(tmp_path, 'train')
    with pytest.raises(ValueError, match="split 'test' does not exist for COCO-Stuff"):
        coco_stuff.read_split(tmp_path, 'test')
