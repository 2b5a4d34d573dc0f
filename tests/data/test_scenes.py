"""The generated scenes: determinism, the COCO panoptic format, and the need for instances."""

import collections
import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.scenes import dataset as scenes

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_SCENES = 60
CATEGORY = {category['id']: category for category in scenes.CATEGORIES}


@pytest.fixture(scope='module')
def rendered():
    return [scenes.render_scene(3, 'train', index) for index in range(NUM_SCENES)]


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'made' / 'here'
    scenes.write_scenes(folder, num_train=5, num_val=3, seed=7, num_processes=1)
    return folder


def hash_files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def count_values(array):
    values, counts = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def is_instance(segment):
    return bool(CATEGORY[segment['category_id']]['isthing']) and not segment['iscrowd']


def find_touching(scene):
    """Returns the ids of instances that share a border with another instance of their class."""
    category = {s['id']: s['category_id'] for s in scene.segments if is_instance(s)}
    found = set()
    for first, second in (
        (scene.ids[:, 1:], scene.ids[:, :-1]),
        (scene.ids[1:], scene.ids[:-1]),
    ):
        border = first != second
        for a, b in set(zip(first[border].tolist(), second[border].tolist(), strict=True)):
            if a in category and b in category and category[a] == category[b]:
                found |= {a, b}
    return found


def compute_quality(scene_list, predictions):
    """Returns PQ per category in percent; a prediction is (ids i32[H, W], {id: category_id})."""
    overlap_sum = collections.Counter()
    counts = collections.defaultdict(collections.Counter)
    for scene, (ids, predicted) in zip(scene_list, predictions, strict=True):
        truth = {s['id']: s for s in scene.segments}
        overlap = {
            divmod(pair, 2**24): area
            for pair, area in count_values(scene.ids.astype(np.int64) * 2**24 + ids).items()
        }
        area_of = count_values(ids)
        matched = set()
        for (true_id, predicted_id), area in overlap.items():
            if true_id == 0 or predicted_id == 0 or truth[true_id]['iscrowd']:
                continue
            category = truth[true_id]['category_id']
            if predicted[predicted_id] != category:
                continue
            union = truth[true_id]['area'] + area_of[predicted_id] - area
            union -= overlap.get((0, predicted_id), 0)
            if area / union > 0.5:
                overlap_sum[category] += area / union
                counts[category]['matched'] += 1
                matched |= {(0, true_id), (1, predicted_id)}
        for true_id, segment in truth.items():
            if not segment['iscrowd'] and (0, true_id) not in matched:
                counts[segment['category_id']]['missed'] += 1
        for predicted_id, category in predicted.items():
            ignored = overlap.get((0, predicted_id), 0) + sum(
                overlap.get((s['id'], predicted_id), 0)
                for s in scene.segments
                if s['iscrowd'] and s['category_id'] == category
            )
            is_open = (1, predicted_id) not in matched
            if is_open and ignored <= 0.5 * area_of[predicted_id]:
                counts[category]['false'] += 1
    return {
        category: 100 * overlap_sum[category] / (c['matched'] + 0.5 * (c['missed'] + c['false']))
        for category, c in counts.items()
    }


def average(quality, *, is_thing):
    return np.mean([q for c, q in quality.items() if bool(CATEGORY[c]['isthing']) == is_thing])


def test_scene_is_the_same_each_time_and_differs_by_seed_split_and_index():
    first = scenes.render_scene(1, 'train', 4)
    scenes.render_scene(1, 'train', 5)
    again = scenes.render_scene(1, 'train', 4)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert first.segments == again.segments
    for other in ((2, 'train', 4), (1, 'val', 4), (1, 'train', 5)):
        assert (scenes.render_scene(*other).ids != first.ids).mean() > 0.5


