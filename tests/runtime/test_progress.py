"""Long stages: what a log and a terminal show of them."""

import io
import sys
import threading
import time

import pytest

from pdl_jax.runtime import progress


@pytest.fixture
def lines(monkeypatch):
    lines = []
    monkeypatch.setattr(progress.logging, 'info', lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(progress.logging, 'vlog_is_on', lambda level: True)
    return lines


class _Screen(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


def _wait_until(is_true):
    end = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_beginning_and_duration_are_logged(lines):
    with progress.stage('thinking'):
        assert lines == ['thinking ...']
    assert len(lines) == 2 and lines[1].startswith('thinking took 0.')


def test_an_error_ends_the_stage(lines):
    count = threading.active_count()
    with pytest.raises(ValueError, match='own'), progress.stage('thinking'):
        assert threading.active_count() == count + 1
        raise ValueError('own')
    assert threading.active_count() == count and lines == ['thinking ...']


def test_a_log_gets_a_line_now_and_then(lines, monkeypatch):
    screen = _Screen(is_terminal=False)
    monkeypatch.setattr(sys, 'stderr', screen)
    monkeypatch.setattr(progress, '_LOG_SECONDS', 0.01)
    with progress.stage('thinking'):
        _wait_until(lambda: len(lines) >= 3)
    assert lines[1] == 'thinking: 0 s so far'
    assert screen.getvalue() == ''


def test_a_terminal_counts_seconds_and_is_cleared(lines, monkeypatch):
    screen = _Screen(is_terminal=True)
    monkeypatch.setattr(sys, 'stderr', screen)
    monkeypatch.setattr(progress, '_TERMINAL_SECONDS', 0.01)
    with progress.stage('thinking'):
        _wait_until(screen.getvalue)
    shown = screen.getvalue().split('\r')
    assert shown[1].startswith('thinking: ') and shown[1].endswith(' s')
    # The last thing is a line of spaces, long enough, with the cursor at its beginning.
    assert shown[-1] == '' and shown[-2].isspace() and len(shown[-2]) >= len(shown[-3])
    assert len(lines) == 2


def test_rates_leave_the_first_item_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    said = []
    throughput = progress.Throughput('frames', 40, said.append)
    # The first takes 30 seconds, each of the others two.
    for seconds in (30, *[2] * 9):
        now[0] += seconds
        throughput.add()
    throughput.finish()
    assert said == [
        '1 of about 40 frames, 0.0 frames/s',
        '6 of about 40 frames, 0.5 frames/s',
        '10 frames in 0:48, 0.5 frames/s after the first',
    ]
