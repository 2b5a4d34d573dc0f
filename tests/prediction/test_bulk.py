"""Prediction of lists into shards: equal to single predictions for any processes and devices."""

import dataclasses
import fcntl
import io
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import zlib

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.convert.write import write_checkpoint
from pdl_jax.data.images import decode_ids, decode_image
from pdl_jax.data.records import open_split
from pdl_jax.prediction import bulk as bulk_predict
from pdl_jax.prediction.bulk import predict_shards
from pdl_jax.prediction.formats import encode_segments
from pdl_jax.prediction.image_list import find_below, read_list
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.predict_files import predict_files
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.prediction.shards import find_complete
from tests import quick_compiler, tiny
from tests.convert.compiling import compiling_fast

# They share a canvas; the other one has its own.
SIZES = ((40, 60), (35, 51), (48, 50))
OTHER_SIZE = (20, 80)


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
    """Leaves programs unoptimised, in this process and in those that `start_process` starts."""
    with compiling_fast():
        yield


@pytest.fixture(scope='module')
def checkpoint(data, tmp_path_factory):
    """An untrained network, which finds a dozen instances in any image."""
    workdir = tmp_path_factory.mktemp('run')
    experiment = tiny.make_experiment(
        data, model__backbone='resnet18', model__width_multiplier=0.125
    )
    spec = open_split(data, 'val').spec
    system = experiment.make_system(spec.label_format)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == 'kernel':
            fan_in = np.prod(leaf.shape[:-1])
            return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ('scale', 'var'), np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, abstract_variables(system))
    description = {'config': experiment.to_json(), 'dataset': spec.to_dict()}
    write_checkpoint(str(workdir), variables, description)
    return workdir


@pytest.fixture(scope='module')
def predictor(checkpoint):
    return Predictor.load(checkpoint)


@pytest.fixture(scope='module')
def wide_predictor(checkpoint):
    """Two devices share each batch."""
    return Predictor.load(checkpoint, devices=jax.devices()[:2])


