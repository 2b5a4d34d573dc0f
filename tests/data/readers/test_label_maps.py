"""Label maps: a folder of images and a folder of index PNGs."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import label_maps
from tests.data.few_bit_png import encode_grey
from tests.data.prepare_command import run_prepare

CLASSES = [{'id': 1, 'name': 'soil'}, {'id': 7, 'name': 'crop', 'color': [1, 2, 3]}]


@pytest.fixture
def folder(tmp_path):
    """Images of several formats, and PNGs of several modes with the same pixels."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    labels = make_labels()
    palette = Image.fromarray(labels).convert('P')
    palette.putpalette([255, 0, 0] * 256)
    modes = {
        'a.jpg': Image.fromarray(labels),
        'b.png': palette,
        'c.JPEG': Image.fromarray(labels.astype(np.uint16)),
    }
    for name, label in modes.items():
        Image.fromarray(np.full((9, 14, 3), 40, np.uint8)).save(tmp_path / 'images' / name)
        label.save(tmp_path / 'labels' / f'{name.split(".")[0]}.png')
    (tmp_path / 'images' / '._a.jpg').write_bytes(b'what other systems leave behind')
    (tmp_path / 'images' / 'notes.txt').write_text('not an image')
    (tmp_path / 'classes.json').write_text(json.dumps(CLASSES))
    (tmp_path / 'classes.txt').write_text('background\nsoil\n')
    return tmp_path


def make_labels() -> np.ndarray:
    labels = np.full((9, 14), 255, np.uint8)
    labels[:4] = 1
    labels[5:, 3:] = 7
    return labels


def read(folder, classes='classes.json', **options):
    return label_maps.read_split(folder / 'images', folder / 'labels', folder / classes, **options)


def save_label(folder, name, array):
    Image.fromarray(array).save(folder / 'labels' / name)


def test_every_mode_gives_the_same_labels(folder):
    split = read(folder)
    assert split.spec.class_names == ('soil', 'crop')
    assert split.spec.label_format.thing_classes == ()
    assert split.spec.categories[1].color == (1, 2, 3)
    table = {1: 0, 7: 1000, 255: 255_000}
    expected = np.vectorize(table.get)(make_labels())
    names = []
    for item in split.items:
        record = split.load(item)
        np.testing.assert_array_equal(record.panoptic, expected)
        assert record.panoptic.dtype == np.int32
        names.append((record.image_id, record.file_name, record.annotation_file_name))
    assert names == [('a', 'a.jpg', 'a.png'), ('b', 'b.png', 'b.png'), ('c', 'c.JPEG', 'c.png')]


def test_text_list_and_another_void(folder):
    for name in 'abc':
        save_label(folder, f'{name}.png', np.where(make_labels() == 1, 1, 9).astype(np.uint8))
    split = read(folder, 'classes.txt', void_id=9)
    assert split.spec.class_names == ('background', 'soil')
    label = split.load(split.items[0]).panoptic
    np.testing.assert_array_equal(label, np.where(make_labels() == 1, 1000, 255_000))
    # With another void index the same files have other labels.
    assert read(folder, 'classes.txt', void_id=7).fingerprint != split.fingerprint


def test_command_line(folder):
    run_prepare([
        '--format=label_maps', f'--images={folder / "images"}', f'--labels={folder / "labels"}',
        f'--classes={folder / "classes.json"}', '--void_id=255', f'--out={folder / "out"}',
        '--split=val', '--num_processes=0',
    ])  # fmt: skip
    source = records.open_split(folder / 'out', 'val')
    assert (len(source), source.max_segments, source.max_instances) == (3, 2, 0)
    assert source.spec.class_names == ('soil', 'crop')
    assert source[0]['image'] == (folder / 'images' / 'a.jpg').read_bytes()


@pytest.mark.parametrize(
    'content, message',
    [
        ('{"labels": []}', 'must be a list'),
        ('[]', 'at least one category'),
        ('[1]', r'categories\[0\] of classes\.json must be an object'),
        ('[{"id": 1}]', "lacks the field 'name'"),
        ('[{"id": -1, "name": "a"}]', r'id must lie in 0 \.\. .*, got -1'),
        ('[{"id": 70000, "name": "a"}]', 'id 70000 exceeds 65535'),
        ('[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', r'holds 1 more than once'),
        ('[{"id": 255, "name": "a"}]', r"void_id \(=255\) is the index of class 'a'"),
        ('[', 'is not valid JSON'),
    ],
)
def test_malformed_json_lists(folder, content, message):
    (folder / 'classes.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'at least one category'),
        (b'soil\n\ncrop\n', r'categories\[1\].*name must be a non-empty string'),
        (b'so\xffil\n', 'is no UTF-8 text'),
    ],
)
def test_malformed_text_lists(folder, content, message):
    (folder / 'classes.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(folder, 'classes.txt')


def test_void_must_be_an_index(folder):
    with pytest.raises(ValueError, match=r'void_id \(=-1\)'):
        read(folder, void_id=-1)


def save_with_value(value):
    labels = make_labels()
    labels[6, 4] = value
    return lambda path: Image.fromarray(labels).save(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:45])


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            save_with_value(8),
            r'a\.png holds value 8 \(first at y=6, x=4, 1 such.*list it in classes',
        ),
        (save_with_value(0), 'paint it 255'),
        (truncate, r'a\.png: (damaged|not a readable)'),
        (lambda path: path.write_bytes(b'GIF89a'), r'a\.png: not a readable PNG'),
        (lambda p: Image.new('RGB', (14, 9), (1, 2, 4)).save(p), r'colour \(1, 2, 4\) \(first'),
        (lambda p: Image.new('L', (9, 14), 1).save(p), r'a\.jpg has 9x14 .*a\.png has 14x9'),
    ],
)
def test_bad_label_maps_are_named(folder, spoil, message):
    split = read(folder)
    spoil(folder / 'labels' / 'a.png')
    with pytest.raises(ValueError, match=message):
        split.load(split.items[0])


