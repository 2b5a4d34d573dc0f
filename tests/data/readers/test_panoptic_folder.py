"""The COCO panoptic format as tools write it: derived, repaired and told of, or refused."""

import json
import random
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import catalog, images, prepare, records
from pdl_jax.data.readers import panoptic_folder
from tests.data import json_mutations, tiny_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_folder.write_tiny_folder(tmp_path / 'in', num_images=3)


def edit_json(folder, edit):
    content = json.loads(folder['json_path'].read_text())
    edit(content)
    folder['json_path'].write_text(json.dumps(content))


def read(folder, **options):
    """Returns the labels, and the notes of reading and of loading as one text."""
    split = panoptic_folder.read_split(**folder, **options)
    loaded = [split.load(item) for item in split.items]
    remarks = [
        wording.format(count) for record in loaded for wording, count in record.remarks.items()
    ]
    return split, [record.panoptic for record in loaded], '\n'.join([*split.notes, *remarks])


def list_segments(content):
    return [s for annotation in content['annotations'] for s in annotation['segments_info']]


def update_each(items, **fields):
    for item in items:
        item.update(fields)


def remove(key, *paths):
    def edit(content):
        for path in paths:
            for item in list_segments(content) if path == 'segments' else content[path]:
                item.pop(key)

    return edit


def convert(path, *keys, to):
    def edit(content):
        for item in list_segments(content) if path == 'segments' else content[path]:
            for key in keys:
                item[key] = to(item[key])

    return edit


def join_annotations(content):
    content['annotations'] = [
        {**annotation, 'segments_info': [segment]}
        for annotation in content['annotations']
        for segment in annotation['segments_info']
    ]


def flatten_annotations(content):
    content['annotations'] = [
        {**segment, 'image_id': annotation['image_id'], 'file_name': annotation['file_name']}
        for annotation in content['annotations']
        for segment in annotation['segments_info']
    ]


def repeat_segment(content):
    segments = content['annotations'][0]['segments_info']
    segments.append(dict(segments[1]))


def add_covered(content):
    content['annotations'][1]['segments_info'].append(
        {'id': 77, 'category_id': 3, 'iscrowd': 0, 'area': 50}
    )


# Edit of the JSON, and what is told of it. The labels stay the same.
TOLERATED = {
    'no area': (remove('area', 'segments'), '14 segments lack area'),
    'NaN area': (convert('segments', 'area', to=lambda _: float('nan')), '14 segments lack area'),
    'null area': (convert('segments', 'area', to=lambda _: None), '14 segments lack area'),
    'float area': (convert('segments', 'area', to=float), ''),
    'text area': (convert('segments', 'area', to=str), ''),
    'iscrowd true': (convert('segments', 'iscrowd', to=bool), ''),
    'ids 1.0': (
        convert('segments', 'id', 'category_id', to=float),
        '28 numbers of another type were read as integers',
    ),
    'ids "1"': (
        convert('segments', 'id', 'category_id', to=str),
        "(first: id '16000000' in segments_info[0] of annotations[0] of panoptic.json)",
    ),
    'sizes 32.0': (convert('images', 'height', 'width', to=float), '6 numbers of another type'),
    'no sizes': (remove('height', 'images'), '3 images lack height or width'),
    'image_id "1"': (
        convert('annotations', 'image_id', to=str),
        '3 annotations have image ids of another type than images, like "1" for 1 (first: \'100\'',
    ),
    'image_id 1.0': (convert('annotations', 'image_id', to=float), '3 numbers of another type'),
    'image_id "0001"': (
        convert('annotations', 'image_id', to='{:012d}'.format),
        "'000000000100' for 100 in annotations[0]",
    ),
    'no file_name': (
        remove('file_name', 'annotations'),
        '3 annotations lack file_name: the name of the image with .png (first: 000000.png',
    ),
    'names of the images': (
        convert('annotations', 'file_name', to=lambda name: name.replace('.png', '.jpg')),
        '3 names differ in their ending from those of the files (first: 000000.jpg -> 000000.png)',
    ),
    'absolute names': (
        convert('images', 'file_name', to='/home/me/images/{}'.format),
        '3 names hold folders that are not below images: left out',
    ),
    'names of Windows': (
        convert('images', 'file_name', to='D:\\set\\images\\{}'.format),
        '3 names hold folders',
    ),
    'no images': (lambda c: c.pop('images'), '3 images are not listed'),
    'one annotation per segment': (join_annotations, '3 images have several entries in annot'),
    'segments as annotations': (
        flatten_annotations,
        '3 images have several entries in annotations',
    ),
    'a segment twice': (repeat_segment, '1 segments are listed twice with one id: joined'),
    'a covered segment': (add_covered, '1 segments of the JSON have no pixel in their PNG'),
    'no isthing': (
        remove('isthing', 'categories'),
        'categories lack isthing: those with several segments in an image, or with a crowd',
    ),
    'isthing true': (convert('categories', 'isthing', to=bool), ''),
    'hex colours': (convert('categories', 'color', to=lambda c: f'#{bytes(c).hex()}'), ''),
}


