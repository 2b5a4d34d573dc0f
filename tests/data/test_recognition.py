"""Layouts are recognised as tools write them, and read back by the reader that is named."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.prepare import get_reader
from pdl_jax.data.recognition import recognize
from tests.data import own_formats
from tests.data.own_formats import CLASS, Example
from tests.data.tiny_folder import write_tiny_folder


@pytest.fixture
def examples(tmp_path):
    """Three images of 30x40 pixels with two objects each."""
    folder = tmp_path / 'own' / 'images'
    folder.mkdir(parents=True)
    found = []
    for i in range(3):
        objects = np.zeros((30, 40), np.int32)
        objects[3:10, 4 : 12 + i] = 1
        objects[15:25, 20:30] = 2
        path = folder / f'cell{i}.png'
        Image.fromarray((objects[..., None] * [40, 60, 80]).astype(np.uint8)).save(path)
        found.append(Example(path, objects))
    return found


def write_masks(folder, examples):
    (folder / 'masks').mkdir()
    for example in examples:
        own_formats.write_map(folder / 'masks' / f'{example.path.stem}.tif', example.objects)


def write_binary(folder, examples):
    (folder / 'labels').mkdir()
    for example in examples:
        mask = Image.fromarray((example.objects > 0).astype(np.uint8) * 255)
        mask.save(folder / 'labels' / f'{example.path.stem}.png')


def write_index_maps(folder, examples):
    write_binary(folder, examples)
    for path in (folder / 'labels').iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    (folder / 'classes.txt').write_text(f'background\n{CLASS}\n')


def write_coco(folder, examples):
    path = own_formats.write_coco(folder, examples, own_formats.encode_polygon)
    # Tools write plain names as often as nested ones.
    path.write_text(path.read_text().replace('nested/', ''))


def write_voc(folder, examples):
    own_formats.write_voc(folder, examples)
    (folder / 'images').rename(folder / 'JPEGImages')


WRITERS = {
    'coco_instances': write_coco,
    'labelme': own_formats.write_labelme,
    'yolo': own_formats.write_yolo,
    'instance_masks': write_masks,
    'binary_masks': write_binary,
    'label_maps': write_index_maps,
    'voc_pairs': write_voc,
}


@pytest.mark.parametrize('kind', WRITERS)
def test_own_data_are_recognised_and_read(kind, examples):
    folder = examples[0].path.parents[1]
    WRITERS[kind](folder, examples)
    (layout,) = recognize(folder, class_name=CLASS)
    assert (layout.format, layout.split) == (kind, '')
    split = get_reader(kind)(**layout.options)
    assert len(split.items) == 3 and CLASS in split.spec.class_names
    panoptic = split.load(split.items[0]).panoptic
    assert panoptic.shape == (30, 40)
    # The reader saw the objects: they differ from their surroundings.
    assert panoptic[5, 6] != panoptic[0, 0] != panoptic[20, 25]


def test_folders_of_objects_are_recognised(examples, tmp_path):
    own_formats.write_bowl(tmp_path / 'bowl', examples)
    (layout,) = recognize(tmp_path / 'bowl')
    assert layout.format == 'object_masks' and layout.options['class_name'] == 'object'


def test_splits_in_folders_are_kept_apart(examples, tmp_path):
    folder = examples[0].path.parents[1]
    write_masks(folder, examples)
    root = tmp_path / 'root'
    root.mkdir()
    (root / 'train').symlink_to(folder)
    (root / 'valid').symlink_to(folder)
    assert [(item.format, item.split) for item in recognize(root)] == [
        ('instance_masks', 'train'),
        ('instance_masks', 'val'),
    ]


def test_panoptic_files_find_their_folders(tmp_path):
    paths = write_tiny_folder(tmp_path)
    for layouts in (recognize(tmp_path), recognize(paths['json_path'])):
        (layout,) = layouts
        assert layout.format == 'coco_panoptic'
        for key, path in paths.items():
            assert layout.options[key] == str(path)


def test_what_is_nothing_says_what_was_looked_for(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps({'hello': [1]}))
    with pytest.raises(ValueError, match='no known layout. Looked for COCO JSON'):
        recognize(tmp_path)
    with pytest.raises(ValueError, match='is no COCO annotation file'):
        recognize(tmp_path / 'a.json')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        recognize(tmp_path / 'b')


def test_colours_without_a_list_are_asked_for(examples):
    folder = examples[0].path.parents[1]
    (folder / 'masks').mkdir()
    for example in examples:
        colors = np.where(example.objects[..., None] > 0, (250, 50, 83), (0, 9, 0))
        Image.fromarray(colors.astype(np.uint8)).save(folder / 'masks' / example.path.name)
    with pytest.raises(ValueError, match='put classes.csv'):
        recognize(folder)
