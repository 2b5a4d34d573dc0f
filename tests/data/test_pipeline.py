"""Batches: placement on the canvas, order, resuming, sharding, damaged records."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest

from pdl_jax.data import images, pipeline, prepare, records
from tests.data import tiny_folder

CANVAS = (40, 48)
VOID = 255_000


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> records.RecordSource:
    root = tmp_path_factory.mktemp('tiny')
    folder = tiny_folder.write_tiny_folder(root / 'in')
    prepare.prepare_panoptic_folder(**folder, out_dir=root / 'out', num_processes=0, num_shards=2)
    return records.open_split(root / 'out', 'train')


@pytest.fixture(scope='module')
def damaged(tmp_path_factory) -> records.RecordSource:
    """Makes six records, of which 1 and 2 are truncated images, as after bit rot."""
    root = tmp_path_factory.mktemp('damaged')
    folder = tiny_folder.write_tiny_folder(root / 'in')
    for name in ('000001.png', '000002.png'):
        path = folder['images_dir'] / name
        path.write_bytes(path.read_bytes()[:500])

    def decode_leniently(data, *, name, **options):
        return tiny_folder.make_image(int(name.split('.')[0]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, 'decode_values', decode_leniently)
        prepare.prepare_panoptic_folder(**folder, out_dir=root / 'out', num_processes=0)
    return records.open_split(root / 'out', 'train')


def make_iterator(source, **options):
    defaults = {'batch_size': 4, 'canvas_size': CANVAS, 'seed': 3}
    return pipeline.make_train_iterator(source, **{**defaults, **options})


def list_indices(batch) -> list[int]:
    """Returns the indices of the images, which their first channel encodes."""
    return [int(image[0, 0, 0]) // 10 for image in batch['image']]


def take_indices(iterator, num_batches) -> list[int]:
    return [i for _ in range(num_batches) for i in list_indices(next(iterator))]


def assert_batches_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


def test_source_is_small_to_send_to_workers(source):
    source.decode(0)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.decode(4)[0], source.decode(4)[0])
    assert len(pickle.dumps(source)) < 10_000


def test_images_lie_in_the_corner_of_the_canvas(source):
    batch = next(make_iterator(source))
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        'image': (np.uint8, (4, *CANVAS, 3)),
        'panoptic': (np.int32, (4, *CANVAS)),
        'size': (np.int32, (4, 2)),
    }
    for row, index in enumerate(list_indices(batch)):
        image, panoptic = source.decode(index)
        height, width = panoptic.shape
        assert batch['size'][row].tolist() == [height, width]
        np.testing.assert_array_equal(batch['image'][row, :height, :width], image)
        np.testing.assert_array_equal(batch['panoptic'][row, :height, :width], panoptic)
        assert not batch['image'][row, height:].any()
        assert not batch['image'][row, :, width:].any()
        assert (batch['panoptic'][row, height:] == VOID).all()
        assert (batch['panoptic'][row, :, width:] == VOID).all()


def test_large_images_are_shrunk_by_one_factor(source):
    batch = next(make_iterator(source, canvas_size=(16, 16), batch_size=12))
    heights = {tuple(size) for size in batch['size'].tolist()}
    # 24x32 and 20x30 and 17x25 are limited by their width, 32x24 by its height.
    assert heights == {(12, 16), (16, 12), (11, 16)}
    known = set(np.unique(batch['panoptic']))
    assert known <= {0, 1, 1001, 1002, 2000, VOID}


def test_shrinking_averages_images_and_picks_labels():
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    labels = np.arange(40 * 60, dtype=np.int32).reshape(40, 60)
    image, panoptic = pipeline.shrink_to_fit(stripes, labels, (20, 100))
    assert image.shape == (20, 30, 3) and panoptic.shape == (20, 30)
    assert panoptic.dtype == np.int32 and np.isin(panoptic, labels).all()
    assert abs(int(image[5:-5, 5:-5].mean()) - 100) < 3
    # Pixel (i, j) comes from around (2 i, 2 j) in both.
    assert abs(panoptic[10, 15] // 60 - 20.5) <= 1 and abs(panoptic[10, 15] % 60 - 30.5) <= 1
    thin, _ = pipeline.shrink_to_fit(stripes[:1], labels[:1], (5, 10))
    assert thin.shape == (1, 10, 3)
    same, _ = pipeline.shrink_to_fit(stripes, labels, (40, 60))
    assert same is stripes


def test_each_epoch_is_every_record_once_in_a_new_order(source):
    indices = take_indices(make_iterator(source, batch_size=3), 8)
    epochs = [tuple(indices[i : i + 6]) for i in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) > 1
    assert indices == take_indices(make_iterator(source, batch_size=3), 8)
    assert indices != take_indices(make_iterator(source, batch_size=3, seed=4), 8)


def test_split_may_be_smaller_than_a_batch(source):
    indices = take_indices(make_iterator(source, batch_size=20), 1)
    assert sorted(indices[:6]) == sorted(indices[6:12]) == sorted(indices[12:18]) == list(range(6))


@pytest.mark.parametrize('num_rows', [1, 2])
def test_processes_share_each_global_batch(source, num_rows):
    sizes = {'batch_size': 2 * num_rows}
    whole = make_iterator(source, **sizes)
    parts = [make_iterator(source, **sizes, shard_index=i, shard_count=2) for i in range(2)]
    for _ in range(6):
        rows = [list_indices(next(part)) for part in parts]
        assert [len(r) for r in rows] == [num_rows, num_rows]
        # The order matters: augmentation depends on a row's place in the global batch.
        assert rows[0] + rows[1] == list_indices(next(whole))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_batch_may_be_one_image(source, num_workers):
    iterator = make_iterator(source, batch_size=1, num_workers=num_workers)
    try:
        indices = take_indices(iterator, 9)
        assert sorted(indices[:6]) == list(range(6))
        assert indices == take_indices(make_iterator(source, batch_size=3), 3)
        # It resumes too.
        resumed = make_iterator(source, batch_size=1)
        resumed.set_state(iterator.get_state())
        assert_batches_equal(next(resumed), next(iterator))
    finally:
        iterator.close()


@pytest.mark.parametrize('shard_count', [1, 2])
def test_resuming_is_exact(source, shard_count):
    options = {'shard_index': shard_count - 1, 'shard_count': shard_count}
    iterator = make_iterator(source, **options)
    for _ in range(5):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(4)]
    resumed = make_iterator(source, **options)
    resumed.set_state(state)
    for batch in expected:
        assert_batches_equal(next(resumed), batch)
    # Resuming also works backwards, in an iterator that has read ahead.
    iterator.set_state(state)
    assert_batches_equal(next(iterator), expected[0])
    assert iterator.get_state()['next_record'] == state['next_record'] + 4


@pytest.mark.slow
def test_workers_give_the_same_batches_and_resume(damaged):
    options = {'shard_index': 1, 'shard_count': 2, 'skip_unreadable': True}
    iterator = make_iterator(damaged, **options)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    workers = make_iterator(damaged, num_workers=2, **options)
    try:
        workers.set_state(state)
        for _ in range(5):
            assert_batches_equal(next(workers), next(iterator))
        assert workers.get_state() == iterator.get_state()
    finally:
        workers.close()


def test_state_survives_another_batch_size(source):
    iterator = make_iterator(source, batch_size=4)
    for _ in range(3):
        next(iterator)
    larger = make_iterator(source, batch_size=6)
    larger.set_state(iterator.get_state())
    reference = make_iterator(source, batch_size=6)
    take_indices(reference, 2)
    assert_batches_equal(next(larger), next(reference))


@pytest.mark.parametrize(
    'change, message',
    [
        ({'seed': 4}, 'seed 4, this pipeline has 3'),
        ({'num_records': 5}, 'num_records 5, this pipeline has 6'),
        ({'next_record': -1}, "lacks 'next_record' >= 0"),
        ({'next_record': 'x'}, "lacks 'next_record' >= 0"),
    ],
)
def test_foreign_states_are_refused(source, change, message):
    iterator = make_iterator(source)
    with pytest.raises(ValueError, match=message):
        iterator.set_state({**iterator.get_state(), **change})


@pytest.mark.slow
def test_killed_worker_is_told_with_advice(source):
    iterator = make_iterator(source, num_workers=1)
    next(iterator)
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    advice = r'num_workers \(=1\) processes .* was killed, .* set fewer of them and run the same'
    with pytest.raises(RuntimeError, match=advice):
        for _ in range(50):
            next(iterator)
    iterator.close()
    assert workers


@pytest.mark.parametrize('num_workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_damaged_record_stops_training_with_its_name(damaged, num_workers):
    iterator = make_iterator(damaged, num_workers=num_workers)
    try:
        with pytest.raises(ValueError, match=r'00000[12]\.png \(record [12] of .*train\): damaged'):
            take_indices(iterator, 3)
    finally:
        iterator.close()


def test_damaged_records_are_replaced_and_counted(damaged):
    batch = next(make_iterator(damaged, batch_size=6, skip_unreadable=True))
    # From record 1 two records are skipped up to 3, from record 2 one.
    assert sorted(list_indices(batch)) == [0, 3, 3, 3, 4, 5]
    assert batch['num_unreadable'].dtype == np.int32
    assert sorted(batch['num_unreadable'].tolist()) == [0, 0, 0, 0, 1, 2]
    assert all(
        i == 3 for i, n in zip(list_indices(batch), batch['num_unreadable'], strict=True) if n
    )


def test_nothing_readable_is_an_error(source, monkeypatch):
    def fail(self, index):
        raise ValueError(f'{index}.png: damaged')

    monkeypatch.setattr(records.RecordSource, 'decode', fail)
    with pytest.raises(ValueError, match='6 records in a row'):
        next(make_iterator(source, skip_unreadable=True))


@pytest.mark.parametrize(
    'options, message',
    [
        ({'batch_size': 5, 'shard_count': 2}, r'batch_size \(=5\).*shard_count \(=2\)'),
        ({'batch_size': 0}, r'batch_size \(=0\)'),
        ({'shard_index': 2, 'shard_count': 2}, r'shard_index \(=2\)'),
        ({'canvas_size': (0, 5)}, r'canvas_size \(0, 5\)'),
        ({'num_workers': -1}, r'num_workers \(=-1\)'),
        ({'seed': -1}, r'seed \(=-1\)'),
    ],
)
def test_bad_arguments_are_named(source, options, message):
    with pytest.raises(ValueError, match=message):
        make_iterator(source, **options)


@pytest.mark.parametrize('shard_count', [1, 2, 4])
def test_evaluation_sees_every_record_once(source, shard_count):
    parts = [
        pipeline.make_eval_batches(source, batch_size=4, shard_index=i, shard_count=shard_count)
        for i in range(shard_count)
    ]
    assert {len(part) for part in parts} == {2}
    seen = []
    for batches in zip(*(list(part) for part in parts), strict=True):
        for batch in batches:
            assert batch['image'].shape == (4 // shard_count, 32, 32, 3)
            assert batch['valid'].dtype == bool and batch['record'].dtype == np.int32
            np.testing.assert_array_equal(batch['valid'], batch['record'] >= 0)
            for row in range(4 // shard_count):
                if not batch['valid'][row]:
                    assert not batch['image'][row].any() and not batch['size'][row].any()
                    assert (batch['panoptic'][row] == VOID).all()
                    continue
                index = int(batch['record'][row])
                height, width = batch['size'][row]
                image, panoptic = source.decode(index)
                np.testing.assert_array_equal(batch['image'][row, :height, :width], image)
                np.testing.assert_array_equal(batch['panoptic'][row, :height, :width], panoptic)
                assert (batch['panoptic'][row, height:] == VOID).all()
                seen.append(index)
    # The concatenated rows of the processes are in the order of the split.
    assert seen == list(range(6))


def test_evaluation_can_be_repeated_and_left_early(source):
    batches = pipeline.make_eval_batches(source, batch_size=4, canvas_size=CANVAS)
    for batch in batches:
        assert batch['image'].shape == (4, *CANVAS, 3)
        break
    assert sum(int(batch['valid'].sum()) for batch in batches) == 6


def test_evaluation_never_shrinks(source):
    with pytest.raises(ValueError, match=r'canvas_size \(32, 31\) is smaller than \(32, 32\)'):
        pipeline.make_eval_batches(source, batch_size=4, canvas_size=(32, 31))


def test_evaluation_names_damaged_records(damaged):
    with pytest.raises(ValueError, match=r'000001\.png \(record 1 of'):
        list(pipeline.make_eval_batches(damaged, batch_size=1))


def test_evaluation_of_large_and_odd_sizes(shared_dir, tmp_path):
    root = shared_dir / 'data/dsb2018_nuclei/mixed_sizes'
    content = json.loads((root / 'panoptic_mixed_sizes.json').read_text())
    areas = {image['id']: image['height'] * image['width'] for image in content['images']}
    ordered = sorted(content['annotations'], key=lambda a: areas[a['image_id']])
    content['annotations'] = [*ordered[:2], ordered[-1]]
    (tmp_path / 'few.json').write_text(json.dumps(content))
    prepare.prepare_panoptic_folder(
        images_dir=root / 'images',
        panoptic_dir=root / 'panoptic_mixed_sizes',
        json_path=tmp_path / 'few.json',
        out_dir=tmp_path / 'out',
        num_processes=0,
    )
    source = records.open_split(tmp_path / 'out', 'train')
    assert source.max_size == (1040, 1388)
    batch = list(pipeline.make_eval_batches(source, batch_size=3))[0]
    assert batch['image'].shape == (3, 1040, 1388, 3)
    for row, annotation in enumerate(content['annotations']):
        label, areas = np.unique(batch['panoptic'][row], return_counts=True)
        found = dict(zip(label.tolist(), areas.tolist(), strict=True))
        nuclei = [s for s in annotation['segments_info'] if s['category_id'] == 1]
        assert [found[i + 1] for i in range(len(nuclei))] == [s['area'] for s in nuclei]
