"""From a folder in the COCO panoptic format to record files: labels, errors, crashes."""

import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from pdl_jax.data import catalog, images, prepare, records, split_directory
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.storage import paths
from tests.data import tiny_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return tiny_folder.write_tiny_folder(tmp_path / 'in')


def prepare_tiny(folder, out, **options):
    return prepare.prepare_panoptic_folder(**folder, out_dir=out, **{'num_processes': 0, **options})


def hash_files(directory) -> dict[str, str]:
    directory = pathlib.Path(directory)
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob('*'))
        if path.is_file()
    }


def run_python(code: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, '-c', code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def edit_json(folder, edit):
    content = json.loads(folder['json_path'].read_text())
    edit(content)
    folder['json_path'].write_text(json.dumps(content))


def test_labels_are_translated(folder, tmp_path):
    prepare_tiny(folder, tmp_path / 'out')
    source = records.open_split(tmp_path / 'out', 'train')
    # Classes in the order of the file: dog 0, cat 1, sky 2; divisor 1000, void 255.
    for index in range(6):
        ids, _ = tiny_folder.make_ids(index)
        expected = np.full(ids.shape, 255_000, np.int32)
        # Cats are numbered in the order of the file, not by id or position.
        labels = {16_000_000: 1001, 300: 1002, 5: 1, 70000 + index: 2000, 999: 0}
        for segment_id, label in labels.items():
            expected[ids == segment_id] = label
        image, panoptic = source.decode(index)
        np.testing.assert_array_equal(panoptic, expected)
        np.testing.assert_array_equal(image, tiny_folder.make_image(index))
        assert panoptic.dtype == np.int32


def test_metadata_and_info(folder, tmp_path):
    prepare_tiny(folder, tmp_path / 'out')
    source = records.open_split(tmp_path / 'out', 'train')
    assert len(source) == source.num_images == 6
    assert source.max_size == (32, 32)
    # An image with a crowd has sky, two cats, a dog and the crowd; the crowd is no instance.
    assert (source.max_segments, source.max_instances) == (5, 3)
    assert source.spec.class_names == ('dog', 'cat', 'sky')
    assert source.info(3) == {
        'image_id': 103,
        'file_name': '000003.png',
        'annotation_file_name': '000003.png',
        'height': 20,
        'width': 30,
    }
    assert source[5]['image'] == (folder['images_dir'] / '000005.png').read_bytes()
    with pytest.raises(IndexError, match='record 6'):
        source[6]


def test_plain_tfds_reads_the_split(folder, tmp_path):
    prepare_tiny(folder, tmp_path / 'out', split='val', num_shards=4)
    builder = tfds.builder_from_directory(str(tmp_path / 'out' / 'val'))
    # TFDS's decorator hides the parameters.
    plain = builder.as_data_source('val')  # pyright: ignore[reportCallIssue]
    assert len(plain) == 6
    assert builder.info.splits['val'].num_shards == 4
    np.testing.assert_array_equal(plain[2]['image'], tiny_folder.make_image(2))
    label = plain[2]['panoptic'].astype(int) @ [1, 256, 65536]
    source = records.open_split(tmp_path / 'out', 'val')
    np.testing.assert_array_equal(label, source.decode(2)[1])
    assert [source.info(i)['image_id'] for i in range(6)] == list(range(100, 106))


def test_coco_images_keep_their_areas(shared_dir, tmp_path):
    root = shared_dir / 'data/coco_panoptic_200/val'
    content = json.loads((root / 'panoptic_val.json').read_text())
    content['annotations'] = content['annotations'][:5]
    (tmp_path / 'few.json').write_text(json.dumps(content))
    prepare.prepare_panoptic_folder(
        images_dir=root / 'images',
        panoptic_dir=root / 'panoptic_val',
        json_path=tmp_path / 'few.json',
        out_dir=tmp_path / 'out',
        num_processes=0,
    )
    source = records.open_split(tmp_path / 'out', 'train')
    assert source.spec.name == 'coco'
    for index, annotation in enumerate(content['annotations']):
        _, panoptic = source.decode(index)
        expected, counts = {}, {}
        for segment in annotation['segments_info']:
            semantic = source.spec.class_of_category[segment['category_id']]
            instance = 0
            if semantic <= 80 and not segment['iscrowd']:
                instance = counts[semantic] = counts.get(semantic, 0) + 1
            label = semantic * 256 + instance
            expected[label] = expected.get(label, 0) + segment['area']
        labels, areas = np.unique(panoptic[panoptic != 0], return_counts=True)
        assert dict(zip(labels.tolist(), areas.tolist(), strict=True)) == expected
        assert source.info(index)['annotation_file_name'] == annotation['file_name']


@pytest.mark.slow
def test_bytes_do_not_depend_on_processes_or_place(folder, tmp_path):
    tiny_folder.write_tiny_folder(tmp_path / 'elsewhere')
    prepare_tiny(folder, tmp_path / 'a', num_shards=2)
    # In another process, since hash orders of Python and protobuf change between processes.
    code = """
import pathlib, sys
from pdl_jax.data import pipeline, prepare, records
root, out = map(pathlib.Path, sys.argv[1:])
prepare.prepare_panoptic_folder(
    images_dir=root / 'images', panoptic_dir=root / 'panoptic', json_path=root / 'panoptic.json',
    out_dir=out, num_processes=2, num_shards=2,
)
records.open_split(out, 'train').decode(0)
found = {'tensorflow', 'torch'} & set(sys.modules)
assert not found, f'neither reading nor writing needs {found}'
"""
    result = run_python(code, tmp_path / 'elsewhere', tmp_path / 'b')
    assert result.returncode == 0, result.stderr
    assert hash_files(tmp_path / 'a') == hash_files(tmp_path / 'b')
    # No split given: 'train'; no traces of the workspace.
    assert sorted(os.listdir(tmp_path / 'b')) == ['train']
    assert len(hash_files(tmp_path / 'b')) == 5


def test_second_split_and_repetition(folder, tmp_path, capsys):
    out = tmp_path / 'out'
    prepare_tiny(folder, out)
    before = hash_files(out)
    prepare_tiny(folder, out, split='val')
    assert sorted(os.listdir(out)) == ['train', 'val']
    times = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    capsys.readouterr()
    prepare_tiny(folder, out)
    assert 'exists already' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == times

    edit_json(folder, lambda content: content['annotations'].pop())
    with pytest.raises(ValueError, match='prepared from other annotations.*--overwrite'):
        prepare_tiny(folder, out)
    prepare_tiny(folder, out, overwrite=True)
    assert len(records.open_split(out, 'train')) == 5
    assert hash_files(out) != before


def test_other_files_are_never_replaced(folder, tmp_path):
    (tmp_path / 'out' / 'train').mkdir(parents=True)
    (tmp_path / 'out' / 'train' / 'photo.jpg').write_text('precious')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r'photo\.jpg'):
            prepare_tiny(folder, tmp_path / 'out', overwrite=overwrite)
    assert (tmp_path / 'out' / 'train' / 'photo.jpg').read_text() == 'precious'


