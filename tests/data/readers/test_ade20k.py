"""ADE20K in its published layout: the labels that the published conversions give."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import images, records
from pdl_jax.data.readers import ade20k, panoptic_folder
from tests.data.prepare_command import run_prepare

# Instance category, its class among the 150, its name: ade20k_instance_catid_mapping.txt of
# Mask2Former and instanceInfo100_train.txt of the Places challenge.
MAPPING = """
1 8 bed; 2 9 windowpane; 3 11 cabinet; 4 13 person; 5 15 door; 6 16 table; 7 19 curtain; 8 20 chair;
9 21 car; 10 23 painting; 11 24 sofa; 12 25 shelf; 13 28 mirror; 14 31 armchair; 15 32 seat;
16 33 fence; 17 34 desk; 18 36 wardrobe; 19 37 lamp; 20 38 bathtub; 21 39 railing; 22 40 cushion;
23 42 box; 24 43 column; 25 44 signboard; 26 45 chest of drawers; 27 46 counter; 28 48 sink;
29 50 fireplace; 30 51 refrigerator; 31 54 stairs; 32 56 case; 33 57 pool table; 34 58 pillow;
35 59 screen door; 36 63 bookcase; 37 65 coffee table; 38 66 toilet; 39 67 flower; 40 68 book;
41 70 bench; 42 71 countertop; 43 72 stove; 44 73 palm; 45 74 kitchen island; 46 75 computer;
47 76 swivel chair; 48 77 boat; 49 79 arcade machine; 50 81 bus; 51 82 towel; 52 83 light;
53 84 truck; 54 86 chandelier; 55 87 awning; 56 88 streetlight; 57 89 booth; 58 90 television;
59 91 airplane; 60 93 apparel; 61 94 pole; 62 96 bannister; 63 98 ottoman; 64 99 bottle; 65 103 van;
66 104 ship; 67 105 fountain; 68 108 washer; 69 109 plaything; 70 111 stool; 71 112 barrel;
72 113 basket; 73 116 bag; 74 117 minibike; 75 119 oven; 76 120 ball; 77 121 food; 78 122 step;
79 124 trade name; 80 125 microwave; 81 126 pot; 82 127 animal; 83 128 bicycle; 84 130 dishwasher;
85 131 screen; 86 133 sculpture; 87 134 hood; 88 135 sconce; 89 136 vase; 90 137 traffic light;
91 138 tray; 92 139 ashcan; 93 140 fan; 94 143 plate; 95 144 monitor; 96 145 bulletin board;
97 147 radiator; 98 148 glass; 99 149 clock; 100 150 flag
"""
CLASS_OF_CATEGORY = {
    int(category): (int(semantic), name)
    for category, semantic, name in (e.split(None, 2) for e in MAPPING.strip().split(';'))
}
NAMES = ('ADE_train_00000001', 'ADE_train_00000002')


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_labels(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns u8[H, W] with all classes, and u8[H, W, 3] with objects of all categories."""
    generator = np.random.default_rng(index)
    semantic = generator.integers(0, 151, (24, 30), dtype=np.uint8)
    semantic.flat[:151] = np.arange(151)
    # Categories of objects are not sorted; numbers have gaps, and G = 0 means no object.
    numbers = generator.choice(256, 120, replace=False)
    category_of_number = generator.integers(1, 101, 256)
    category_of_number[numbers[:100]] = generator.permutation(100) + 1
    number = generator.choice([0, *numbers], (24, 30))
    number.flat[-120:] = numbers
    category = np.where(number > 0, category_of_number[number], generator.integers(0, 2, (24, 30)))
    blue = generator.integers(0, 256, (24, 30))
    return semantic, np.stack([category, number, blue], axis=-1).astype(np.uint8)


def write_layout(root, folder='training', *, has_objects=True):
    """Writes two images and returns name -> the labels."""
    written = {}
    for index, name in enumerate(NAMES):
        semantic, objects = written[name] = make_labels(index)
        write_image(root / 'annotations' / folder / f'{name}.png', semantic)
        if has_objects:
            write_image(root / 'annotations_instance' / folder / f'{name}.png', objects)
        # Some images of ADE20K are grey.
        pixels = np.zeros(semantic.shape if index else (*semantic.shape, 3), np.uint8)
        write_image(root / 'images' / folder / f'{name}.jpg', pixels)
    return written


