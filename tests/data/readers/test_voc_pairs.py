"""Own data in VOC's layout: palettes, colours, lists, objects of 8 and more bits."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import voc_pairs
from tests.data.prepare_command import run_prepare

SIZE = (10, 14)
# The colours of labelmap.txt are not those of VOC for the indices.
COLORS = ((0, 0, 0), (200, 10, 30), (9, 250, 9))
LABELMAP = '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:200,10,30::\nroad:9,250,9::\n'


def make_maps():
    classes, objects = np.zeros((2, *SIZE), np.uint8)
    classes[2:6, 2:12] = 1
    classes[2:6, 6] = 255
    objects[2:6, 2:6], objects[2:6, 7:12], objects[2:6, 6] = 1, 2, 255
    classes[8:], objects[8:, 3] = 2, 4
    return classes, objects


def write(root, *, is_colored=False, folders=('SegmentationClass', 'SegmentationObject')):
    for name in ('JPEGImages', *folders):
        (root / name).mkdir()
    maps = make_maps()
    for name in ('a', 'b'):
        Image.new('RGB', SIZE[::-1], 'gray').save(root / 'JPEGImages' / f'{name}.jpg')
        for folder, values in zip(folders, maps, strict=False):
            image = Image.fromarray(values).convert('P')
            image.putpalette([*sum(COLORS, ()), *[7] * (3 * 252), 224, 224, 192])
            if is_colored:
                image = image.convert('RGB')
            image.save(root / folder / f'{name}.png')
    Image.new('RGB', SIZE[::-1]).save(root / 'JPEGImages' / 'bare.jpg')
    return root


def make_expected(spec, *, road_is_thing=False):
    void = spec.label_format.void_label
    expected = np.zeros(SIZE, np.int32)
    expected[2:6, 2:6], expected[2:6, 7:12], expected[2:6, 6] = 1001, 1002, void
    expected[8:] = 2000
    if road_is_thing:
        expected[8:], expected[8:, 3] = void, 2001
    return expected


@pytest.mark.parametrize('is_colored', [False, True])
@pytest.mark.parametrize('stuff', ['road', ''])
def test_maps_with_palettes_and_in_colors(tmp_path, is_colored, stuff):
    root = write(tmp_path, is_colored=is_colored)
    (root / 'labelmap.txt').write_text(LABELMAP)
    if is_colored:
        # In a file in colours any colour is an object.
        for name in 'ab':
            objects = make_maps()[1]
            colors = np.random.default_rng(0).integers(1, 200, (256, 3), dtype=np.uint8)
            colors[0], colors[255] = 0, (224, 224, 192)
            Image.fromarray(colors[objects]).save(root / 'SegmentationObject' / f'{name}.png')
    split = voc_pairs.read_split(root, stuff=stuff)
    assert split.spec.class_names == ('background', 'cat', 'road')
    record = split.load(split.items[1])
    label = record.panoptic
    expected = make_expected(split.spec, road_is_thing=not stuff)
    if is_colored:
        # The order of random colours is not that of the numbers.
        label = np.where((label // 1000 == 1) & (label % 1000 > 0), 1001, label)
        expected = np.where(expected == 1002, 1001, expected)
    np.testing.assert_array_equal(label, expected)
    assert (record.image_id, record.annotation_file_name) == ('b', 'b.png')
    assert split.num_images_without_annotation == 1
    assert split.list_files is not None and len(split.list_files(split.items[0])) == 3


def test_lists_of_names_and_without_objects(tmp_path):
    root = write(tmp_path, folders=('SegmentationClassPNG',))
    with pytest.raises(FileNotFoundError, match=r'has none of labelmap\.txt, .*pass --classes'):
        voc_pairs.read_split(root)
    (root / 'class_names.txt').write_text('_background_\ncat\nroad\n')
    split = voc_pairs.read_split(root)
    assert split.spec.label_format.thing_classes == ()
    label = split.load(split.items[0]).panoptic
    assert (label[2:6, 2:6] == 1000).all() and label[2, 6] == split.spec.label_format.void_label
    assert 'has no SegmentationObject' in split.notes[0]


def test_colors_of_voc_without_a_table(tmp_path):
    root = write(tmp_path)
    (root / 'class_names.txt').write_text('background\ncat\nroad\n')
    voc = np.zeros((256, 3), np.uint8)
    voc[1], voc[2], voc[255] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
    for name in 'ab':
        Image.fromarray(voc[make_maps()[0]]).save(root / 'SegmentationClass' / f'{name}.png')
    split = voc_pairs.read_split(root, stuff='road')
    np.testing.assert_array_equal(split.load(split.items[0]).panoptic, make_expected(split.spec))
    assert voc_pairs._make_voc_color(15) == (192, 128, 128)
    assert voc_pairs._make_voc_color(20) == (0, 64, 128)


def test_a_table_of_colors_decides_about_palettes(tmp_path):
    root = write(tmp_path)
    # The classes in another order than the indices, as CVAT sorts them.
    lines = LABELMAP.splitlines()
    (root / 'labelmap.txt').write_text('\n'.join([lines[1], lines[3], lines[2]]))
    split = voc_pairs.read_split(root, stuff='road')
    assert split.spec.class_names == ('background', 'road', 'cat')
    label = split.load(split.items[0]).panoptic
    assert label[9, 0] == 1000 and label[2, 2] == 2001


def test_objects_beyond_eight_bits(tmp_path):
    root = write(tmp_path)
    (root / 'labelmap.txt').write_text(LABELMAP)
    Image.fromarray(np.full(SIZE, 1, np.uint8)).save(root / 'SegmentationClass' / 'a.png')
    numbers = np.arange(140).reshape(SIZE).astype(np.uint16) * 20
    Image.fromarray(numbers).save(root / 'SegmentationObject' / 'a.png')
    split = voc_pairs.read_split(root, stuff='road')
    label = split.load(split.items[0]).panoptic
    # 255 is void in 8 bits only, and number 0 is no object.
    assert label[0, 0] == split.spec.label_format.void_label and label.ravel()[1:].max() == 1139


def test_thing_classes_without_objects_are_told(tmp_path):
    root = write(tmp_path)
    (root / 'labelmap.txt').write_text(LABELMAP)
    for name in 'ab':
        objects = make_maps()[1]
        objects[8:] = 0
        Image.fromarray(objects).save(root / 'SegmentationObject' / f'{name}.png')
    split = voc_pairs.read_split(root)
    (remark,) = split.load(split.items[0]).remarks
    assert 'pixels of road, but none of its objects' in remark and '--stuff=road' in remark


def test_lists_of_splits(tmp_path):
    root = write(tmp_path)
    (root / 'labelmap.txt').write_text(LABELMAP)
    lists = root / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'default.txt').write_text('b\n')
    assert [i.image_id for i in voc_pairs.read_split(root, 'train').items] == ['b']
    (lists / 'train.txt').write_text('a\n')
    assert [i.image_id for i in voc_pairs.read_split(root, 'train').items] == ['a']
    with pytest.raises(FileNotFoundError, match=r'has no list val\.txt, but default\.txt, train'):
        voc_pairs.read_split(root, 'val')
    run_prepare([
        '--format=voc_pairs', f'--input={root}', f'--out={root / "out"}', '--val_fraction=0.5',
        '--num_processes=0', '--stuff=road',
    ])  # fmt: skip
    sizes = [len(records.open_split(root / 'out', split)) for split in ('train', 'val')]
    assert sizes == [1, 1]


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda r: (r / 'JPEGImages').rename(r / 'x'), 'has no folder JPEGImages or images'),
        (lambda r: (r / 'SegmentationClass').rename(r / 'x'), 'has no folder SegmentationClass or'),
        (lambda r: (r / 'SegmentationObject' / 'b.png').unlink(), '1 of 2 names lack a label map'),
        (lambda r: (r / 'labelmap.txt').write_text('a:1,2,3::\nb:1,2,3::'), 'is also that of'),
    ],
)
def test_folders_that_do_not_match(tmp_path, spoil, message):
    root = write(tmp_path)
    (root / 'labelmap.txt').write_text(LABELMAP)
    spoil(root)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        voc_pairs.read_split(root)


def test_maps_that_do_not_fit(tmp_path):
    root = write(tmp_path)
    (root / 'labelmap.txt').write_text(LABELMAP)
    split = voc_pairs.read_split(root)
    Image.new('L', (5, 5)).save(root / 'SegmentationObject' / 'a.png')
    with pytest.raises(ValueError, match=r'SegmentationObject/a\.png has .* SegmentationClass/a'):
        split.load(split.items[0])
    Image.new('L', SIZE[::-1], 3).save(root / 'SegmentationClass' / 'a.png')
    with pytest.raises(ValueError, match=r'a\.png holds value 3 .*list it in labelmap\.txt'):
        split.load(split.items[0])
    with pytest.raises(ValueError, match=r'void_id \(=2\) is the index of a class of labelmap'):
        voc_pairs.read_split(root, void_id=2)