def test_killed_and_started_again(tmp_path):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in', num_images=60)
    prepare_tiny(folder, tmp_path / 'whole', num_shards=12)
    out = tmp_path / 'out'
    # One start of Python, which takes seconds, and a fork per attempt. Images are encoded slowly,
    # so that the signal comes in time.
    code = """
import os, pathlib, sys, time
from pdl_jax.data import images, prepare
encode_ids = images.encode_ids
def encode_slowly(ids):
    time.sleep(0.02)
    return encode_ids(ids)
images.encode_ids = encode_slowly
root, out = map(pathlib.Path, sys.argv[1:])
for _ in range(2):
    pid = os.fork()
    if not pid:
        prepare.prepare_panoptic_folder(
            images_dir=root / 'images', panoptic_dir=root / 'panoptic',
            json_path=root / 'panoptic.json', out_dir=out, num_processes=0, num_shards=12,
        )
        os._exit(0)
    print(pid, flush=True)
    print(os.WTERMSIG(os.waitpid(pid, 0)[1]), flush=True)
"""
    command = [sys.executable, '-c', code, str(tmp_path / 'in'), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Killed while the workspace is fresh, and again while records are written.
        for pattern in ('.train.partial', '.train.partial/panoptic_records/*/*array_record*'):
            pid = int(process.stdout.readline())
            deadline = time.monotonic() + 60
            while not list(out.glob(pattern)):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            os.kill(pid, signal.SIGKILL)
            assert int(process.stdout.readline()) == signal.SIGKILL
            assert (out / '.train.partial').exists() and not (out / 'train').exists()
            with pytest.raises(FileNotFoundError, match="no split 'train'"):
                records.open_split(out, 'train')
    prepare_tiny(folder, out, num_shards=12)
    assert hash_files(out) == hash_files(tmp_path / 'whole')
    assert os.listdir(out) == ['train']


def test_one_process_a_split(folder, tmp_path):
    out = tmp_path / 'out'
    with split_directory.claim_workspace(epath.Path(out / 'train')):
        with pytest.raises(OSError, match='another process is preparing') as caught:
            prepare_tiny(folder, out)
    assert caught.value.errno == errno.EBUSY
    assert prepare_tiny(folder, out).name == 'train'


def test_full_disk_is_explained(tmp_path):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in', num_images=60)
    # A limit on the size of files fails as a full disk does, in the middle of a record file.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, hard))
    try:
        with pytest.raises(OSError, match='no space left while writing'):
            prepare_tiny(folder, tmp_path / 'out')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path / 'out') == []