def convert_to_coco(root, written):
    """Converts as Mask2Former does; returns the arguments of the reader of the result.

    Stuff first, then every object in the order of the numbers; ids of segments in this order.
    """
    things = {semantic for semantic, _ in CLASS_OF_CATEGORY.values()}
    content = {'images': [], 'annotations': []}
    content['categories'] = [
        {'id': i, 'name': str(i), 'isthing': int(i in things)} for i in range(1, 151)
    ]
    (root / 'panoptic').mkdir()
    for name, (semantic, objects) in written.items():
        ids, categories = np.zeros(semantic.shape, np.int32), []
        for value in range(1, 151):
            if value not in things:
                categories.append(value)
                ids[semantic == value] = len(categories)
        for number in range(1, 256):
            is_object = objects[..., 1] == number
            if is_object.any():
                (category,) = set(objects[is_object][:, 0].tolist())
                categories.append(CLASS_OF_CATEGORY[category][0])
                ids[is_object] = len(categories)
        segments = [
            {'id': i, 'category_id': c, 'iscrowd': 0, 'area': int((ids == i).sum())}
            for i, c in enumerate(categories, start=1)
            if (ids == i).any()
        ]
        (root / 'panoptic' / f'{name}.png').write_bytes(images.encode_ids(ids))
        height, width = semantic.shape
        content['images'].append(
            {'id': name, 'file_name': f'{name}.jpg', 'height': height, 'width': width}
        )
        content['annotations'].append(
            {'image_id': name, 'file_name': f'{name}.png', 'segments_info': segments}
        )
    (root / 'panoptic.json').write_text(json.dumps(content))
    return root / 'images/training', root / 'panoptic', root / 'panoptic.json'


def expect_semantic(semantic: np.ndarray) -> np.ndarray:
    """Returns the labels of the semantic task for u8[H, W] of annotations."""
    return np.where(semantic == 0, 255_000, (semantic.astype(np.int32) - 1) * 1000)


def number_classes_from_1(panoptic: np.ndarray) -> np.ndarray:
    """Returns labels with the categories of a file, classes from 0 on, as ours; void is 0."""
    return np.where(panoptic == 255_000, 0, panoptic + 1000)


def test_panoptic_classes_are_those_of_deeplab2():
    spec = ade20k.make_spec('panoptic')
    assert (spec.num_classes, spec.ignore_label, spec.label_divisor) == (151, 0, 1000)
    assert [c.id for c in spec.categories] == list(range(1, 151))
    assert spec.class_of_category == {i: i for i in range(1, 151)}
    classes = [CLASS_OF_CATEGORY[i] for i in range(1, 101)]
    assert spec.label_format.thing_classes == tuple(semantic for semantic, _ in classes)
    assert all(spec.class_names[semantic] == name for semantic, name in classes)
    assert [spec.class_names[i] for i in (1, 29, 49, 110, 142)] == [
        'wall', 'rug', 'skyscraper', 'swimming pool', 'crt screen',
    ]  # fmt: skip
    assert spec.category_of_class[13].color == (150, 5, 61)
    assert len({c.color for c in spec.categories}) == 150


def test_panoptic_is_the_published_conversion(tmp_path):
    written = write_layout(tmp_path)
    ours = ade20k.read_split(tmp_path, 'train')
    official = panoptic_folder.read_split(*convert_to_coco(tmp_path, written), spec='own')
    assert len(ours.items) == len(official.items) == 2
    # Both are pickled for worker processes.
    load, items = pickle.loads(pickle.dumps((ours.load, ours.items)))
    for our_item, official_item in zip(items, official.items, strict=True):
        record, expected = load(our_item), official.load(official_item)
        np.testing.assert_array_equal(record.panoptic, number_classes_from_1(expected.panoptic))
        assert (record.panoptic == 0).any() and record.panoptic.dtype == np.int32
        assert record.image == expected.image
        names = (record.image_id, record.file_name, record.annotation_file_name)
        assert names == (expected.image_id, expected.file_name, expected.annotation_file_name)


def test_labels_by_hand(tmp_path):
    write_layout(tmp_path)
    # Wall, a bed and void; a chair (category 8, class 20) covers wall, a second one is nearer; a
    # bed without an object stays void.
    semantic = np.array([[1, 1, 8, 0], [1, 8, 8, 20]], np.uint8)
    objects = np.zeros((2, 4, 3), np.uint8)
    objects[0, 0] = 8, 7, 0
    objects[0, 2] = 1, 3, 9
    objects[1, 3] = 8, 2, 0
    write_image(tmp_path / 'annotations/training' / f'{NAMES[0]}.png', semantic)
    write_image(tmp_path / 'annotations_instance/training' / f'{NAMES[0]}.png', objects)
    write_image(tmp_path / 'images/training' / f'{NAMES[0]}.jpg', np.zeros((2, 4), np.uint8))
    split = ade20k.read_split(tmp_path, 'train')
    assert split.load(split.items[0]).panoptic.tolist() == [
        [20_002, 1000, 8001, 0],
        [1000, 0, 0, 20_001],
    ]
    split = ade20k.read_split(tmp_path, 'train', task='semantic')
    assert split.load(split.items[0]).panoptic.tolist() == [
        [0, 0, 7000, 255_000],
        [0, 7000, 7000, 19_000],
    ]


def test_semantic_has_the_150_classes_of_the_benchmark(tmp_path):
    written = write_layout(tmp_path, 'validation', has_objects=False)
    ours = ade20k.read_split(tmp_path, 'val', task='semantic')
    assert (ours.spec.num_classes, ours.spec.ignore_label) == (150, 255)
    assert ours.spec.label_format.thing_classes == ()
    assert ours.spec.class_names == ade20k.make_spec('panoptic').class_names[1:]
    for item, (semantic, _) in zip(ours.items, written.values(), strict=True):
        np.testing.assert_array_equal(ours.load(item).panoptic, expect_semantic(semantic))


