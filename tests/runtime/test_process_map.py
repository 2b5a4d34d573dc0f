"""Worker processes: order, a worker that dies, a parent that is killed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from pdl_jax.runtime import process_map

ROOT = pathlib.Path(__file__).resolve().parents[2]


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return -number


def test_no_process_maps_here():
    with process_map.map_ordered(lambda i: (i, os.getpid()), range(3), 0) as results:
        assert list(results) == [(i, os.getpid()) for i in range(3)]


def test_a_worker_that_died_is_an_error():
    with process_map.map_ordered(die_at_three, range(9), 1) as results:
        with pytest.raises(RuntimeError, match='a worker process died.*use fewer processes'):
            list(results)


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / 'parent.py'
    script.write_text(
        'import os, time\n'
        'from pdl_jax.runtime import process_map\n'
        'def work(i):\n'
        '    print(os.getpid(), flush=True)\n'
        '    return i\n'
        'if __name__ == "__main__":\n'
        '    with process_map.map_ordered(work, range(100), 1) as results:\n'
        '        next(results)\n'
        '        time.sleep(60)\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(100):
        if not is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail('the worker outlived its parent')


def is_running(pid: int) -> bool:
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False
