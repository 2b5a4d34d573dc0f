"""Files that others made: pipes, devices, large files and addresses are refused before reading."""

import os

import pytest

from pdl_jax.storage import paths
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.outside_files import read_outside_file, refuse_irregular


def test_a_regular_file_is_read(tmp_path):
    (tmp_path / 'a').write_bytes(b'content')
    assert read_outside_file(tmp_path / 'a') == b'content'
    assert read_outside_file(tmp_path / 'a', max_bytes=7) == b'content'
    refuse_irregular(tmp_path / 'a')
    refuse_irregular(tmp_path / 'missing')


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    for read in (read_outside_file, refuse_irregular):
        with pytest.raises(ValueError, match=r'a\.png is a named pipe: give a regular file'):
            read(tmp_path / 'a.png')


def test_devices_and_directories_are_refused(tmp_path):
    with pytest.raises(ValueError, match='/dev/zero is a device'):
        read_outside_file('/dev/zero')
    with pytest.raises(ValueError, match='is a directory'):
        read_outside_file(tmp_path)


def test_a_large_file_is_refused_by_its_size(tmp_path):
    with open(tmp_path / 'large.png', 'wb') as file:
        file.truncate(5 * 2**30)  # Takes no space.
    with pytest.raises(ValueError, match=r'large\.png has 5368709120 bytes, the limit is'):
        read_outside_file(tmp_path / 'large.png')
    (tmp_path / 'small').write_bytes(b'12345678')
    with pytest.raises(ValueError, match='has 8 bytes, the limit is 7'):
        read_outside_file(tmp_path / 'small', max_bytes=7)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='missing'):
        read_outside_file(tmp_path / 'missing')


@pytest.mark.parametrize('address', ['https://example.invalid/a.jpg', 'ftp://x/y', 'file:///a'])
def test_addresses_are_refused_in_one_line(address):
    for use in (paths.make_path, read_outside_file, refuse_irregular, find_checkpoint):
        with pytest.raises(ValueError, match='is an address .* (download it|give )') as raised:
            use(address)
        assert address in str(raised.value) and '\n' not in str(raised.value)
