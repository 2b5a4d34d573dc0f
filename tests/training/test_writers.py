"""The run's numbers on disk: resumed, half written, not finite, and what the console says."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import logging
from etils import epath
from tensorboardX.proto import event_pb2

from pdl_jax.data.images import decode_image
from pdl_jax.training import event_files, writers
from tests.storage.full_disk import small_files

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def read_events(folder):
    events = []
    for path in sorted(folder.glob('events.*')):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack('<Q', data[start : start + 8])
            events.append(event_pb2.Event.FromString(data[start + 12 : start + 12 + length]))
            start += length + 16
    return events


def make_writer(workdir, **arguments):
    return writers.make_writer(workdir, **({'total_steps': 100, 'initial_step': 0} | arguments))


@pytest.fixture
def messages(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, 'info', lambda text, *values: lines.append(text % values))
    return lines


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = [1000.0]
    monkeypatch.setattr(writers.time, 'monotonic', lambda: now[0])
    return now


def test_scalars_reach_file_and_events(tmp_path):
    writer = make_writer(tmp_path / 'new' / 'run')
    writer.write_scalars(10, {'loss': np.float32(1.5), 'learning_rate': 0.1})
    writer.write_scalars(10, {'eval/pq': 0.25})
    writer.close()
    first, second = read_lines(tmp_path / 'new' / 'run')
    assert (first['step'], first['loss'], first['learning_rate']) == (10, 1.5, 0.1)
    assert second == {'step': 10, 'eval/pq': 0.25}
    events = read_events(tmp_path / 'new' / 'run' / 'tensorboard')
    values = {v.tag: (e.step, v.simple_value) for e in events for v in e.summary.value}
    assert values['loss'] == (10, 1.5)
    assert values['eval/pq'] == (10, 0.25)


def test_a_line_is_on_disk_before_the_writer_is_closed(tmp_path):
    writer = make_writer(tmp_path)
    writer.write_scalars(1, {'loss': 1.0})
    assert read_lines(tmp_path)[0]['loss'] == 1.0
    writer.close()


def test_numbers_that_are_not_finite_are_null(tmp_path):
    writer = make_writer(tmp_path)
    writer.write_scalars(1, {'loss': float('nan'), 'gradient_norm': float('-inf'), 'x': 2})

    def refuse(name):
        raise AssertionError(f'{name} is no JSON')

    writer.close()
    line = json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=refuse)
    assert (line['loss'], line['gradient_norm'], line['x']) == (None, None, 2.0)


def test_resuming_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    writer = make_writer(tmp_path)
    for step in (10, 20, 30):
        writer.write_scalars(step, {'loss': float(step)})
    writer.close()
    with path.open('ab') as file:
        file.write(b'{"step": 15, "lo\xff\x00')
    writer = make_writer(tmp_path, initial_step=20)
    assert [line['step'] for line in read_lines(tmp_path)] == [10, 20]
    writer.write_scalars(30, {'loss': 31.0})
    writer.close()
    lines = read_lines(tmp_path)
    assert [line['step'] for line in lines] == [10, 20, 30]
    assert lines[-1]['loss'] == 31.0
    # TensorBoard hides what is at or beyond a session's start.
    starts = [e.step for e in read_events(tmp_path / 'tensorboard') if e.HasField('session_log')]
    assert 21 in starts


def test_truncation_replaces_the_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / 'metrics.jsonl'
    before = '{"step": 1}\n{"step": 2}\n[]\n{"loss": 1}\n{"step": 9}\n'
    path.write_text(before)

    def fail(*_):
        raise OSError('killed here')

    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(path)), 'replace', fail)
        with pytest.raises(OSError, match='killed here'):
            writers.truncate_after(path, 2)
        assert path.read_text() == before
    assert writers.truncate_after(path, 2) == ['{"step": 1}', '{"step": 2}']
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert writers.truncate_after(tmp_path / 'absent', 2) == []


def test_a_last_line_without_its_newline_is_kept_whole(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2}')
    writer = make_writer(tmp_path, initial_step=2)
    writer.write_scalars(3, {'loss': 1.0})
    writer.close()
    assert [line['step'] for line in read_lines(tmp_path)] == [1, 2, 3]


def test_a_killed_process_leaves_valid_lines(tmp_path):
    code = (
        'import sys; from pdl_jax.training.writers import make_writer\n'
        'writer = make_writer(sys.argv[1], total_steps=10**9, initial_step=0)\n'
        'for step in range(1, 10**9): writer.write_scalars(step, {"loss": 1.0})\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path), 'JAX_PLATFORMS': 'cpu'},
        stderr=subprocess.DEVNULL,
    )
    path = tmp_path / 'metrics.jsonl'
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 4000:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    make_writer(tmp_path, initial_step=30).close()
    assert [line['step'] for line in read_lines(tmp_path)] == list(range(1, 31))


def test_console_line_tells_rates_and_time_left(tmp_path, messages, clock):
    writer = make_writer(tmp_path, total_steps=1000, initial_step=100, batch_size=8)
    clock[0] += 20
    writer.write_scalars(110, {'loss': 1.23456, 'loss_center': 0.5})
    assert messages[-1] == (
        'step 110/1000 (ETA 29:40): loss 1.235, loss_center 0.5, step_seconds 2, '
        'images_per_second 4'
    )
    # An hour of evaluation is no part of the next steps' time.
    clock[0] += 3600
    writer.write_scalars(110, {'eval/pq': 0.5})
    assert messages[-1] == 'step 110/1000: eval/pq 0.5'
    clock[0] += 5
    writer.write_scalars(120, {'loss': 1.0})
    writer.close()
    assert read_lines(tmp_path)[-1] == {
        'step': 120,
        'loss': 1.0,
        'step_seconds': 0.5,
        'images_per_second': 16.0,
    }


def test_a_step_logged_twice_has_no_rate(tmp_path, clock):
    writer = make_writer(tmp_path)
    clock[0] += 1
    writer.write_scalars(0, {'loss': 1.0})
    writer.close()
    assert read_lines(tmp_path) == [{'step': 0, 'loss': 1.0}]


def test_progress_bar_only_for_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for kind, is_drawn in ((Terminal, True), (io.StringIO, False)):
        stream = kind()
        monkeypatch.setattr(sys, 'stderr', stream)
        writer = make_writer(tmp_path, total_steps=40)
        # The bar is drawn a few times a second.
        time.sleep(0.3)
        writer.show_progress(10, 1.0)
        writer.write_scalars(10, {'loss': 1.0})
        writer.close()
        assert ('10/40 [' in stream.getvalue()) == is_drawn


def test_pictures_are_files_and_events(tmp_path):
    writer = make_writer(tmp_path)
    writer.write_images(7, {'target': PICTURE, 'eval/first': PICTURE})
    writer.close()
    folder = tmp_path / 'pictures' / 'step_00000007'
    assert sorted(p.name for p in folder.iterdir()) == ['eval_first.png', 'target.png']
    decoded = decode_image((folder / 'target.png').read_bytes(), name='target')
    np.testing.assert_array_equal(decoded, PICTURE)
    events = read_events(tmp_path / 'tensorboard')
    images = {v.tag: v.image for e in events for v in e.summary.value if v.HasField('image')}
    assert sorted(images) == ['eval/first', 'target']
    decoded = decode_image(images['target'].encoded_image_string, name='target')
    np.testing.assert_array_equal(decoded, PICTURE)


def test_text_is_an_event(tmp_path):
    writer = make_writer(tmp_path)
    writer.write_text(0, 'config', '{\n  "a": 1\n}')
    writer.close()
    values = [v for e in read_events(tmp_path / 'tensorboard') for v in e.summary.value]
    texts = [b''.join(v.tensor.string_val).decode() for v in values if 'config' in v.tag]
    assert texts == ['    {\n      "a": 1\n    }\n']


def test_other_processes_write_nothing(tmp_path):
    writer = make_writer(tmp_path / 'run', is_main_process=False)
    writer.write_scalars(1, {'loss': 1.0})
    writer.write_images(1, {'target': PICTURE})
    writer.write_text(1, 'config', 'text')
    writer.flush()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_remote_workdir_is_rewritten_and_gets_event_files(tmp_path, monkeypatch):
    # A folder that claims to be a bucket and cannot append.
    for module in (writers, event_files):
        monkeypatch.setattr(module, 'is_remote', lambda path: True)
    path_type = type(epath.Path(tmp_path))
    open_path = path_type.open

    def refuse_appending(self, mode='r', *arguments, **options):
        if 'a' in mode:
            raise OSError('an object store cannot append')
        return open_path(self, mode, *arguments, **options)

    monkeypatch.setattr(path_type, 'open', refuse_appending)
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 5}\n')
    writer = make_writer(tmp_path, initial_step=1)
    writer.write_scalars(2, {'loss': 2.0})
    assert [line['step'] for line in read_lines(tmp_path)] == [1, 2]
    writer.write_images(2, {'target': PICTURE})
    assert (tmp_path / 'pictures' / 'step_00000002' / 'target.png').exists()
    writer.flush()
    assert list((tmp_path / 'tensorboard').glob('events.*'))
    writer.write_scalars(3, {'loss': 3.0})
    writer.close()
    tags = [v.tag for e in read_events(tmp_path / 'tensorboard') for v in e.summary.value]
    assert tags.count('loss') == 2 and 'target' not in tags


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0:00'), (59.6, '1:00'), (3599, '59:59'), (90061, '25:01:01')]
)
def test_durations(seconds, text):
    assert writers.format_duration(seconds) == text


def test_full_disk_costs_the_line_alone(tmp_path):
    writer = make_writer(tmp_path)
    writer.write_scalars(1, {'loss': 1.0})
    size = (tmp_path / 'metrics.jsonl').stat().st_size
    with small_files(size + 5), pytest.raises(OSError, match=f'could not write {tmp_path}/metrics'):
        writer.write_scalars(2, {'loss': 2.0})
    with small_files(200), pytest.raises(OSError, match=f'could not write {tmp_path}/tensorboard/'):
        writer.write_scalars(3, {'loss': 3.0})
    with (
        small_files(10),
        pytest.raises(OSError, match=f'could not write {tmp_path}/pictures/.*png'),
    ):
        writer.write_images(3, {'target': PICTURE})
    # Dozens of numbers later nothing waits for a thread that is gone.
    for step in range(4, 30):
        writer.write_scalars(step, {'loss': 4.0})
    writer.close()
    assert [line['step'] for line in read_lines(tmp_path)] == [1, *range(3, 30)]
    steps = [e.step for e in read_events(tmp_path / 'tensorboard') if e.HasField('summary')]
    assert sorted(set(steps)) == [1, *range(4, 30)]
    assert not list((tmp_path / 'pictures').rglob('*.*'))


def test_a_bucket_that_fails_at_the_end_hides_no_other_error(tmp_path, monkeypatch, caplog):
    for module in (writers, event_files):
        monkeypatch.setattr(module, 'is_remote', lambda path: True)
    writer = make_writer(tmp_path)

    def fail(*_):
        raise OSError('the bucket answers 503')

    monkeypatch.setattr(event_files, 'write_whole', fail)
    writer.close()
    assert 'the event files are incomplete: the bucket answers 503' in caplog.text
