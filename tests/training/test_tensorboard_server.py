"""TensorBoard beside a training, against a stand-in for its package."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import pytest

from pdl_jax.training.tensorboard_server import serve_tensorboard
from tests import tiny

# Serves the folder that it is given, as `python -m http.server`.
_MAIN = """
import functools, http.server, sys

def run_main():
    flags = dict(word.removeprefix('--').split('=', 1) for word in sys.argv[1:])
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=flags['logdir']
    )
    address = (flags['host'], int(flags['port']))
    http.server.HTTPServer(address, handler).serve_forever()
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package called tensorboard, for this process and its children."""
    package = tmp_path / 'site' / 'tensorboard'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text('')
    (package / 'main.py').write_text(_MAIN)
    monkeypatch.syspath_prepend(str(tmp_path / 'site'))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    folder = tmp_path / 'run' / 'tensorboard'
    folder.mkdir(parents=True)
    (folder / 'events').write_text('here')
    return tmp_path / 'run'


def _read(address):
    with urllib.request.urlopen(address, timeout=5) as answer:
        return answer.read()


def _wait(check, *, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _check_gone(address):
    # pytest.raises fails with an exception that _wait does not catch: a server that is still ending
    # would be no reason to wait.
    try:
        _read(address)
    except urllib.error.URLError:
        return
    raise AssertionError(f'{address} still answers')


def test_it_serves_a_run_until_its_end(installed, caplog):
    with caplog.at_level('INFO', logger='absl'), serve_tensorboard(installed) as address:
        assert address.startswith('http://127.0.0.1:')
        assert f'TensorBoard: {address} (until the run ends)' in caplog.text
        assert _wait(lambda: _read(f'{address}events')) == b'here'
    _check_gone(address)


def test_it_ends_with_a_killed_training(installed):
    code = textwrap.dedent("""
        import sys, time
        from pdl_jax.training.tensorboard_server import serve_tensorboard
        with serve_tensorboard(sys.argv[1]) as address:
            print(address, flush=True)
            time.sleep(600)
    """)
    environment = {**os.environ, 'PYTHONPATH': f'{os.environ["PYTHONPATH"]}{os.pathsep}{tiny.ROOT}'}
    process = subprocess.Popen(
        [sys.executable, '-c', code, str(installed)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        _wait(lambda: _read(f'{address}events'))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _wait(lambda: _check_gone(address))


def test_without_the_package_a_line_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with serve_tensorboard(tmp_path) as address:
        assert address == ''
    assert '--tensorboard needs a package: pip install tensorboard' in caplog.text


def test_a_process_that_does_not_start_ends_no_training(installed, monkeypatch, caplog):
    monkeypatch.setattr(sys, 'executable', str(installed / 'no_python'))
    with serve_tensorboard(installed) as address:
        assert address == ''
    assert 'TensorBoard does not start: ' in caplog.text
