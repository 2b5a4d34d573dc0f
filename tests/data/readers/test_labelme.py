"""LabelMe files: shapes of every kind, images beside and inside, malformed files."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import labelme
from tests.data.prepare_command import run_prepare

SIZE = (20, 30)


def make_shape(label, points, kind='polygon', **fields):
    return {'label': label, 'points': points, 'shape_type': kind, 'flags': {}, **fields}


SQUARE = [[2, 2], [10, 2], [10, 10], [2, 10]]


def encode_image(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format='PNG')
    return stream.getvalue()


def write(path, shapes, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        'version': '5.5.0', 'shapes': shapes, 'imagePath': f'{path.stem}.png', 'imageData': None,
        'imageHeight': SIZE[0], 'imageWidth': SIZE[1], **fields,
    }  # fmt: skip
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    for name in ('a.png', 'b.png', 'c.png'):
        Image.new('RGB', SIZE[::-1], 'gray').save(tmp_path / name)
    write(tmp_path / 'a.json', [make_shape('cell', SQUARE)])
    write(tmp_path / 'b.json', [])
    return tmp_path


def load_shapes(folder, shapes, **options):
    write(folder / 'a.json', shapes)
    split = labelme.read_split(folder, **options)
    return split.load(split.items[0]), split


def test_images_with_and_without_objects(folder):
    split = labelme.read_split(folder)
    assert split.spec.class_names == ('cell', 'background')
    first, second = map(split.load, split.items)
    assert (first.panoptic == 1).sum() == 64 and (second.panoptic == 1000).all()
    assert (first.image_id, first.file_name, first.annotation_file_name) == ('a', 'a.png', 'a.png')
    # c.png has no file.
    assert split.num_images_without_annotation == 1
    assert split.list_files is not None
    assert [path.name for path in split.list_files(split.items[0])] == ['a.png', 'a.json']


def test_shapes_of_every_kind(folder):
    mask = np.zeros((3, 4), np.uint8)
    mask[1:, 1:] = 1
    encoded = base64.b64encode(encode_image(mask)).decode()
    record, split = load_shapes(
        folder,
        [
            make_shape('box', [[10, 8], [2, 3]], 'rectangle'),
            make_shape('box', [[12, 0], [14, 0], [14, 1], [12, 1]], 'rectangle'),
            make_shape('disc', [[20, 10], [20, 14]], 'circle'),
            make_shape('stroke', [[25, 16], [28, 18]], 'mask', mask=encoded),
            make_shape('line', [[0, 0], [5, 5]], 'linestrip'),
            make_shape('spot', [[0, 0]], 'point'),
            make_shape('thin', [[0, 0], [5, 5]]),
        ],
    )
    # Labels of shapes without an area are no classes.
    assert split.spec.class_names == ('box', 'disc', 'stroke', 'background')
    label = record.panoptic
    assert (label == 1).sum() == 40 and (label == 2).sum() == 2
    assert abs((label == 1001).sum() - np.pi * 16) < 4
    assert (label[17:19, 26:29] == 2001).all() and (label == 2001).sum() == 6
    notes = '\n'.join(split.notes)
    assert '2 shapes are points or lines' in notes
    assert '1 outlines have fewer than three points' in notes


def test_groups_are_parts_of_one_object(folder):
    parts = [[[x, 2], [x + 2, 2], [x + 2, 4], [x, 4]] for x in (0, 5, 10, 15)]
    record, _ = load_shapes(
        folder,
        [
            make_shape('cell', parts[0], group_id=1),
            make_shape('cell', parts[1], group_id=1),
            make_shape('cell', parts[2], group_id=None),
            make_shape('dirt', parts[3], group_id=1),
        ],
    )
    assert (record.panoptic[2:4, 0:7] == 1).sum() == 8
    assert set(np.unique(record.panoptic)) == {1, 2, 1001, 2000}


def test_ignored_regions_and_stuff(folder):
    shapes = [
        make_shape('__ignore__', SQUARE),
        make_shape('_background_', [[0, 0], [2, 0], [2, 2]]),
    ]
    soil = make_shape('soil', [[0, 12], [30, 12], [30, 20], [0, 20]])
    cells = [make_shape('cell', [[x, 14], [x + 2, 14], [x + 2, 16]]) for x in (3, 9)]
    record, split = load_shapes(folder, [*shapes, soil, *cells], stuff='soil')
    assert split.spec.class_names == ('_background_', 'cell', 'soil')
    assert split.spec.label_format.thing_classes == (1,)
    void = split.spec.label_format.void_label
    assert (record.panoptic[2:10, 2:10] == void).all()
    assert record.panoptic[19, 0] == 2000 and record.panoptic.max() == void
    assert set(np.unique(record.panoptic)) == {0, 1001, 1002, 2000, void}
    # Things lie on stuff as a matter of course.
    assert not record.remarks


def test_list_of_classes(folder):
    (folder / 'labels.txt').write_text('__ignore__\n_background_\nmould\ncell\n')
    split = labelme.read_split(folder, classes_path=folder / 'labels.txt')
    assert split.spec.class_names == ('_background_', 'mould', 'cell')
    assert split.load(split.items[0]).panoptic.max() == 2001
    (folder / 'labels.txt').write_text('mould\n')
    with pytest.raises(
        ValueError, match=r"shapes\[0\] of a\.json: label 'cell' is not in labels.txt"
    ):
        labelme.read_split(folder, classes_path=folder / 'labels.txt')


@pytest.mark.parametrize(
    'path', ['..\\images\\a.png', '../images/a.png', 'C:\\x\\a.png', 'images/a.png', 'a.jpg', None]
)
def test_paths_of_images(folder, path):
    (folder / 'images').mkdir()
    (folder / 'a.png').rename(folder / 'images' / 'a.png')
    (folder / 'b.png').rename(folder / 'images' / 'b.png')
    write(folder / 'json' / 'a.json', [make_shape('cell', SQUARE)], imagePath=path)
    split = labelme.read_split(folder / 'json', images_dir=folder / 'images')
    assert split.items[0].image_path == 'a.png'
    assert (split.load(split.items[0]).panoptic == 1).sum() == 64


def test_sub_folders(folder):
    for day in ('monday', 'tuesday'):
        write(folder / day / 'a.json', [make_shape('cell', SQUARE)])
        (folder / day / 'a.png').write_bytes((folder / 'a.png').read_bytes())
    (folder / 'a.json').unlink()
    split = labelme.read_split(folder)
    assert [item.image_path for item in split.items] == ['b.png', 'monday/a.png', 'tuesday/a.png']
    assert split.load(split.items[1]).annotation_file_name == 'monday_a.png'


def test_images_inside_the_files(folder):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    data = base64.b64encode(encode_image(pixels)).decode()
    write(folder / 'd.json', [make_shape('cell', SQUARE)], imageData=data, imagePath='d.png')
    split = labelme.read_split(folder)
    record = split.load(split.items[2])
    assert record.image == encode_image(pixels) and record.file_name == 'd.png'
    assert (record.panoptic == 1).sum() == 64
    assert split.list_files is not None
    assert {path.name for path in split.list_files(split.items[2])} == {'d.json'}
    write(folder / 'd.json', [make_shape('cell', SQUARE)], imageData='?', imagePath='d.png')
    with pytest.raises(ValueError, match=r'd\.json'):
        split.load(split.items[2])


def test_command_line(folder, capsys):
    run_prepare([
        '--format=labelme', f'--input={folder}', f'--out={folder / "out"}', '--num_processes=0',
        '--background=void',
    ])  # fmt: skip
    source = records.open_split(folder / 'out', 'train')
    assert len(source) == 2 and source.spec.class_names == ('cell',)
    assert '1 images have no annotation: left out' in capsys.readouterr().out


@pytest.mark.parametrize(
    'shape, message',
    [
        ({'points': SQUARE}, r"shapes\[0\] of a\.json lacks the field 'label'"),
        ({'label': 7, 'points': SQUARE}, 'label must be str'),
        ({'label': ' ', 'points': SQUARE}, 'label must be a text of 1 to 200 letters'),
        ({'label': '\ud800', 'points': SQUARE}, 'label must be a text'),
        ({'label': 'x', 'points': None}, 'points must be list'),
        (make_shape('x', SQUARE, 'ellipse'), "shape_type 'ellipse' is unknown: use polygon"),
        (make_shape('x', SQUARE[:3], 'circle'), 'a circle needs two points, got'),
        (make_shape('x', [[1, 2], [3]], 'rectangle'), 'is no polygon'),
        (make_shape('x', [[1, 2], [3, 1e99], [4, 4]]), 'lies far outside'),
        (make_shape('x', SQUARE, group_id=[1]), 'group_id must be an integer or null, got'),
        (make_shape('x', [[1, 2]], 'mask'), "lacks the field 'mask'"),
        (make_shape('x', [], 'mask', mask='aaaa'), 'a mask needs the point'),
        (
            make_shape('x', [[1, 2]], 'mask', mask='a'),
            r'mask of shapes\[0\] of a\.json is no base64',
        ),
    ],
)
def test_malformed_shapes(folder, shape, message):
    with pytest.raises(ValueError, match=message):
        load_shapes(folder, [shape])


def test_masks_that_are_no_pictures(folder):
    with pytest.raises(ValueError, match=r'shapes\[0\] of a\.json: mask: not a readable PNG'):
        load_shapes(folder, [make_shape('x', [[1, 2]], 'mask', mask='aaaa')])


def test_malformed_folders(folder):
    (folder / 'classes.json').write_text('["cell"]')
    split = labelme.read_split(folder)
    assert any('no list "shapes"' in note for note in split.notes)
    write(folder / 'again.json', [], imagePath='a.png')
    with pytest.raises(ValueError, match=r'a\.json and again\.json both annotate a\.png'):
        labelme.read_split(folder)
    write(folder / 'again.json', [], imagePath='none.png')
    with pytest.raises(FileNotFoundError, match=r"again\.json: its image, imagePath 'none\.png'"):
        labelme.read_split(folder)
    (folder / 'again.json').unlink()
    write(folder / 'a.json', [make_shape('cell', SQUARE)], imageWidth=31)
    split = labelme.read_split(folder)
    with pytest.raises(ValueError, match=r'a\.png has 20x30 pixels .*a\.json has 20x31'):
        split.load(split.items[0])
    write(folder / 'a.json', [])
    with pytest.raises(ValueError, match='no file has a shape, so there is no class'):
        labelme.read_split(folder)
    for name in 'ab':
        (folder / f'{name}.json').unlink()
    with pytest.raises(ValueError, match='no JSON file of .* has a list "shapes"'):
        labelme.read_split(folder)