def test_city_folders_and_string_ids(folder, tmp_path):
    (folder['images_dir'] / 'aachen').mkdir()
    name = '000001.png'
    (folder['images_dir'] / name).rename(folder['images_dir'] / 'aachen' / name)

    def use_string_ids(content):
        for values in content['images']:
            values['id'] = f'city_{values["id"]}'
        for values in content['annotations']:
            values['image_id'] = f'city_{values["image_id"]}'

    edit_json(folder, use_string_ids)
    prepare_tiny(folder, tmp_path / 'out')
    info = records.open_split(tmp_path / 'out', 'train').info(1)
    assert (info['image_id'], info['file_name']) == ('city_101', name)


def test_images_without_annotation_are_left_out(folder, tmp_path, capsys):
    edit_json(folder, lambda content: content['annotations'].pop(0))
    prepare_tiny(folder, tmp_path / 'out')
    assert '1 images' in capsys.readouterr().out
    source = records.open_split(tmp_path / 'out', 'train')
    assert [source.info(i)['image_id'] for i in range(5)] == [101, 102, 103, 104, 105]


def set_segment(key, value):
    def edit(content):
        content['annotations'][2]['segments_info'][1][key] = value

    return edit


def set_annotation(key, value):
    return lambda content: content['annotations'][2].update({key: value})


def set_image(key, value):
    return lambda content: content['images'][2].update({key: value})