def write_photos(folder: pathlib.Path, count: int) -> list[str]:
    """Writes JPEGs of several sizes, blurred noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(str(folder)))
    paths = [folder / f'{i:03d}.jpg' for i in range(count)]
    for i, path in enumerate(paths):
        height, width = SIZES[i % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 255, (5, 6, 3)).astype(np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return [str(path) for path in paths]


def make_png_bomb() -> bytes:
    """A small PNG whose header says 60000 x 60000 pixels."""
    chunks = (
        (b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)),
        (b'IDAT', zlib.compress(b'')),
        (b'IEND', b''),
    )
    packed = [
        struct.pack('>I', len(c)) + name + c + struct.pack('>I', zlib.crc32(name + c))
        for name, c in chunks
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(packed)


def read_files(output: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def read_results(output: pathlib.Path) -> tuple[list[dict], dict[str, bytes]]:
    """Reads the lines of all indices, and the members of all archives in order."""
    entries, members = [], {}
    for path in sorted(output.glob('*.jsonl')):
        entries += [json.loads(line) for line in path.read_text().splitlines()]
        with tarfile.open(path.with_suffix('.tar')) as archive:
            for member in archive:
                assert member.isfile() and member.name not in members
                members[member.name] = archive.extractfile(member).read()
    return entries, members


@pytest.mark.slow
def test_shards_hold_what_single_predictions_give(predictor, tmp_path):
    # Equal stems, and names that are no names.
    paths = write_photos(tmp_path / 'a', 23) + write_photos(tmp_path / 'b' / 'c', 4)
    odd = tmp_path / '..\\x\u00e4 .tar.png'
    odd.write_bytes(pathlib.Path(paths[0]).read_bytes())
    paths.insert(5, str(odd))
    lines = []
    predict_shards(
        predictor, paths, str(tmp_path / 'out'), num_shards=3, batch_size=1, say=lines.append
    )
    assert '28 images in 3 shards; 0 are complete' in lines[0] and lines[-1].startswith(
        '28 images in 0:'
    )
    entries, members = read_results(tmp_path / 'out')
    assert [entry['image'] for entry in entries] == paths
    keys = [entry['key'] for entry in entries]
    assert len(set(keys)) == 28 and keys == sorted(keys)
    assert list(members) == [f'{key}.{kind}' for key in keys for kind in ('panoptic.png', 'json')]
    assert (
        all(c.isalnum() or c in '-_' for key in keys for c in key if c.isascii())
        and keys[5] == '000000005-_x_tar'
    )
    num_segments = []
    for entry in entries:
        image = decode_image(pathlib.Path(entry['image']).read_bytes(), name='')
        result = predictor(image)
        assert json.loads(members[f'{entry["key"]}.json']) == entry
        assert entry['segments'] == json.loads(json.dumps(result.to_json()))
        assert (entry['height'], entry['width']) == image.shape[:2] == result.panoptic.shape
        ids = decode_ids(members[f'{entry["key"]}.panoptic.png'], name='')
        expected = decode_ids(encode_segments(result.panoptic, entry['segments']), name='')
        np.testing.assert_array_equal(ids, expected)
        num_segments.append(len(result.segments))
    assert min(num_segments) > 2


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_batches_give_the_labels_of_single_images(predictor, wide_predictor, count):
    rng = np.random.default_rng(count)
    images = [rng.integers(0, 255, (*SIZES[i % 3], 3)).astype(np.uint8) for i in range(count)]
    singles = [predictor(image) for image in images]
    results = wide_predictor.start(images)()
    for single, result in zip(singles, results, strict=True):
        np.testing.assert_array_equal(result.panoptic, single.panoptic)
        if count <= wide_predictor.num_devices:
            assert result.segments == single.segments
        scores = [segment.score for segment in result.segments]
        assert scores == pytest.approx([segment.score for segment in single.segments], abs=1e-5)


def test_images_of_two_canvases_share_no_batch(predictor):
    with pytest.raises(ValueError, match='must share one canvas'):
        predictor.start([np.zeros((*SIZES[0], 3), np.uint8), np.zeros((*OTHER_SIZE, 3), np.uint8)])


def test_several_devices_write_the_same_bytes(predictor, wide_predictor, tmp_path):
    paths = write_photos(tmp_path / 'photos', 11)
    predict_shards(predictor, paths, str(tmp_path / 'one'), num_shards=2, batch_size=1)
    predict_shards(wide_predictor, paths, str(tmp_path / 'two'), num_shards=2, batch_size=2)
    assert read_files(tmp_path / 'one') == read_files(tmp_path / 'two')


def test_a_rare_canvas_waits_only_so_long(wide_predictor, tmp_path, monkeypatch):
    """Results are written in the order of the list, so the rest must not pile up behind it."""
    monkeypatch.setattr(bulk_predict, '_MIN_WINDOW', 1)
    paths = write_photos(tmp_path / 'photos', 40)
    for i in (3, 30):
        Image.new('RGB', OTHER_SIZE[::-1]).save(paths[i])
    started = []

    def start(images, **_):
        sizes = [image.shape[:2] for image in images]
        started.append(sizes)
        return lambda: [
            PanopticResult(np.zeros(size, np.int32), (), wide_predictor.spec) for size in sizes
        ]

    monkeypatch.setattr(wide_predictor, 'start', start)
    predict_shards(wide_predictor, paths, str(tmp_path / 'out'), num_shards=1, batch_size=4)
    entries, members = read_results(tmp_path / 'out')
    assert [entry['image'] for entry in entries] == paths and len(members) == 80
    # The window is four batches.
    rare = [i for i, sizes in enumerate(started) if OTHER_SIZE in sizes]
    assert [started[i] for i in rare] == [[OTHER_SIZE]] * 2 and rare[0] in (4, 5)


def test_unreadable_images_are_listed_with_the_reason(predictor, tmp_path):
    good = write_photos(tmp_path / 'photos', 3)
    content = pathlib.Path(good[0]).read_bytes()
    gif = io.BytesIO()
    Image.new('RGB', (9, 9)).save(gif, 'GIF')
    contents = {
        'truncated.jpg': (content[:-100], 'damaged or truncated'),
        'text.jpg': (b'no image', 'not a readable'),
        'empty.png': (b'', 'not a readable'),
        'bomb.png': (make_png_bomb(), 'pixels exceed the limit|decompression bomb'),
        'animation.gif': (gif.getvalue(), 'not a readable'),
    }
    for name, (data, _) in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / 'folder.jpg').mkdir()
    reasons = {str(tmp_path / name): reason for name, (_, reason) in contents.items()}
    reasons |= {
        str(tmp_path / 'missing.jpg'): 'No such file',
        str(tmp_path / 'folder.jpg'): 'directory',
        'x' * 5000: 'too long',
        'nul\0byte': 'embedded null',
    }
    paths = [good[0], *reasons, *good[1:]]
    lines = []
    predict_shards(
        predictor, paths, str(tmp_path / 'out'), num_shards=2, batch_size=1, say=lines.append
    )
    assert '12 images in' in lines[-2] and '9 of them could not be predicted' in lines[-1]
    entries, members = read_results(tmp_path / 'out')
    assert [entry['image'] for entry in entries] == paths
    errors = {entry['image']: entry['error'] for entry in entries if 'error' in entry}
    assert errors.keys() == reasons.keys()
    for path, error in errors.items():
        assert any(reason in error for reason in reasons[path].split('|')), error
    assert len(members) == 6


def test_what_exceeds_the_device_is_listed_and_a_lost_device_stops(
    predictor, tmp_path, monkeypatch
):
    paths = write_photos(tmp_path / 'photos', 4)
    large = decode_image(pathlib.Path(paths[1]).read_bytes(), name='').shape
    start = predictor.start
    message = 'RESOURCE_EXHAUSTED: out of memory'

    def start_or_fail(images, **options):
        if images[0].shape == large:
            raise jax.errors.JaxRuntimeError(message)
        return start(images, **options)

    monkeypatch.setattr(predictor, 'start', start_or_fail)
    predict_shards(predictor, paths, str(tmp_path / 'out'), num_shards=1, batch_size=1)
    entries, _ = read_results(tmp_path / 'out')
    assert (
        entries[1]['error']
        == f'{paths[1]}: {large[0]}x{large[1]} pixels exceed the memory of the device'
    )
    assert 'segments' in entries[0]
    message = 'UNAVAILABLE: the device is gone'
    with pytest.raises(jax.errors.JaxRuntimeError, match='the device is gone'):
        predict_shards(predictor, paths, str(tmp_path / 'lost'), num_shards=1, batch_size=1)
    assert os.listdir(tmp_path / 'lost') == ['predictions.json']


@pytest.fixture
def hostile(tmp_path):
    """Files that must not hang a run or fill its memory, by path with the reason given."""
    folder = tmp_path / 'hostile'
    folder.mkdir()
    os.mkfifo(folder / 'pipe.png')
    with open(folder / 'large.png', 'wb') as file:
        file.truncate(5 * 2**30)  # Takes no space.
    reasons = {'pipe.png': 'named pipe', 'large.png': '5368709120 bytes'}
    for name, width, reason in (
        ('strip.png', 60_000_000, 'a side of 60000000 pixels'),
        ('long.png', 900_000, 'needs a canvas of 128x900096'),
    ):
        header = struct.pack('>IIBBBBB', width, 1, 8, 0, 0, 0, 0)
        # The longest is refused by its header.
        rows = zlib.compress(bytes(1 + width % 10_000_000))
        chunks = ((b'IHDR', header), (b'IDAT', rows), (b'IEND', b''))
        content = b'\x89PNG\r\n\x1a\n'
        for kind, body in chunks:
            checksum = struct.pack('>I', zlib.crc32(kind + body))
            content += struct.pack('>I', len(body)) + kind + body + checksum
        (folder / name).write_bytes(content)
        reasons[name] = reason
    paths = {str(folder / name): reason for name, reason in reasons.items()}
    return {**paths, 'https://example.invalid/a.jpg': 'download it first'}


@pytest.mark.slow
def test_strips_pipes_and_addresses_are_listed_and_the_others_predicted(
    predictor, hostile, tmp_path, monkeypatch
):
    # With a resize, a strip needs a canvas of 128 rows.
    resizing = dataclasses.replace(predictor._augment, resize_max_px=64)
    monkeypatch.setattr(predictor, '_augment', resizing)
    good = write_photos(tmp_path / 'photos', 2)
    paths = [good[0], *hostile, good[1]]
    predict_shards(predictor, paths, str(tmp_path / 'out'), num_shards=2, batch_size=1)
    entries, members = read_results(tmp_path / 'out')
    assert len(members) == 4 and len(find_complete(epath.Path(tmp_path / 'out'), 2)) == 2
    errors = {entry['image']: entry['error'] for entry in entries if 'error' in entry}
    assert errors.keys() == hostile.keys()
    assert all(reason in errors[path] for path, reason in hostile.items()), errors
    (tmp_path / 'files').mkdir()
    failures = predict_files(predictor, paths, epath.Path(tmp_path / 'files'))
    assert len(failures) == len(hostile)
    for path, reason in hostile.items():
        assert any(path in failure and reason in failure for failure in failures), path
    assert len(list((tmp_path / 'files').glob('*.json'))) == 2


def test_images_that_exceed_the_memory_of_the_host_are_listed(predictor, tmp_path, monkeypatch):
    paths = write_photos(tmp_path / 'photos', 3)
    large = decode_image(pathlib.Path(paths[1]).read_bytes(), name='').shape
    start = predictor.start

    def start_or_fail(images, **options):
        if images[0].shape == large:
            raise MemoryError
        return start(images, **options)

    monkeypatch.setattr(predictor, 'start', start_or_fail)
    predict_shards(predictor, paths, str(tmp_path / 'out'), num_shards=1, batch_size=1)
    entries, _ = read_results(tmp_path / 'out')
    assert ['error' in entry for entry in entries] == [False, True, False]
    (tmp_path / 'files').mkdir()
    failures = predict_files(predictor, paths, epath.Path(tmp_path / 'files'))
    assert failures == [f'{paths[1]}: does not fit into the memory: shrink or tile it']


def test_batches_that_exceed_the_device_are_predicted_one_by_one(predictor, tmp_path, monkeypatch):
    paths = write_photos(tmp_path / 'photos', 6)
    predict_shards(predictor, paths, str(tmp_path / 'expected'), num_shards=1, batch_size=1)
    start, sizes = predictor.start, []

    def start_or_fail(images, *, batch_size):
        sizes.append(batch_size)
        if batch_size > 1:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
        return start(images, batch_size=batch_size)

    monkeypatch.setattr(predictor, 'start', start_or_fail)
    predict_shards(predictor, paths, str(tmp_path / 'out'), num_shards=1, batch_size=2)
    assert read_results(tmp_path / 'out') == read_results(tmp_path / 'expected')
    # Once for each canvas, and for what was started before it was known.
    assert sizes.count(2) <= 4 and sizes.count(1) == 6


def test_images_too_large_for_the_network_are_listed(predictor, tmp_path, monkeypatch):
    paths = write_photos(tmp_path / 'photos', 2)
    large = tmp_path / 'large.png'
    Image.new('RGB', (200, 100)).save(large)
    limit = np.prod(predictor.canvas_size(SIZES[0]))
    monkeypatch.setattr('pdl_jax.systems.panoptic_deeplab.MAX_PIXELS', limit)
    predict_shards(
        predictor,
        [paths[0], str(large), paths[1]],
        str(tmp_path / 'out'),
        num_shards=1,
        batch_size=1,
    )
    entries, _ = read_results(tmp_path / 'out')
    assert ['error' in entry for entry in entries] == [False, True, False]
    assert 'large.png: an image of 100x200 pixels is too large' in entries[1]['error']
    with pytest.raises(ValueError, match='too large'):
        predictor(np.zeros((100, 200, 3), np.uint8))


def test_a_result_does_not_wait_for_ever_for_another_image(predictor, tmp_path, monkeypatch):
    paths = write_photos(tmp_path / 'photos', 1) + [str(tmp_path / f'{i}.jpg') for i in range(300)]
    counts, write_first = [], bulk_predict._OrderedShards._write_first

    def count_waiting(shards):
        counts.append(len(shards._order))
        write_first(shards)

    monkeypatch.setattr(bulk_predict._OrderedShards, '_write_first', count_waiting)
    predict_shards(predictor, paths, str(tmp_path / 'out'), num_shards=1, batch_size=1)
    assert len(counts) == 301 and max(counts) < 100


def test_a_shard_is_made_by_one_process_at_a_time(predictor, tmp_path):
    paths = write_photos(tmp_path / 'photos', 2)
    out = tmp_path / 'out'
    predict_shards(predictor, paths, str(out), num_shards=2, batch_size=1)
    expected = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / 'predictions-00001-of-00002.jsonl').unlink()
    with open(out / '.predictions-00001-of-00002.tar.partial', 'ab') as file:
        file.write(b'of a process that was killed')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match='another process makes .*00001-of-00002.tar.partial'):
            predict_shards(predictor, paths, str(out), num_shards=2, batch_size=1)
        assert file.tell() == 28
    predict_shards(predictor, paths, str(out), num_shards=2, batch_size=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == expected


def test_complete_shards_are_left_alone_and_others_made_again(predictor, tmp_path):
    paths = write_photos(tmp_path / 'photos', 12)
    out = tmp_path / 'out'
    predict_shards(predictor, paths, str(out), num_shards=4, batch_size=1)
    expected = read_files(out)
    (out / 'predictions-00001-of-00004.jsonl').unlink()
    (out / 'predictions-00001-of-00004.tar').write_bytes(b'half')
    (out / '.predictions-00002-of-00004.tar.partial').write_bytes(b'older')
    (out / 'predictions-00002-of-00004.jsonl').unlink()
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    lines = []
    predict_shards(predictor, paths, str(out), num_shards=4, batch_size=1, say=lines.append)
    assert '6 images in 2 shards; 2 are complete' in lines[0]
    assert read_files(out) == expected
    same = {path.name for path in out.iterdir() if path.stat().st_mtime_ns == times.get(path.name)}
    assert same == {
        f'predictions-0000{i}-of-00004.{kind}' for i in (0, 3) for kind in ('tar', 'jsonl')
    } | {'predictions.json'}
    with pytest.raises(FileExistsError, match='other num_images, images_sha256'):
        predict_shards(predictor, paths[1:], str(out), num_shards=4, batch_size=1)
    with pytest.raises(FileExistsError, match='other num_shards'):
        predict_shards(predictor, paths, str(out), num_shards=3, batch_size=1)


def test_lists(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_bytes(b'b.jpg\r\na.jpg\n\nb.jpg\n  \n sp ace.jpg\nlatin-\xe9.jpg')
    assert read_list(str(path)) == ['b.jpg', 'a.jpg', ' sp ace.jpg', 'latin-\udce9.jpg']
    (tmp_path / 'x' / 'y').mkdir(parents=True)
    for name in ('x/y/2.JPG', 'x/1.png', 'x/notes.txt'):
        (tmp_path / name).write_bytes(b'')
    assert find_below(str(tmp_path)) == [f'{tmp_path}/x/1.png', f'{tmp_path}/x/y/2.JPG']
    with pytest.raises(FileNotFoundError, match='no file below it ends in .jpg'):
        find_below(str(tmp_path / 'x' / 'nothing'))


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--list=empty.txt', '--shards=2'], 'there are no images'),
        (['--list=two.txt', '--shards=3'], r'--shards \(=3\) must lie in 1 .. 2'),
        (['--list=missing.txt', '--shards=3'], 'missing.txt'),
        (
            ['--list=two.txt', '--shards=2', '--num_processes=2', '--process_id=2'],
            r'--process_id \(=2\) must lie in 0 .. 1',
        ),
        (['--list=two.txt', '--shards=2', '--write=csv'], '--write is for files per image'),
        (['--list=two.txt', '--write=ids,cvs'], "no output 'cvs'; did you mean 'csv'"),
        (['--list=two.txt', '--min_score=30'], r'min_score \(=30.0\) must lie in'),
        (['--image_info=i.json', '--prefix=x'], 'needs the folder of its images'),
    ],
)
def test_flags_that_do_not_fit(flags, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty.txt').write_text('\n\n')
    (tmp_path / 'two.txt').write_text('1.jpg\n1.jpg\n2.jpg\n')
    with pytest.raises(SystemExit) as end:
        main(['predict', f'--checkpoint={checkpoint}', '--output=out', *flags])
    assert end.value.code == 2
    assert re.search(f'^error: .*{message}', capsys.readouterr().err, re.MULTILINE)


def test_flags_of_shards_need_shards(capsys):
    with pytest.raises(SystemExit):
        main(['predict', '--checkpoint=x', '--images=y', '--output=z', '--num_processes=2'])
    assert '--num_processes needs --shards' in capsys.readouterr().err


def start_process(checkpoint, photos, output, *flags, **environment) -> subprocess.Popen:
    command = [
        sys.executable,
        *('-m', 'pdl_jax', 'predict'),
        f'--checkpoint={checkpoint}',
        f'--list={photos}',
        f'--output={output}',
    ]
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': os.environ.get(
            'PDL_JAX_TEST_CACHE', '/tmp/pdl_jax_test_cache'
        ),
        'XLA_FLAGS': quick_compiler.XLA_FLAGS,
        **environment,
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *flags], cwd=tiny.ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.slow
def test_a_killed_process_stops_no_other_and_its_restart_makes_the_same(
    predictor, checkpoint, tmp_path
):
    """Starts two processes as Slurm does, kills one half-way and makes its part again."""
    paths = write_photos(tmp_path / 'photos', 12)
    # More work than is done before the kill, of few files.
    for i in range(30):
        paths += [f'{tmp_path}/photos/{i}-{n}.jpg' for n in range(12)]
        for path, original in zip(paths[-12:], paths[:12], strict=True):
            os.symlink(original, path)
    photos, out = tmp_path / 'photos.txt', tmp_path / 'out'
    photos.write_text('\n'.join(paths))
    with socket.socket() as probe:
        # Ports 61440 and up by the number of the job.
        probe.bind(('localhost', 0))
        job = probe.getsockname()[1]
    slurm = {
        'SLURM_JOB_ID': str(job),
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_NTASKS': '2',
        'SLURM_LOCALID': '0',
    }
    processes = [
        start_process(
            checkpoint, photos, out, '--shards=40', '--distributed', **slurm, SLURM_PROCID=str(i)
        )
        for i in range(2)
    ]
    try:
        deadline = time.monotonic() + 300
        while not list(out.glob('predictions-*[02468]-of-00040.jsonl')):
            assert processes[0].poll() is None and time.monotonic() < deadline, processes[
                0
            ].communicate()
            time.sleep(0.002)
        # The first of the two, which the other one had joined.
        processes[0].send_signal(signal.SIGKILL)
        _, errors = processes[1].communicate(timeout=300)
        assert processes[1].returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    complete = sorted(path.name for path in out.glob('*.jsonl'))
    assert 21 <= len(complete) < 40
    assert len([name for name in complete if int(name[12:17]) % 2]) == 20
    process = start_process(
        checkpoint, photos, out, '--shards=40', '--num_processes=2', '--process_id=0'
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f'in {40 - len(complete)} shards; {len(complete) - 20} are complete' in output
    predict_shards(predictor, paths, str(tmp_path / 'one'), num_shards=40, batch_size=1)
    assert read_files(out) == read_files(tmp_path / 'one')
