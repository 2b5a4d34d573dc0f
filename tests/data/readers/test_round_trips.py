"""Nuclei in every format of own data: written as tools write it, and read back."""

import numpy as np
import pytest

from pdl_jax.data.prepare import get_reader
from pdl_jax.data.readers import panoptic_folder
from tests.data import own_formats
from tests.data.own_formats import CLASS, Example

NUM_IMAGES = 4


@pytest.fixture(scope='module')
def examples(shared_dir, tmp_path_factory):
    """Some images with their nuclei, and one without any."""
    folder = shared_dir / 'data' / 'dsb2018_nuclei' / 'val'
    split = panoptic_folder.read_split(
        folder / 'images', folder / 'panoptic_val', folder / 'panoptic_val.json'
    )
    images_dir = tmp_path_factory.mktemp('nuclei') / 'images'
    images_dir.mkdir()
    nucleus = split.spec.class_names.index('nucleus')
    found = []
    for item in sorted(split.items[:NUM_IMAGES], key=lambda item: item.image_path):
        record = split.load(item)
        semantic, instance = np.divmod(record.panoptic, split.spec.label_divisor)
        path = images_dir / record.file_name
        path.write_bytes(record.image)
        found.append(Example(path, np.where(semantic == nucleus, instance, 0)))
    bare = images_dir / 'zz_bare.png'
    bare.write_bytes(found[0].path.read_bytes())
    return [*found, Example(bare, np.zeros_like(found[0].objects))]


def read_coco(folder, examples, encode):
    path = own_formats.write_coco(folder, examples, encode)
    return get_reader('coco_instances')(examples[0].path.parent, path)


def read_polygons(folder, examples):
    return read_coco(folder, examples, own_formats.encode_polygon)


def read_strings(folder, examples):
    return read_coco(folder, examples, own_formats.encode_string)


def read_counts(folder, examples):
    return read_coco(folder, examples, own_formats.encode_counts)


def read_labelme(folder, examples):
    own_formats.write_labelme(folder, examples)
    return get_reader('labelme')(folder, images_dir=examples[0].path.parent)


def read_yolo(folder, examples):
    own_formats.write_yolo(folder, examples)
    (folder / 'images').symlink_to(examples[0].path.parent)
    return get_reader('yolo')(folder)


def read_maps(folder, examples, suffix):
    for example in examples:
        own_formats.write_map(folder / f'{example.path.stem}_masks{suffix}', example.objects)
    return get_reader('instance_masks')(examples[0].path.parent, folder, class_name=CLASS)


def read_png(folder, examples):
    return read_maps(folder, examples, '.png')


def read_tiff(folder, examples):
    return read_maps(folder, examples, '.tif')


def read_npy(folder, examples):
    return read_maps(folder, examples, '.npy')


def read_object_files(folder, examples):
    own_formats.write_object_files(folder, examples)
    return get_reader('object_masks')(
        images_dir=examples[0].path.parent, labels_dir=folder, class_name=CLASS
    )


def read_bowl(folder, examples):
    own_formats.write_bowl(folder, examples)
    return get_reader('object_masks')(folder, class_name=CLASS)


def read_voc(folder, examples):
    own_formats.write_voc(folder, examples)
    (folder / 'JPEGImages').symlink_to(examples[0].path.parent)
    return get_reader('voc_pairs')(folder)


READERS = (
    read_polygons, read_strings, read_counts, read_labelme, read_yolo, read_png, read_tiff,
    read_npy, read_object_files, read_bowl, read_voc,
)  # fmt: skip


@pytest.mark.parametrize('read', READERS, ids=lambda read: read.__name__)
def test_labels_come_back(read, examples, tmp_path):
    split = read(tmp_path, examples)
    assert set(split.spec.class_names) == {'background', CLASS}
    background = split.spec.class_names.index('background')
    assert split.spec.label_format.thing_classes == (1 - background,)
    assert len(split.items) == len(examples)
    divisor = split.spec.label_divisor
    ious = []
    for item, example in zip(split.items, examples, strict=True):
        record = split.load(item)
        assert record.panoptic.dtype == np.int32
        semantic, instance = np.divmod(record.panoptic, divisor)
        np.testing.assert_array_equal(semantic == background, instance == 0)
        assert instance.max() == example.objects.max()
        ious.extend(own_formats.measure_ious(example.objects, instance))
        assert not record.remarks
    # Outlines along the edges of pixels lose nothing, and six digits enough of YOLO's.
    assert min(ious) == 1.0 if read is not read_yolo else np.mean(ious) > 0.99
    assert len(ious) > 20


def test_formats_of_one_data_set_have_one_spec(examples, tmp_path):
    specs = set()
    for i, read in enumerate((read_polygons, read_labelme, read_png, read_bowl)):
        folder = tmp_path / str(i)
        folder.mkdir()
        spec = read(folder, examples).spec
        specs.add((spec.class_names, spec.label_format))
    assert len(specs) == 1
