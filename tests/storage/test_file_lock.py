"""A lock is held once, until its file is closed, and only on a file that is in its place."""

import errno
import os

import pytest

from pdl_jax.storage.file_lock import lock_exclusively


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_one_holder_at_a_time(tmp_path, kind):
    path = tmp_path
    if kind == 'file':
        path = tmp_path / 'file'
        path.touch()
    first, second = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    lock_exclusively(first, path, message='busy')
    with pytest.raises(OSError, match='busy') as caught:
        lock_exclusively(second, path, message='busy')
    assert caught.value.errno == errno.EBUSY
    os.close(first)
    lock_exclusively(second, path, message='busy')
    os.close(second)


def test_a_file_that_was_moved_or_replaced_is_busy(tmp_path):
    path = tmp_path / 'file'
    path.touch()
    with open(path) as file:
        path.rename(tmp_path / 'moved')
        with pytest.raises(OSError, match='busy'):
            lock_exclusively(file.fileno(), path, message='busy')
        path.touch()
        with pytest.raises(OSError, match='busy'):
            lock_exclusively(file.fileno(), path, message='busy')
