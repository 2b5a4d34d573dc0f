"""COCO's instance format as tools write it, and malformed files."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import coco_instances
from tests.data.prepare_command import run_prepare

SIZE = (20, 30)


def make_square(x, y, side, **fields):
    outline = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {'image_id': 1, 'category_id': 1, 'segmentation': [outline], **fields}


def make_content():
    return {
        'images': [
            {'id': 1, 'file_name': 'a.jpg', 'height': 20, 'width': 30},
            {'id': 2, 'file_name': 'b.png'},
        ],
        'categories': [{'id': 4, 'name': 'dirt'}, {'id': 1, 'name': 'cell'}],
        'annotations': [
            make_square(2, 2, 8, id=1, iscrowd=0, area=64, bbox=[2, 2, 8, 8]),
            make_square(6, 6, 6, id=2),
            make_square(20, 0, 5, id=3, category_id=4),
        ],
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    for name in ('a.jpg', 'b.png'):
        Image.new('RGB', SIZE[::-1], 'gray').save(tmp_path / 'images' / name)
    return tmp_path


def read(folder, content=None, **options):
    text = json.dumps(make_content() if content is None else content)
    (folder / 'a.json').write_text(text)
    return coco_instances.read_split(folder / 'images', folder / 'a.json', **options)


def test_classes_background_and_overlaps(folder):
    split = read(folder)
    assert split.spec.class_names == ('cell', 'dirt', 'background')
    assert [c.id for c in split.spec.categories] == [1, 4, 5]
    assert split.spec.label_format.thing_classes == (0, 1)
    first, second = map(split.load, split.items)
    expected = np.full(SIZE, 2000, np.int32)
    expected[2:10, 2:10] = 1
    expected[6:12, 6:12] = 2
    expected[0:5, 20:25] = 1001
    np.testing.assert_array_equal(first.panoptic, expected)
    assert list(first.remarks.values()) == [1]
    assert (first.image_id, first.file_name, first.annotation_file_name) == (1, 'a.jpg', 'a.png')
    # The second image has no object and no size.
    assert second.image_id == 2 and (second.panoptic == 2000).all()
    assert any('images lack height or width' in note for note in split.notes)


def test_stuff_void_and_the_order_of_classes(folder):
    split = read(folder, background='void', stuff='dirt')
    assert split.spec.class_names == ('cell', 'dirt')
    label = split.load(split.items[0]).panoptic
    assert label[19, 29] == split.spec.label_format.void_label and label[0, 20] == 1000
    (folder / 'classes.txt').write_text('dirt\nmould\ncell\n')
    split = read(folder, classes_path=folder / 'classes.txt')
    assert split.spec.class_names == ('dirt', 'mould', 'cell', 'background')
    assert split.load(split.items[0]).panoptic[0, 20] == 1
    (folder / 'classes.txt').write_text('dirt\n')
    with pytest.raises(ValueError, match=r"classes\.txt lacks the category 'cell' of a\.json"):
        read(folder, classes_path=folder / 'classes.txt')


@pytest.mark.parametrize('name', ['x/a.jpg', 'C:\\data\\a.jpg', '/home/me/a.jpg', 'a.png', 'A.JPG'])
def test_names_of_other_places(folder, name):
    content = make_content()
    content['images'][0]['file_name'] = name
    split = read(folder, content)
    assert split.items[0].image_path == 'a.jpg'


def test_files_in_sub_folders(folder):
    for split in ('train', 'val'):
        (folder / 'images' / split).mkdir()
        (folder / 'images' / 'a.jpg').rename(folder / 'images' / split / 'a.jpg')
        Image.new('RGB', SIZE[::-1]).save(folder / 'images' / 'a.jpg')
    (folder / 'images' / 'a.jpg').unlink()
    content = make_content()
    content['images'] = [
        {'id': i, 'file_name': f'{split}/a.jpg'} for i, split in enumerate(('train', 'val'), 1)
    ]
    split = read(folder, content)
    assert [i.image_path for i in split.items] == ['train/a.jpg', 'val/a.jpg']
    assert [i.names for i in split.items] == [
        ('train/a.jpg', 'train_a.png'), ('val/a.jpg', 'val_a.png'),
    ]  # fmt: skip
    assert any('1 files of images are not listed in a.json' in note for note in split.notes)
    content['images'][1]['file_name'] = 'train/a.jpg'
    with pytest.raises(ValueError, match="'train/a.jpg' is named twice"):
        read(folder, content)


def test_ids_of_other_types(folder):
    content = make_content()
    content['annotations'][0] |= {'image_id': '1', 'category_id': 1.0, 'iscrowd': False}
    content['annotations'][1] |= {'image_id': 1.0, 'category_id': '1', 'iscrowd': None}
    split = read(folder, content)
    assert len(split.items[0].objects) == 3


def test_crowds(folder):
    content = make_content()
    counts = [0, 20, 580]
    content['annotations'][1] |= {
        'iscrowd': 1,
        'segmentation': {'size': [20, 30], 'counts': counts},
    }
    split = read(folder, content)
    label = split.load(split.items[0]).panoptic
    assert (label[:, 0] == 0).all() and label[5, 5] == 1
    note = next(note for note in split.notes if 'crowds' in note)
    assert note.startswith('1 annotations are crowds') and '--ignore_iscrowd' in note
    single = read(folder, content, uses_iscrowd=False)
    assert (single.load(single.items[0]).panoptic[:, 0] == 2).all()
    assert single.fingerprint != split.fingerprint


def test_parts_are_one_object_and_thin_outlines_are_left_out(folder):
    content = make_content()
    parts = [make_square(x, 15, 2)['segmentation'][0] for x in (0, 5)]
    content['annotations'] = [
        make_square(0, 0, 1, segmentation=[*parts, [1, 1, 5, 5]]),
        make_square(3, 3, 4, segmentation=make_square(3, 3, 4)['segmentation'][0]),
        make_square(3, 3, 4, segmentation=[[1, 1, 9, 9]]),
    ]
    split = read(folder, content)
    record = split.load(split.items[0])
    assert (record.panoptic == 1).sum() == 8 and (record.panoptic == 2).sum() == 16
    assert list(record.remarks) == ['{} objects enclose no pixel of their image: left out']
    assert any(note.startswith('2 outlines have fewer than three') for note in split.notes)


def test_parent_of_all_classes_is_left_out(folder):
    content = make_content()
    for category in content['categories']:
        category['supercategory'] = 'things'
    content['categories'].insert(0, {'id': 0, 'name': 'things', 'supercategory': 'none'})
    assert read(folder, content).spec.class_names == ('cell', 'dirt', 'background')
    content['annotations'][0]['category_id'] = 0
    assert 'things' in read(folder, content).spec.class_names


def test_more_than_999_objects(folder):
    content = make_content()
    content['annotations'] = [make_square(i % 30, i % 20, 1) for i in range(1200)]
    split = read(folder, content)
    assert split.spec.label_divisor == 4096
    record = split.load(split.items[0])
    # The positions repeat after 60.
    assert sorted(set(record.panoptic.ravel().tolist())) == [*range(1, 61), 2 * 4096]


def save_semantic(folder, values):
    (folder / 'semantic').mkdir(exist_ok=True)
    for name in 'ab':
        Image.fromarray(values.astype(np.uint8)).save(folder / 'semantic' / f'{name}.png')


def test_stuff_from_label_maps(folder):
    values = np.zeros(SIZE)
    values[10:], values[12:], values[14:], values[:, 28:] = 4, 255, 7, 1
    save_semantic(folder, values)
    content = make_content()
    content['categories'][0]['isthing'] = 0
    content['categories'].append({'id': 7, 'name': 'glass', 'isthing': 0})
    split = read(folder, content, semantic_dir=folder / 'semantic')
    names, void = split.spec.class_names, split.spec.label_format.void_label
    assert names == ('cell', 'dirt', 'glass', 'background')
    label = split.load(split.items[0]).panoptic
    assert label[0, 0] == 3000 and label[10, 0] == 1000 and label[14, 0] == 2000
    # Void, and a thing class without an object; objects lie on top.
    assert label[12, 0] == void and label[0, 29] == void and label[11, 11] == 2
    assert split.list_files is not None
    names = [path.name for path in split.list_files(split.items[0])]
    assert names == ['a.jpg', 'a.png']
    # The id that the background got is no category of the file.
    assert split.spec.categories[-1].id == 8
    save_semantic(folder, np.full(SIZE, 8))
    with pytest.raises(ValueError, match=r'a\.png holds value 8'):
        split.load(split.items[0])
    save_semantic(folder, np.full(SIZE, 9))
    with pytest.raises(ValueError, match=r'a\.png holds value 9 .*paint category ids of the JSON'):
        split.load(split.items[0])
    save_semantic(folder, np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r'a\.png has 4x5 pixels .* a\.jpg has 20x30'):
        split.load(split.items[0])
    with pytest.raises(ValueError, match=r'void_id \(=7\) must differ'):
        read(folder, content, semantic_dir=folder / 'semantic', void_id=7)
    (folder / 'semantic' / 'b.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'has no PNG for image b\.png'):
        read(folder, content, semantic_dir=folder / 'semantic')


def test_command_line(folder, capsys):
    read(folder)
    arguments = [
        '--format=coco_instances', f'--images={folder / "images"}', f'--json={folder / "a.json"}',
        f'--out={folder / "out"}', '--num_processes=0',
    ]  # fmt: skip
    run_prepare([*arguments, '--val_fraction=0.5', '--stuff=dirt'])
    for split in ('train', 'val'):
        source = records.open_split(folder / 'out', split)
        assert len(source) == 1
        assert source.spec.label_format.thing_classes == (0,)
    printed = capsys.readouterr().out
    assert '1 objects are partly covered by smaller ones, which lie on top' in printed
    assert 'images lack height or width' in printed


def test_changed_files_are_not_taken_for_the_old_ones(folder, capsys):
    read(folder)
    save_semantic(folder, np.zeros(SIZE))
    arguments = [
        '--format=coco_instances', f'--images={folder / "images"}', f'--json={folder / "a.json"}',
        f'--semantic={folder / "semantic"}', f'--out={folder / "out"}', '--num_processes=0',
    ]  # fmt: skip
    run_prepare(arguments)
    run_prepare(arguments)
    assert 'exists already, made from the same files' in capsys.readouterr().out
    for path, color in (('images/b.png', 'red'), ('semantic/a.png', 'black')):
        before = (folder / path).read_bytes()
        size = (31, 20) if color == 'black' else SIZE[::-1]
        Image.new('RGB', size, color).save(folder / path)
        with pytest.raises(ValueError, match='pictures or PNGs have changed'):
            run_prepare(arguments)
        (folder / path).write_bytes(before)
    run_prepare(arguments)
    content = make_content()
    content['annotations'].pop()
    (folder / 'a.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='was prepared from other annotations'):
        run_prepare(arguments)


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            lambda c: c['annotations'][0].pop('segmentation'),
            r'annotations\[0\] of a.json has no outl',
        ),
        (lambda c: c['annotations'][0].update(segmentation=[]), 'does not learn from boxes'),
        (lambda c: c['annotations'][0].update(segmentation='x'), "segmentation is 'x'"),
        (lambda c: c['annotations'][0].update(segmentation={'size': [20, 30]}), "lacks .*'counts'"),
        (
            lambda c: c['annotations'][0].update(segmentation={'size': [20, 30], 'counts': 'd'}),
            r'segmentation of annotations\[0\] of a.json: counts ends',
        ),
        (
            lambda c: c['annotations'][0].update(segmentation=[[1, 2, 3, 4, 5, float('nan')]]),
            r'segmentation\[0\] of annotations\[0\] of a.json holds the point .*not finite',
        ),
        (
            lambda c: c['annotations'][0].update(segmentation=[[1, 2, 3, 4, 5]]),
            r'segmentation\[0\] of annotations\[0\] of a.json is no polygon, got 5 numbers',
        ),
        (
            lambda c: c['annotations'][0].update(category_id=9),
            r'category_id 9 is not among .*\[1, 4',
        ),
        (lambda c: c['annotations'][0].update(iscrowd=2), 'iscrowd must be 0 or 1, got 2'),
        (lambda c: c['annotations'][0].pop('image_id'), "lacks the field 'image_id'"),
        (lambda c: c['annotations'][0].update(segments_info=[]), 'pass --format=coco_panoptic'),
        (lambda c: c['images'][0].update(height=0), r'images\[0\] of a.json: height must lie in 1'),
        (
            lambda c: c['images'][0].update(file_name='../a.jpg'),
            'without "..", so that nothing out',
        ),
        (
            lambda c: c['images'][1].update(id=1),
            r'images\[\].id of a.json holds .1. more than once',
        ),
        (lambda c: c.update(images=[]), 'images is empty'),
        (lambda c: c.pop('categories'), "a.json lacks the field 'categories'"),
        (
            lambda c: c['categories'][0].update(name='cell'),
            r"name of a.json holds 'cell' more than",
        ),
    ],
)
def test_malformed_files(folder, spoil, message):
    content = make_content()
    spoil(content)
    with pytest.raises(ValueError, match=message):
        read(folder, content)


def test_other_files_and_missing_images(folder):
    with pytest.raises(ValueError, match=r'a\.json is a bare list, such as the results of a'):
        read(folder, [])
    content = make_content()
    content['images'][0]['file_name'] = 'c.jpg'
    with pytest.raises(
        FileNotFoundError, match=r'1 of 2 files that a\.json names are not in .*first c\.jp'
    ):
        read(folder, content)
    content = make_content()
    content['images'].pop(0)
    assert any('3 annotations belong to no entry' in note for note in read(folder, content).notes)
    content = make_content()
    content['images'][0]['width'] = 31
    split = read(folder, content)
    with pytest.raises(ValueError, match=r'a\.jpg has 20x30 pixels .*a\.json has 20x31'):
        split.load(split.items[0])