@pytest.mark.parametrize('edit, told', TOLERATED.values(), ids=TOLERATED)
def test_what_can_be_derived_or_means_one_thing(folder, edit, told):
    before, expected, nothing = read(folder)
    assert not nothing
    edit_json(folder, edit)
    after, labels, notes = read(folder)
    assert after.spec == before.spec
    for label, wanted in zip(labels, expected, strict=True):
        np.testing.assert_array_equal(label, wanted)
    assert told in notes if told else not notes
    # A line each, however often.
    assert len(after.notes) == len({note.split(' ', 1)[1] for note in after.notes})


def test_missing_iscrowd_means_single_objects(folder):
    edit_json(folder, remove('iscrowd', 'segments'))
    _, labels, notes = read(folder)
    assert '14 segments lack iscrowd' in notes
    # The crowd of the dogs was the last segment of the first image.
    assert 2 in labels[0] and 0 not in labels[0]


def test_ignored_areas_may_be_anything(folder):
    edit_json(folder, convert('segments', 'area', to=lambda _: 'unknown'))
    assert not read(folder, check_area=False)[2]
    with pytest.raises(ValueError, match=r"segments_info\[0\] of annotations\[0\].*got 'unknown'"):
        read(folder)


def test_segment_id_zero_is_a_segment_where_it_is_listed(folder):
    def list_zero(content):
        content['annotations'][0]['segments_info'].append({'id': 0, 'category_id': 7, 'iscrowd': 0})

    edit_json(folder, list_zero)
    ids, _ = tiny_folder.make_ids(0)
    _, labels, notes = read(folder)
    assert (labels[0][ids == 0] == 2000).all()
    assert (labels[1][tiny_folder.make_ids(1)[0] == 0] == 255_000).all()
    assert '1 images list segment id 0, which is void elsewhere' in notes


def test_category_id_zero_and_stuff_in_parts(folder):
    def edit(content):
        content['categories'][2]['id'] = 0
        for segment in list_segments(content):
            if segment['category_id'] == 7:
                segment['category_id'] = 0
        # Two cats become sky.
        content['annotations'][1]['segments_info'][0]['category_id'] = 0

    edit_json(folder, edit)
    _, labels, notes = read(folder)
    assert (labels[1] == 2000).sum() == 10 * 32 + 2 * 11
    assert "1 times an image has several segments of one stuff class: joined (first: 'sky'" in notes


def test_all_stuff_and_equal_names_are_told(folder):
    edit_json(folder, lambda c: update_each(c['categories'], isthing=0, name='thing'))
    split, _, notes = read(folder)
    assert split.spec.class_names == ('thing (9)', 'thing (3)', 'thing (7)')
    assert '3 categories are all stuff (isthing is 0), so that objects are not told apart' in notes
    assert '3 categories share a name and are kept apart' in notes


def test_known_categories_give_isthing():
    listed = catalog.cityscapes().to_dict()['categories']
    bare = [{key: c[key] for key in ('id', 'name')} for c in listed]
    assert catalog.get_spec('auto', bare) == catalog.cityscapes()
    assert catalog.get_spec('cityscapes', bare[3:5]) == catalog.cityscapes()
    # Own classes are not Cityscapes, however many they are.
    own = [{'id': i, 'name': f'class {i}', 'isthing': int(i > 10)} for i in range(19)]
    assert catalog.get_spec('auto', own).name == 'own'
    train_ids = [{**c, 'id': i} for i, c in enumerate(listed)]
    assert catalog.get_spec('auto', train_ids).name == 'cityscapes'
    assert catalog.get_spec('auto', [{**c, 'id': c['id'] + 50} for c in listed]).name == 'own'


@pytest.mark.parametrize(
    'spec, told', [('coco', '--spec=own'), ('own', 'label_divisor 1000: 4096')]
)
def test_more_objects_than_a_named_label_holds(folder, spec, told):
    def fill(content):
        content['categories'] = catalog.coco().to_dict()['categories']
        content['annotations'] = content['annotations'][:1]
        content['annotations'][0]['segments_info'] += [
            {'id': i + 2**20, 'category_id': 1, 'iscrowd': 0} for i in range(1200)
        ]
        for segment in content['annotations'][0]['segments_info'][:5]:
            segment['category_id'] = 1

    edit_json(folder, fill)
    options = {**folder, 'spec': spec}
    if spec == 'coco':
        with pytest.raises(
            ValueError, match='000000.png of panoptic.json has 120. objects.*' + told
        ):
            panoptic_folder.read_split(**options)
    else:
        assert told in panoptic_folder.read_split(**options).notes[-1]


