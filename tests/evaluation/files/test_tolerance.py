"""Predictions and labels as other programs write them: the same score, and a note for each kind."""

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from pdl_jax.evaluation.files.score_files import evaluate_files
from tests.data import json_mutations
from tests.metrics.panoptic_cases import write_files


@pytest.fixture
def files(tmp_path):
    """Two images with a sky and two balls; the predictions differ a little."""
    labels = np.full((2, 12, 16), 2000)
    labels[:, :5, :6], labels[:, 6:11, 8:14] = 1001, 1002
    predictions = labels.copy()
    predictions[:, 4] = 2000
    return write_files(tmp_path, labels, predictions, things=(1,), stuff=(2,), scores=None)


def edit(files, side, change):
    content = json.loads(files[f'{side}_json'].read_text())
    content = change(content) or content
    files[f'{side}_json'].write_text(json.dumps(content))


def each(path, change):
    def edit_all(content):
        for annotation in content['annotations']:
            for item in annotation['segments_info'] if path == 'segments' else [annotation]:
                change(item)

    return edit_all


def set_to(key, convert):
    return lambda item: item.update({key: convert(item[key])})


def add_segment(segment):
    return lambda annotation: annotation['segments_info'].append(segment)


TOLERATED = {
    'image ids as text': (
        'pred',
        each('annotations', set_to('image_id', str)),
        '2 predictions have image ids of another type than the labels, like "1" for 1 (first',
    ),
    'image ids with zeros': (
        'gt',
        each('annotations', set_to('image_id', '{:06d}'.format)),
        '2 predictions have image ids of another type',
    ),
    'floats': (
        'pred',
        each('segments', set_to('category_id', float)),
        '6 numbers of another type were read as integers',
    ),
    'a bare list': ('pred', lambda c: c['annotations'], 'annotations lie in a bare list'),
    'no file names': (
        'pred',
        each('annotations', lambda a: a.pop('file_name')),
        '2 predictions lack file_name: the name of the label was taken',
    ),
    'absolute names': (
        'pred',
        each('annotations', set_to('file_name', 'C:\\out\\{}'.format)),
        '2 names hold folders that are not below pred',
    ),
    'names of images': (
        'gt',
        each('annotations', set_to('file_name', lambda name: name.replace('.png', '.jpg'))),
        '2 names differ in their ending from those of the files',
    ),
    'no area': ('gt', each('segments', lambda s: s.pop('area')), '6 segments lack area'),
    'no iscrowd': ('gt', each('segments', lambda s: s.pop('iscrowd')), '6 segments lack iscrowd'),
    'no isthing': (
        'gt',
        lambda c: [category.pop('isthing') for category in c['categories']] and None,
        'categories lack isthing: those with several segments in an image, or with a crowd, are',
    ),
    'a covered prediction': (
        'pred',
        each('annotations', add_segment({'id': 9, 'category_id': 1})),
        '2 segments of predictions have no pixel in their PNG: left out (first: id 9 in 000.png)',
    ),
    'a covered label': (
        'gt',
        each('annotations', add_segment({'id': 9, 'category_id': 1, 'area': 4, 'iscrowd': 0})),
        '2 segments of labels have no pixel in their PNG: left out',
    ),
    'a segment twice': (
        'pred',
        each('annotations', lambda a: a['segments_info'].append(dict(a['segments_info'][0]))),
        '2 segments are listed twice with one id: joined',
    ),
    'fields of other programs': (
        'pred',
        each('segments', lambda s: s.update(was_fused=False, iscrowd='?', area='?', score=None)),
        None,
    ),
}


@pytest.mark.parametrize('side, change, note', TOLERATED.values(), ids=TOLERATED)
def test_the_score_stays(files, side, change, note):
    before, _ = evaluate_files(**files, metrics=('pq', 'miou', 'pc'))
    assert 0 < before['pq']['All']['pq'] < 1 and not before['notes']
    edit(files, side, change)
    after, _ = evaluate_files(**files, metrics=('pq', 'miou', 'pc'))
    notes = after.pop('notes')
    before.pop('notes')
    assert after == before
    assert note in '\n'.join(notes) if note else not notes


def test_json_of_windows(files):
    for side in ('gt', 'pred'):
        path = files[f'{side}_json']
        path.write_bytes(path.read_text().encode('utf-16' if side == 'gt' else 'utf-8-sig'))
    assert evaluate_files(**files)[0]['num_images'] == 2


def test_pngs_in_folders_and_of_other_modes(files):
    before, _ = evaluate_files(**files, metrics=('pq',))
    content = json.loads(files['pred_json'].read_text())
    for index, annotation in enumerate(content['annotations']):
        path = files['pred_folder'] / annotation['file_name']
        ids = np.asarray(Image.open(path)).astype(np.int64) @ [1, 256, 65536]
        small = {s['id']: i for i, s in enumerate(annotation['segments_info'], 1)}
        for segment in annotation['segments_info']:
            segment['id'] = small[segment['id']]
        buffer = io.BytesIO()
        Image.fromarray(np.vectorize(small.get)(ids).astype(np.uint8)).save(buffer, format='PNG')
        (files['pred_folder'] / f'c{index}').mkdir()
        (files['pred_folder'] / f'c{index}' / 'frame.png').write_bytes(buffer.getvalue())
        annotation['file_name'] = f'c{index}\\frame.png'
    files['pred_json'].write_text(json.dumps(content))
    after, _ = evaluate_files(**files, metrics=('pq',))
    assert after['pq'] == before['pq']
    assert after['notes'] == [
        '2 prediction PNGs of ids are grey or have a palette: the value of a pixel is its id '
        '(first: frame.png)'
    ]


def test_stuff_in_parts_is_told(files):
    def split_sky(content):
        for annotation in content['annotations']:
            annotation['segments_info'].append({'id': 50, 'category_id': 2})

    for name in ('000.png', '001.png'):
        path = files['pred_folder'] / name
        pixels = np.asarray(Image.open(path)).copy()
        pixels[-1, :] = (50, 0, 0)
        Image.fromarray(pixels).save(path)
    edit(files, 'pred', split_sky)
    report, _ = evaluate_files(**files, metrics=('pq',))
    assert report['pq']['per_class']['2']['fp'] == 2
    assert report['notes'] == [
        '2 times a prediction has several segments of one stuff class: each counts, as in '
        "panopticapi; give them one id to join them (first: 'category 2' in 000.png)"
    ]


def test_instance_results_are_named(files):
    def to_instances(content):
        for annotation in content['annotations']:
            del annotation['segments_info']
            annotation['segmentation'] = {'size': [12, 16], 'counts': 'x'}

    edit(files, 'pred', to_instances)
    with pytest.raises(ValueError, match=r'pred\.json holds objects with outlines'):
        evaluate_files(**files)


@pytest.mark.parametrize('side', ['gt', 'pred'])
def test_mutations_are_scored_or_refused_by_name(files, side):
    content = json.loads(files[f'{side}_json'].read_text())
    counts = {'scored': 0, 'refused': 0}
    for seed in range(100):
        files[f'{side}_json'].write_bytes(json_mutations.mutate(content, random.Random(seed)))
        try:
            report, _ = evaluate_files(**files, metrics=('pq', 'ap'), num_processes=1)
            quality = report['pq']['All']['pq']
            assert quality is None or 0 <= quality <= 1
            counts['scored'] += 1
        except (ValueError, FileNotFoundError) as error:
            assert f'{side}.json' in str(error) or '.png' in str(error), (seed, error)
            assert '\n' not in str(error)
            counts['refused'] += 1
    assert min(counts.values()) > 10