@pytest.mark.parametrize(
    'edit, message',
    [
        (lambda c: c.pop('annotations'), r"panoptic\.json lacks the field 'annotations'"),
        (lambda c: c.update(images={}), r'images must be list'),
        (lambda c: c.update(annotations=[]), r'annotations is empty'),
        (lambda c: c['categories'][0].pop('id'), r"categories\[0\].*lacks the field 'id'"),
        (
            lambda c: c['annotations'].append({**c['annotations'][0], 'file_name': 'x.png'}),
            r"annotations\[6\].*image_id '100' is annotated twice, with the PNGs '000000\.png'",
        ),
        (lambda c: c['images'].append(c['images'][0]), r'images\[6\].*id 100 is given twice'),
        (set_annotation('image_id', 7), r'annotations\[2\].*image_id 7'),
        (set_annotation('image_id', None), r'annotations\[2\].*image_id must be int or str'),
        (set_annotation('file_name', '000001.png'), r"file_name.*'000001\.png' is named twice"),
        (set_annotation('file_name', '../x.png'), r"file_name '\.\./x\.png' must be a path below"),
        (set_annotation('segments_info', {}), r'segments_info must be list'),
        (set_image('file_name', '..'), r"file_name '\.\.' must be a path below"),
        (set_image('file_name', '000003.png'), r"images\[\]\.file_name.*'000003\.png' more than"),
        (set_image('id', 1.5), r'images\[2\].*id must be int or str, got 1\.5'),
        (set_image('height', 0), r'images\[2\].*height 0'),
        (set_image('width', '3x'), r"width must be int, got '3x'"),
        (set_image('width', 2**30), r'span at most'),
        (set_image('width', 2**40), r'width must lie in 0 \.\. 2147483647, got 1099511627776'),
        (set_segment('id', -1), r'segments_info\[1\] of annotations\[2\].*id must lie in 0 \.\.'),
        (set_segment('id', 2**24), r'id must lie in 0 \.\. 16777215, got 16777216'),
        (set_segment('id', 5), r'id 5 is given twice, with category_id 7 and 9'),
        (set_segment('id', True), r'id must be int, got True'),
        (set_segment('category_id', 4), r'category_id 4 is not among the categories'),
        (set_segment('iscrowd', 3), r'iscrowd must be 0 or 1, got 3'),
        (set_segment('area', 'x'), r"area must be a number of pixels, 0 \.\. \d+, got 'x'"),
        (set_segment('area', -1), r'area must be a number of pixels.*got -1: repair it'),
        (set_segment('area', float('inf')), r'segments_info\[1\].*area must be.*got inf'),
    ],
)
def test_malformed_json_is_named(folder, tmp_path, edit, message):
    edit_json(folder, edit)
    with pytest.raises(ValueError, match=message):
        prepare_tiny(folder, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_json_that_is_no_json(folder, tmp_path):
    folder['json_path'].write_text('{"images": [')
    with pytest.raises(ValueError, match=r'panoptic\.json is not valid JSON'):
        prepare_tiny(folder, tmp_path / 'out')


def break_image(folder):
    path = folder['images_dir'] / '000002.png'
    path.write_bytes(path.read_bytes()[:200])


def edit_ids_of_2(edit):
    def spoil(folder):
        path = folder['panoptic_dir'] / '000002.png'
        ids = images.decode_ids(path.read_bytes(), name=path.name)
        path.write_bytes(images.encode_ids(edit(ids)))

    return spoil


@pytest.mark.parametrize(
    'spoil, message',
    [
        (break_image, r'000002\.png: damaged or truncated'),
        (edit_ids_of_2(lambda ids: np.where(ids == 0, 77, ids)), r'segment id 77 \(first at y=10'),
        (edit_ids_of_2(np.zeros_like), r'none of the 5 segments .* has a pixel in 000002\.png'),
        (edit_ids_of_2(lambda ids: ids[:-1]), r'000002\.png has 31x24 .* says 32x24'),
        (lambda f: edit_json(f, set_image('height', 33)), r'000002\.png has 32x24 .* says 33x24'),
        (lambda f: edit_json(f, set_segment('area', 3)), r'240 pixels.*area 3.*--ignore_area'),
    ],
)
def test_contradictions_are_named(folder, tmp_path, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        prepare_tiny(folder, tmp_path / 'out')
    assert os.listdir(tmp_path / 'out') == []


def test_area_may_be_ignored(folder, tmp_path):
    edit_json(folder, set_segment('area', 3))
    prepare_tiny(folder, tmp_path / 'out', check_area=False)
    assert len(records.open_split(tmp_path / 'out', 'train')) == 6


@pytest.mark.parametrize(
    'key, name',
    [('images_dir', '000004.png'), ('panoptic_dir', '000001.png')],
)
def test_missing_files_are_named(folder, tmp_path, key, name):
    (folder[key] / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf'1 of 6 files.*{name}'):
        prepare_tiny(folder, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        prepare_tiny({**folder, key: tmp_path / 'nowhere'}, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match=r'no\.json does not exist'):
        prepare_tiny({**folder, 'json_path': tmp_path / 'no.json'}, tmp_path / 'out')


def test_more_instances_than_the_usual_divisor_holds(tmp_path, capsys):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in', num_images=2)
    ids = np.arange(1, 1025, dtype=np.int32).reshape(32, 32)
    for name in ('images_dir', 'panoptic_dir'):
        (folder[name] / 'many.png').write_bytes(images.encode_ids(ids))

    def add_image(content):
        segments = [{'id': int(i), 'category_id': 3, 'iscrowd': 0, 'area': 1} for i in ids.ravel()]
        content['images'].append({'id': 7, 'file_name': 'many.png', 'height': 32, 'width': 32})
        content['annotations'].append(
            {'image_id': 7, 'file_name': 'many.png', 'segments_info': segments}
        )

    prepare_tiny(folder, tmp_path / 'out', split='val')
    edit_json(folder, add_image)
    prepare_tiny(folder, tmp_path / 'out')
    told = '1024 objects of one class in an image exceed label_divisor 1000: 4096 was chosen'
    assert f'{told} (first: many.png)' in capsys.readouterr().out
    train, val = (records.open_split(tmp_path / 'out', split) for split in ('train', 'val'))
    assert (train.spec.label_divisor, train.max_instances) == (4096, 1024)
    np.testing.assert_array_equal(train.decode(2)[1], 4096 + ids)
    # The other split is read with the same divisor.
    label = val.decode(1)[1]
    moved = val.with_label_divisor(4096)
    np.testing.assert_array_equal(moved.decode(1)[1], label // 1000 * 4096 + label % 1000)
    assert moved.spec.label_divisor == 4096 and val.spec.label_divisor == 1000
    np.testing.assert_array_equal(val.decode(1)[1], label)
    with pytest.raises(ValueError, match=r'label_divisor \(=1000\) is smaller than that of'):
        train.with_label_divisor(1000)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'split': '../x'}, r"split '\.\./x' must start with a letter"),
        ({'split': 'all'}, 'not be "all"'),
        ({'num_shards': 7}, r'num_shards \(=7\) must lie in 1 \.\. 6'),
        ({'num_processes': -1}, r'num_processes \(=-1\)'),
        ({'spec': 'cityscapes'}, '--spec=own'),
    ],
)
def test_bad_options_are_named(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_tiny(folder, tmp_path / 'out', **options)


def load_ramp(index: int) -> LoadedRecord:
    """Returns a record whose label has `index` instances of the first class, sky and void."""
    panoptic = np.full((4 + index, 12 - index), 255_000, np.int32)
    panoptic[0] = 2000
    panoptic[1, :index] = np.arange(index) + 1
    image = images.encode_image(np.zeros((*panoptic.shape, 3), np.uint8))
    return LoadedRecord(image, panoptic, f'id {index}', f'{index}.jpg', f'{index}.png')


def test_any_split_is_counted_while_it_is_written(tmp_path):
    spec = catalog.from_categories('animals', tiny_folder.CATEGORIES)
    split = AnnotatedSplit(spec, (3, 0, 5), load_ramp, 'ab')
    prepare.prepare_split(split, out_dir=tmp_path / 'out', split='val', num_processes=0)
    source = records.open_split(tmp_path / 'out', 'val')
    assert source.max_size == (9, 12)
    assert (source.max_segments, source.max_instances) == (6, 5)
    assert [source.info(i)['image_id'] for i in range(3)] == ['id 3', 'id 0', 'id 5']
    np.testing.assert_array_equal(source.decode(2)[1], load_ramp(5).panoptic)
    other = dataclasses.replace(split, fingerprint='cd')
    with pytest.raises(ValueError, match='prepared from other annotations'):
        prepare.prepare_split(other, out_dir=tmp_path / 'out', split='val', num_processes=0)


def test_opening_a_missing_split_gives_the_command(folder, tmp_path):
    prepare_tiny(folder, tmp_path / 'out', split='val')
    with pytest.raises(FileNotFoundError, match=r"no split 'train' \(it has val\)") as caught:
        records.open_split(tmp_path / 'out', 'train')
    assert f'--out={tmp_path / "out"} --split=train' in str(caught.value)
    with pytest.raises(FileNotFoundError, match='pdl_jax prepare --format'):
        records.open_split(tmp_path / 'nowhere', 'train')


def test_opening_foreign_or_old_data(folder, tmp_path):
    prepare_tiny(folder, tmp_path / 'out')
    path = tmp_path / 'out' / 'train' / 'metadata.json'
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, 'num_images': 0}))
    with pytest.raises(ValueError, match='train is empty'):
        records.open_split(tmp_path / 'out', 'train')
    metadata.pop('max_height_px')
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="lacks the field 'max_height_px'"):
        records.open_split(tmp_path / 'out', 'train')