def test_bad_images_are_named(folder):
    split = read(folder)
    path = folder / 'images' / 'b.png'
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(ValueError, match=r'b\.png: (damaged|not a readable)'):
        split.load(split.items[1])


def test_small_palettes_keep_their_indices(folder):
    # Four bits per pixel, which PNG optimisers use for palettes of few colours.
    labels = np.where(make_labels() == 255, 0, make_labels()).astype(np.uint8)
    image = Image.fromarray(labels).convert('P')
    image.putpalette([9, 9, 9] * 8)
    buffer = io.BytesIO()
    image.save(buffer, format='PNG', bits=4)
    assert buffer.getvalue()[24] == 4
    (folder / 'labels' / 'a.png').write_bytes(buffer.getvalue())
    split = read(folder, void_id=0)
    label = split.load(split.items[0]).panoptic
    np.testing.assert_array_equal(label, np.choose(labels, [255_000, 0, 0, 0, 0, 0, 0, 1000]))


def test_missing_files_are_named(folder):
    (folder / 'labels' / 'b.png').rename(folder / 'labels' / 'd.png')
    with pytest.raises(FileNotFoundError, match='1 of 3 names lack a label map.*first b'):
        read(folder)
    Image.new('RGB', (14, 9)).save(folder / 'images' / 'd.bmp')
    (folder / 'images' / 'b.png').unlink()
    (folder / 'images' / 'a.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 3 names lack an image.*first a'):
        read(folder)
    Image.new('RGB', (14, 9)).save(folder / 'images' / 'd.jpg')
    with pytest.raises(ValueError, match=r'holds d\.bmp and d\.jpg'):
        read(folder)
    (folder / 'images' / 'd.bmp').unlink()
    with pytest.raises(FileNotFoundError, match=r'no\.txt does not exist: give a text file'):
        read(folder, 'no.txt')
    (folder / 'labels').rename(folder / 'elsewhere')
    with pytest.raises(FileNotFoundError, match='labels does not exist: give the folder of label'):
        read(folder)


def test_masks_of_bits_and_of_few_grey_values(folder):
    (folder / 'classes.txt').write_text('a\nb\nc\nd\n')
    values = make_labels() % 4
    Image.fromarray(values == 1).save(folder / 'labels' / 'a.png')
    (folder / 'labels' / 'b.png').write_bytes(encode_grey(values, bits=2))
    split = read(folder, 'classes.txt')
    np.testing.assert_array_equal(split.load(split.items[0]).panoptic, (values == 1) * 1000)
    np.testing.assert_array_equal(split.load(split.items[1]).panoptic, values.astype(int) * 1000)


@pytest.mark.parametrize(
    'name, content',
    [
        ('colors.csv', 'soil,9,9,9\ncrop,0,200,0\nvoid,0,0,0\n'),
        ('labelmap.txt', 'soil:9,9,9::\ncrop:0,200,0::\nvoid:0,0,0::\n'),
    ],
)
def test_maps_in_colors(folder, name, content):
    (folder / name).write_text(content)
    index = np.searchsorted([1, 7, 255], make_labels())
    table = np.array([[9, 9, 9], [0, 200, 0], [0, 0, 0]], np.uint8)
    save_label(folder, 'a.png', table[index])
    # Grey all over, which is still a colour.
    save_label(folder, 'b.png', table[index * 0])
    palette = Image.fromarray((2 - index).astype(np.uint8)).convert('P')
    palette.putpalette(table[::-1].tobytes())
    palette.save(folder / 'labels' / 'c.png')
    split = read(folder, name)
    assert split.spec.class_names == ('soil', 'crop')
    assert split.spec.categories[1].color == (0, 200, 0)
    expected = np.choose(index, [0, 1000, 255_000])
    for i in (0, 2):
        np.testing.assert_array_equal(split.load(split.items[i]).panoptic, expected)
    assert (split.load(split.items[1]).panoptic == 0).all()


def test_colors_of_a_list_with_ids(folder):
    index = np.searchsorted([1, 7, 255], make_labels())
    classes = [{'id': 1, 'name': 'soil', 'color': [9, 9, 9]}, {**CLASSES[1], 'color': '#00c800'}]
    (folder / 'classes.json').write_text(json.dumps(classes))
    save_label(folder, 'a.png', np.array([[9, 9, 9], [0, 200, 0], [9, 9, 9]], np.uint8)[index])
    split = read(folder)
    np.testing.assert_array_equal(split.load(split.items[0]).panoptic, (index == 1) * 1000)
    # Palettes are read by their indices, whatever their colours.
    assert split.load(split.items[1]).panoptic.max() == 255_000
    (folder / 'classes.txt').write_text('soil\ncrop\n')
    with pytest.raises(
        ValueError, match=r'a\.png holds colours, and the list of classes gives non'
    ):
        split = read(folder, 'classes.txt')
        split.load(split.items[0])