def test_command_line(tmp_path):
    written = write_layout(tmp_path)
    official = panoptic_folder.read_split(*convert_to_coco(tmp_path, written), spec='own')
    command = ['--format=ade20k', f'--input={tmp_path}', '--split=train', '--num_processes=0']
    run_prepare([*command, f'--out={tmp_path / "out"}'])
    source = records.open_split(tmp_path / 'out', 'train')
    assert (len(source), source.max_size) == (2, (24, 30))
    assert source.spec == ade20k.make_spec('panoptic') and source.max_instances > 100
    for index, item in enumerate(official.items):
        expected = official.load(item)
        label = source.decode(index)[1]
        np.testing.assert_array_equal(label, number_classes_from_1(expected.panoptic))
        assert source[index]['image'] == expected.image
        assert source.info(index)['image_id'] == NAMES[index]

    run_prepare([*command, '--task=semantic', f'--out={tmp_path / "semantic"}'])
    source = records.open_split(tmp_path / 'semantic', 'train')
    assert source.max_instances == 0
    for index, (semantic, _) in enumerate(written.values()):
        label = source.decode(index)[1]
        np.testing.assert_array_equal(label, expect_semantic(semantic))


@pytest.mark.parametrize(
    'red, green, message',
    [
        (101, 5, r'annotations_instance/ADE_\w+1\.png: object 5 .* category 101 \(red\)'),
        (0, 5, r'object 5 \(green\) has category 0'),
        ([3, 4], 5, r'object 5 \(green\) has the categories 3 and 4'),
    ],
)
def test_objects_without_one_category(tmp_path, red, green, message):
    write_layout(tmp_path)
    objects = np.zeros((24, 30, 3), np.uint8)
    objects[:, :2, 0], objects[:, :2, 1] = red, green
    write_image(tmp_path / 'annotations_instance/training' / f'{NAMES[0]}.png', objects)
    split = ade20k.read_split(tmp_path, 'train')
    with pytest.raises(ValueError, match=message):
        split.load(split.items[0])


def test_files_that_do_not_fit(tmp_path):
    semantic, objects = write_layout(tmp_path)[NAMES[1]]
    split = ade20k.read_split(tmp_path, 'train')
    label = tmp_path / 'annotations/training' / f'{NAMES[1]}.png'
    instance = tmp_path / 'annotations_instance/training' / f'{NAMES[1]}.png'

    write_image(instance, objects[1:])
    with pytest.raises(ValueError, match=r'annotations_instance/.* \(23, 30\), ann.*24, 30'):
        split.load(split.items[1])
    write_image(instance, semantic)
    with pytest.raises(ValueError, match=r"annotations_instance/ADE_.*8-bit RGB PNG.*mode 'L'"):
        split.load(split.items[1])
    semantic[2, 3] = 151
    write_image(label, semantic)
    with pytest.raises(ValueError, match=r'ADE_.*2\.png holds value 151 \(first at y=2, x=3'):
        split.load(split.items[1])
    write_image(label, np.zeros((24, 31), np.uint8))
    with pytest.raises(ValueError, match=r'ADE_.*\.jpg has 24x30 pixels .*\.png has 24x31'):
        split.load(split.items[1])
    instance.unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 names lack a label map.*ADE_train_0+2'):
        ade20k.read_split(tmp_path, 'train')
    label.unlink()
    with pytest.raises(FileNotFoundError, match='lack a label map.*first ADE_train_0+2'):
        ade20k.read_split(tmp_path, 'train', task='semantic')


def test_what_is_not_there(tmp_path):
    write_layout(tmp_path, has_objects=False)
    with pytest.raises(FileNotFoundError, match='instance/training does not.*--task=semantic'):
        ade20k.read_split(tmp_path, 'train')
    with pytest.raises(FileNotFoundError, match='images/validation does not exist: unpack ADE'):
        ade20k.read_split(tmp_path, 'val')
    with pytest.raises(ValueError, match="split 'test' does not exist for ADE20K.*train or val"):
        ade20k.read_split(tmp_path, 'test')
    with pytest.raises(ValueError, match="task 'instance' does not exist.*panoptic or semantic"):
        ade20k.read_split(tmp_path, 'train', task='instance')


def test_fingerprint_depends_on_objects_but_not_on_the_place(tmp_path):
    write_layout(tmp_path / 'a')
    _, objects = write_layout(tmp_path / 'b')[NAMES[0]]
    first = ade20k.read_split(tmp_path / 'a', 'train').fingerprint
    assert ade20k.read_split(tmp_path / 'b', 'train').fingerprint == first
    write_image(tmp_path / 'b/annotations_instance/training' / f'{NAMES[0]}.png', objects[:, ::-1])
    assert ade20k.read_split(tmp_path / 'b', 'train').fingerprint != first