def move_into_folders(folder, name_of_folder):
    """Sorts the files by image into folders and returns image -> folder."""
    folders = {}
    for index in range(3):
        folders[index] = name_of_folder(index)
        for key in ('images_dir', 'panoptic_dir'):
            (folder[key] / folders[index]).mkdir(exist_ok=True)
            name = f'{index:06d}.png'
            (folder[key] / name).rename(folder[key] / folders[index] / 'frame.png')
    return folders


def test_the_same_name_in_several_folders(folder, tmp_path):
    _, expected, _ = read(folder)
    folders = move_into_folders(folder, 'camera {}'.format)

    def name_folders(content):
        for index, item in enumerate(content['images']):
            item['file_name'] = f'{folders[index]}/frame.jpg'
        for index, item in enumerate(content['annotations']):
            item['file_name'] = f'{folders[index]}\\frame.png'

    edit_json(folder, name_folders)
    split, labels, notes = read(folder)
    for label, wanted in zip(labels, expected, strict=True):
        np.testing.assert_array_equal(label, wanted)
    assert 'names differ in their ending' in notes
    records_ = [split.load(item) for item in split.items]
    # Predictions go to one folder, so that their names must differ.
    assert [r.annotation_file_name for r in records_] == [f'camera {i}_frame.png' for i in range(3)]
    assert [r.file_name for r in records_] == [f'camera {i}/frame.png' for i in range(3)]
    edit_json(folder, lambda c: update_each(c['annotations'][:1], file_name='frame.png'))
    with pytest.raises(
        ValueError, match=r"file_name 'frame\.png' could mean camera 0/frame\.png or"
    ):
        read(folder)


def test_two_names_of_one_file_are_refused(folder):
    edit_json(folder, lambda c: update_each(c['images'][1:2], file_name='x/000000.png'))
    with pytest.raises(ValueError, match=r"'000000\.png' and 'x/000000\.png' both lead to 000000"):
        read(folder)


def test_accents_and_endings(folder):
    composed = unicodedata.normalize('NFC', 'Küste ©.png')
    (folder['images_dir'] / '000000.png').rename(folder['images_dir'] / 'Straße 1.PNG')
    decomposed = unicodedata.normalize('NFD', composed)
    (folder['panoptic_dir'] / '000000.png').rename(folder['panoptic_dir'] / decomposed)

    def rename(content):
        content['images'][0]['file_name'] = 'Stra%C3%9Fe%201.jpg'
        content['annotations'][0]['file_name'] = composed

    edit_json(folder, rename)
    _, labels, notes = read(folder)
    assert labels[0].shape == (24, 32)
    for told in ('written with %20', 'differ in their ending', 'composition of letters'):
        assert told in notes


def test_id_pngs_of_other_modes(folder):
    _, expected, _ = read(folder)
    small: dict[int, int] = {}
    for index in range(3):
        for i in np.unique(tiny_folder.make_ids(index)[0]).tolist():
            small.setdefault(i, len(small))
    edit_json(folder, convert('segments', 'id', to=small.get))
    for index, mode in enumerate((np.uint8, np.uint16, 'P')):
        ids = np.vectorize(small.get)(tiny_folder.make_ids(index)[0])
        image = Image.fromarray(ids.astype(np.uint8 if mode == 'P' else mode))
        if mode == 'P':
            image = image.convert('P')
            image.putpalette([200, 100, 50] * 256)
        image.save(folder['panoptic_dir'] / f'{index:06d}.png')
    _, labels, notes = read(folder)
    for label, wanted in zip(labels, expected, strict=True):
        np.testing.assert_array_equal(label, wanted)
    assert notes.count('1 PNGs of ids are grey or have a palette') == 3