def test_segments_describe_the_pixels(rendered):
    for scene in rendered:
        assert scene.image.dtype == np.uint8 and scene.image.shape == (192, 256, 3)
        assert scene.ids.dtype == np.int32 and scene.ids.shape == (192, 256)
        ids = [s['id'] for s in scene.segments]
        assert len(set(ids)) == len(ids)
        assert set(np.unique(scene.ids)) - {0} == set(ids)
        for segment in scene.segments:
            rows, columns = np.nonzero(scene.ids == segment['id'])
            assert segment['area'] == len(rows) >= 60
            x, y, width, height = segment['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        stuff = [s['category_id'] for s in scene.segments if not is_instance(s)]
        assert len(set(stuff)) == len(stuff)


def test_scenes_hold_every_class_crowds_void_and_touching_instances(rendered):
    seen = collections.Counter(
        c for scene in rendered for c in {s['category_id'] for s in scene.segments}
    )
    assert all(seen[c] >= 0.1 * NUM_SCENES for c in CATEGORY), seen
    crowds = [s for scene in rendered for s in scene.segments if s['iscrowd']]
    assert 0.03 * NUM_SCENES <= len(crowds) <= 0.25 * NUM_SCENES
    assert all(CATEGORY[s['category_id']]['isthing'] for s in crowds)
    has_void = [np.mean(scene.ids == 0) > 0.005 for scene in rendered]
    assert 0.1 <= np.mean(has_void) <= 0.5
    assert np.mean([np.mean(scene.ids == 0) for scene in rendered]) < 0.03
    counts = [sum(is_instance(s) for s in scene.segments) for scene in rendered]
    assert 1 <= min(counts) and max(counts) <= 12 and 6 <= np.mean(counts) <= 11
    touching = sum(len(find_touching(scene)) for scene in rendered)
    assert 0.3 <= touching / sum(counts) <= 0.8


def test_instances_are_large_and_in_one_piece_mostly(rendered):
    areas, shares = [], []
    for scene in rendered:
        for segment in filter(is_instance, scene.segments):
            areas.append(segment['area'])
            mask = scene.ids == segment['id']
            shares.append(_largest_piece(mask) / segment['area'])
    assert 300 <= np.median(areas) <= 1500
    assert np.mean(np.array(shares) > 0.9) > 0.9


def _largest_piece(mask):
    """Returns the number of pixels of the largest 4-connected piece, by a union of row runs."""
    parent = {}

    def find(a):
        while parent[a] != a:
            a = parent[a]
        return a

    size, before = collections.Counter(), []
    for y in np.flatnonzero(mask.any(1)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[y].astype(int), [0]])))
        runs = [(int(y), int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        for run in runs:
            parent[run] = run
            for above in before:
                if above[0] == y - 1 and above[1] < run[2] and run[1] < above[2]:
                    parent[find(above)] = find(run)
        before = runs
    for run in parent:
        size[find(run)] += run[2] - run[1]
    return max(size.values())


def test_perfect_labels_score_full_and_semantic_labels_alone_fail_on_things(rendered):
    perfect = [(s.ids, {g['id']: g['category_id'] for g in s.segments}) for s in rendered]
    quality = compute_quality(rendered, list(map(_without_crowds, rendered, perfect)))
    assert min(quality.values()) > 99.9
    merged = []
    for scene in rendered:
        ids = np.zeros_like(scene.ids)
        for segment in scene.segments:
            ids[scene.ids == segment['id']] = segment['category_id']
        merged.append((ids, {c: c for c in np.unique(ids).tolist() if c}))
    quality = compute_quality(rendered, merged)
    assert average(quality, is_thing=False) > 99.9
    assert average(quality, is_thing=True) < 30


def _without_crowds(scene, prediction):
    ids, predicted = prediction
    crowds = [s['id'] for s in scene.segments if s['iscrowd']]
    kept = {i: c for i, c in predicted.items() if i not in crowds}
    return np.where(np.isin(ids, crowds), 0, ids), kept


def test_classes_differ_in_colour_and_pictures_are_well_exposed(rendered):
    images = np.stack([scene.image for scene in rendered])
    assert 70 < images.mean() < 170
    assert (images == 255).mean() < 0.1 and (images == 0).mean() < 0.05
    assert np.mean([scene.image.std() for scene in rendered]) > 30


def test_folder_follows_the_official_format(dataset):
    image_ids = []
    for split, count in (('train', 5), ('val', 3)):
        content = json.loads((dataset / split / f'panoptic_{split}.json').read_text())
        assert set(content) == {'info', 'licenses', 'images', 'annotations', 'categories'}
        assert content['categories'] == scenes.CATEGORIES
        assert len(content['images']) == len(content['annotations']) == count
        image_ids += [image['id'] for image in content['images']]
        for image, annotation in zip(content['images'], content['annotations'], strict=True):
            assert annotation['image_id'] == image['id']
            with Image.open(dataset / split / 'images' / image['file_name']) as picture:
                assert picture.format == 'JPEG' and picture.mode == 'RGB'
                assert picture.size == (image['width'], image['height']) == (256, 192)
            png = dataset / split / f'panoptic_{split}' / annotation['file_name']
            with Image.open(png) as picture:
                assert picture.format == 'PNG' and picture.mode == 'RGB'
                rgb = np.asarray(picture).astype(np.int64)
            ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
            found = count_values(ids)
            found.pop(0, None)
            assert found == {s['id']: s['area'] for s in annotation['segments_info']}
            assert {s['category_id'] for s in annotation['segments_info']} <= set(CATEGORY)
        assert len(list((dataset / split / 'images').iterdir())) == count
    assert len(set(image_ids)) == 8


def test_category_ids_have_gaps_and_both_kinds():
    ids = [category['id'] for category in scenes.CATEGORIES]
    assert len(set(ids)) == len(ids) and ids != list(range(1, len(ids) + 1))
    assert sum(category['isthing'] for category in scenes.CATEGORIES) >= 5
    assert sum(not category['isthing'] for category in scenes.CATEGORIES) >= 4


def test_written_pixels_are_the_rendered_ones(dataset):
    scene = scenes.render_scene(7, 'val', 2)
    content = json.loads((dataset / 'val' / 'panoptic_val.json').read_text())
    assert content['annotations'][2]['segments_info'] == scene.segments
    path = dataset / 'val' / 'images' / content['images'][2]['file_name']
    difference = np.abs(np.asarray(Image.open(path)).astype(int) - scene.image)
    assert difference.mean() < 5


def test_bytes_do_not_depend_on_the_number_of_processes(dataset, tmp_path):
    scenes.write_scenes(tmp_path / 'two', num_train=5, num_val=3, seed=7, num_processes=2)
    assert hash_files(tmp_path / 'two') == hash_files(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ['two']


def test_second_call_with_the_same_arguments_changes_nothing(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob('*')}
    scenes.write_scenes(dataset, num_train=5, num_val=3, seed=7, num_processes=2)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob('*')} == before


def test_folder_made_with_other_arguments_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match='give another folder, or delete'):
        scenes.write_scenes(dataset, num_train=6, num_val=3, seed=7)
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='no readable scenes.json'):
        scenes.write_scenes(tmp_path, num_train=1, num_val=0)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_failure_leaves_no_folder_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('disk on fire')

    monkeypatch.setattr(scenes, 'render_scene', fail)
    with pytest.raises(RuntimeError, match='disk on fire'):
        scenes.write_scenes(tmp_path / 'out', num_train=1, num_val=0, num_processes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('size', [(64, 96), (161, 233), (384, 512)])
def test_size_is_a_parameter(size):
    for index in range(3):
        scene = scenes.render_scene(0, 'val', index, height_px=size[0], width_px=size[1])
        assert scene.image.shape == (*size, 3) and scene.ids.shape == size
        assert sum(s['area'] for s in scene.segments) > 0.7 * scene.ids.size


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'split': 'test'}, "split must be one of .* not 'test'"),
        ({'height_px': 20}, 'at least 48 x 64 pixels, not 20 x 256'),
        ({'seed': -1}, r'seed \(=-1\)'),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes.render_scene(**{'seed': 0, 'split': 'train', 'index': 0, **arguments})


def test_command_line_writes_a_folder(tmp_path):
    flags = ['--num_train=1', '--num_val=1', '--height_px=64', '--width_px=96', '--num_processes=1']
    command = [
        sys.executable,
        '-m',
        'pdl_jax.data.scenes.dataset',
        f'--out={tmp_path / "cli"}',
        *flags,
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    manifest = json.loads((tmp_path / 'cli' / 'scenes.json').read_text())
    assert manifest['num_train'] == 1 and manifest['height_px'] == 64
    assert len(list((tmp_path / 'cli').rglob('*.jpg'))) == 2
