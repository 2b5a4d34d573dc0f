"""A process that is killed still has a last word, and one that ends by itself has none."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, sys
from pdl_jax.runtime.last_words import LastWords
words = LastWords('gone')
if sys.argv[1] == 'take back':
    words.take_back()
elif sys.argv[1] == 'abort':
    os.abort()
elif sys.argv[1] == 'kill':
    os.kill(os.getpid(), signal.SIGKILL)
elif sys.argv[1] == 'stop':
    os.killpg(os.getpgid(0), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ('how', 'status', 'printed'),
    [
        ('take back', 0, ''),
        ('abort', -signal.SIGABRT, 'gone\n'),
        ('kill', -signal.SIGKILL, 'gone\n'),
        ('stop', -signal.SIGTERM, 'gone\n'),
    ],
)
def test_last_words(how, status, printed):
    result = subprocess.run(
        [sys.executable, '-c', PROGRAM, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        env={**os.environ, 'PYTHONFAULTHANDLER': ''},
    )
    assert result.returncode == status and result.stderr.endswith(printed)
    assert bool(result.stderr) == bool(printed)