def test_buckets_get_the_info_file_last(folder, tmp_path, monkeypatch):
    # A local folder that is treated as a bucket: built elsewhere, then copied file by file.
    out = str(tmp_path / 'out')
    monkeypatch.setattr(paths, 'is_remote', lambda path: str(path).startswith(out))
    written = []
    write_bytes = type(epath.Path(tmp_path)).write_bytes

    def record_name(self, data):
        written.append(self.name)
        return write_bytes(self, data)

    monkeypatch.setattr(type(epath.Path(tmp_path)), 'write_bytes', record_name)
    prepare_tiny(folder, tmp_path / 'out')
    prepare_tiny(folder, tmp_path / 'out', overwrite=True)
    monkeypatch.undo()
    assert len(written) == 8 and written[3] == written[7] == 'dataset_info.json'
    assert os.listdir(tmp_path / 'out') == ['train']
    prepare_tiny(folder, tmp_path / 'local')
    assert hash_files(tmp_path / 'out') == hash_files(tmp_path / 'local')


@pytest.mark.skipif(importlib.util.find_spec('gcsfs') is not None, reason='gcsfs is installed')
def test_buckets_without_gcsfs_say_what_to_install(folder):
    with pytest.raises(ImportError, match='gs://bucket/out.*pip install gcsfs'):
        prepare_tiny(folder, 'gs://bucket/out')
    with pytest.raises(ImportError, match='pip install gcsfs'):
        records.open_split('gs://bucket/out', 'train')
