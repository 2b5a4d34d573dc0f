"""A workdir is held by one run at a time; who holds it is said, and the dead hold nothing."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import pytest

from pdl_jax.storage import workdir_lock
from pdl_jax.storage.workdir_lock import lock_workdir

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pdl_jax.storage.workdir_lock import lock_workdir
with lock_workdir(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def hold_elsewhere(folder):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == 'held\n'
        yield process
        process.kill()


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path):
    workdir = tmp_path / 'run'
    with hold_elsewhere(workdir) as process:
        with pytest.raises(OSError) as caught, lock_workdir(workdir):
            pass
        assert re.fullmatch(
            rf'{workdir} is in use by another run, process {process.pid} on '
            rf'{socket.gethostname()} since \d{{4}}-.*: wait for its end, stop it, or choose '
            rf'another --workdir',
            str(caught.value),
        )
    # Killed, it left its file behind.
    assert (workdir / '.run.lock').exists()
    with lock_workdir(workdir):
        assert json.loads((workdir / '.run.lock').read_text())['pid'] == os.getpid()
    assert not list(workdir.iterdir())


def test_address_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='https://a.org/x is an address'):
        lock_workdir('https://a.org/x').__enter__()
    assert not list(tmp_path.iterdir())


def test_one_holder_within_a_process(tmp_path):
    with lock_workdir(tmp_path):
        with (
            pytest.raises(OSError, match=f'process {os.getpid()} on'),
            lock_workdir(str(tmp_path)),
        ):
            pass
    with lock_workdir(tmp_path):
        pass


def test_a_program_on_another_host_is_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workdir_lock, '_POLL_SECONDS', 0.01)
    path = tmp_path / '.run.lock'
    with lock_workdir(tmp_path):
        path.write_text(json.dumps({'pid': 7, 'host': 'elsewhere', 'since': '2025-01-01'}))
        monkeypatch.setattr(workdir_lock, '_LEASE_SECONDS', 0.1)
        start = time.monotonic()
        with pytest.raises(OSError, match='process 7 on elsewhere'), lock_workdir(tmp_path):
            pass
        assert time.monotonic() - start >= 0.1
    assert caplog.text.count('waiting for its end') == 1


@pytest.mark.parametrize('content', ['', 'x', '[]', '{"pid": 1}', '[' * 4000])
def test_holder_whose_file_says_nothing(tmp_path, content):
    with lock_workdir(tmp_path):
        (tmp_path / '.run.lock').write_text(content)
        with pytest.raises(OSError, match='in use by another run: wait'), lock_workdir(tmp_path):
            pass


def test_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(workdir_lock, 'lock_exclusively', fail)
    with lock_workdir(tmp_path):
        assert 'is not protected from a second run' in caplog.text


def test_buckets_are_not_locked(monkeypatch):
    locked = []
    monkeypatch.setattr(workdir_lock, 'lock_exclusively', lambda *_, **__: locked.append(True))
    with lock_workdir('gs://bucket/run'), lock_workdir('gs://bucket/run'):
        assert not locked