def test_resized_masks_get_a_hint(folder):
    ids = tiny_folder.make_ids(0)[0].astype(np.int64)
    blurred = np.where(np.arange(32) % 2 > 0, ids, np.roll(ids, 1, axis=1) // 2 + ids // 2 + 1)
    blurred[0] = np.arange(32) + 90
    (folder['panoptic_dir'] / '000000.png').write_bytes(images.encode_ids(blurred))
    with pytest.raises(
        ValueError, match=r'000000\.png holds segment id .*was the PNG resized with'
    ):
        read(folder)
    half = np.asarray(Image.fromarray(ids.astype(np.int32)).resize((16, 12), 0).resize((32, 24), 0))
    (folder['panoptic_dir'] / '000000.png').write_bytes(images.encode_ids(half))
    with pytest.raises(ValueError, match=r'of 5 segments of the image differ.*was it resized\?'):
        read(folder)


@pytest.mark.parametrize(
    'edit, message',
    [
        (
            lambda c: (
                update_each(c['annotations'], segmentation=[], segments_info=None)
                or [a.pop('segments_info') for a in c['annotations']]
            ),
            r'holds objects with outlines .*--format=coco_instances',
        ),
        (
            lambda c: [c.update(c['annotations'][0]), c.pop('annotations')],
            r'holds a single annotation, with segments_info at the top',
        ),
        (
            convert('images', 'height', 'width', to=lambda n: {24: 32, 32: 24}[n]),
            'height and width',
        ),
        (lambda c: c['categories'][0].pop('isthing'), r'categories\[0\].*lacks the field .isthing'),
        (lambda c: c['images'][0].update(id='101'), r'images\[1\].*id 101 is given twice'),
        (
            lambda c: c['annotations'][1].update(image_id=100),
            r"image_id '100' is annotated twice, with the PNGs '000000\.png' and '000001\.png'",
        ),
    ],
)
def test_what_means_something_else_is_refused(folder, edit, message):
    edit_json(folder, edit)
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.mark.parametrize(
    'old, new, message',
    [
        (
            '"area": ',
            '"area": Infinity, "x": ',
            r'segments_info\[0\] of annotations\[0\].*area.*inf',
        ),
        ('"area": ', '"area": 1e999, "x": ', r'area must be a number of pixels.*got inf'),
        ('"area": ', '"area": ' + '7' * 5000 + ', "x": ', r'\.area is an integer of 5000 digits'),
        ('"area": ', '"area": 1, "area": ', r"segments_info\[0\] has the field 'area' twice"),
        ('"images": ', '"images": ' + '[' * 50000 + ', "x": ', r'panoptic\.json is not valid JSON'),
        ('"height": 24', '"height": NaN', None),
        ('"bbox": []', '"bbox": [NaN, Infinity]', None),
    ],
)
def test_hostile_numbers(folder, old, new, message):
    text = folder['json_path'].read_text()
    assert old in text
    folder['json_path'].write_text(text.replace(old, new, 1))
    if message is None:
        read(folder)
        return
    with pytest.raises(ValueError, match=message) as caught:
        read(folder)
    assert 'panoptic.json' in str(caught.value) and len(str(caught.value)) < 400


def test_repaired_files_are_noticed(folder, tmp_path, capsys):
    out = tmp_path / 'out'
    options = {'out_dir': out, 'num_processes': 0}
    prepare.prepare_panoptic_folder(**folder, **options)
    prepare.prepare_panoptic_folder(**folder, **options)
    assert 'exists already, made from the same files: kept' in capsys.readouterr().out
    for key in ('images_dir', 'panoptic_dir'):
        path = folder[key] / '000001.png'
        data = path.read_bytes()
        picture = np.asarray(Image.open(path))
        # The same pixels in other bytes count too: only the bytes are compared.
        Image.fromarray(picture).save(path, compress_level=1 if key == 'images_dir' else 9)
        assert path.read_bytes() != data
        with pytest.raises(
            ValueError, match='pictures or PNGs have changed since: pass --overwrite'
        ):
            prepare.prepare_panoptic_folder(**folder, **options)
        path.write_bytes(data)
    prepare.prepare_panoptic_folder(**folder, **options)
    prepare.prepare_panoptic_folder(**folder, **options, overwrite=True)
    # Splits of earlier versions say nothing of files.
    path = out / 'train' / 'metadata.json'
    metadata = json.loads(path.read_text())
    assert len(metadata.pop('files_hash')) == 64
    path.write_text(json.dumps(metadata))
    prepare.prepare_panoptic_folder(**folder, **options)
    assert 'kept (an earlier version made it' in capsys.readouterr().out


def test_notes_are_printed_once(folder, tmp_path, capsys):
    edit_json(folder, remove('area', 'segments'))
    edit_json(folder, add_covered)
    prepare.prepare_panoptic_folder(**folder, out_dir=tmp_path / 'out', num_processes=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('note: ')]
    assert lines == [
        'note: 14 segments lack area: it is the number of their pixels (first: segments_info[0] of '
        'annotations[0] of panoptic.json)',
        'note: 1 segments of the JSON have no pixel in their PNG: left out (first: 000001.png)',
    ]
    assert records.open_split(tmp_path / 'out', 'train').max_instances == 3


def test_mutations_are_read_or_refused_by_name(folder, tmp_path):
    content = json.loads(folder['json_path'].read_text())
    counts = {'read': 0, 'refused': 0}
    for seed in range(200):
        folder['json_path'].write_bytes(json_mutations.mutate(content, random.Random(seed)))
        try:
            split, _, _ = read(folder)
            assert split.spec.num_classes
            counts['read'] += 1
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
            assert '\n' not in text and len(text) < 1500, (seed, text)
            assert 'panoptic.json' in text or '00000' in text, (seed, text)
            counts['refused'] += 1
    assert min(counts.values()) > 20
    shutil.rmtree(tmp_path / 'in')
