"""Files are written whole or not at all, and errors of writing name them."""

import errno
import os

import pytest
from etils import epath

from pdl_jax.storage.paths import (
    append_whole,
    explain_write_errors,
    make_path,
    refuse_address,
    write_whole,
)
from tests.storage.full_disk import small_files


@pytest.mark.parametrize(
    ('address', 'remedy'),
    [
        ('https://a.org/r.pth', 'download it first, curl -L -o r.pth https://a.org/r.pth, and'),
        ('https://a.org/get?id=1&b=2', "curl -L -o get 'https://a.org/get?id=1&b=2', and"),
        ("http://a.org/a';rm", "curl -L -o FILE 'http://a.org/a'\"'\"';rm', and"),
        ('HTTPS://a.org/x', 'only local paths and gs:// are read and written: download'),
        ('s3://b/x', 'is an address (s3://), and only local paths and gs:// are'),
        ('GS://b/x', 'only local paths and gs:// are'),
        ('hf://models/x', 'only local paths and gs:// are read and written: `pdl_jax pull hf://'),
        ('hf://models/x@v1', '`pdl_jax pull hf://models/x@v1 x`, and give x'),
        ('file:///x', 'give /x'),
        ('gs:/b/x', 'gs:/b/x lacks a slash: give gs://b/x'),
    ],
)
def test_addresses_are_refused(address, remedy):
    with pytest.raises(ValueError) as caught:
        make_path(address)
    assert remedy in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('path', ['gs://b/x', 'C:/x', 'run:1/x', 'a b:/x', '', 'x=1', 'a//b'])
def test_paths_are_not_taken_for_addresses(path):
    refuse_address(path)


def test_file_is_whole_or_as_it_was(tmp_path):
    path = epath.Path(tmp_path / 'a.png')
    for before in (None, b'old'):
        with small_files(1000), pytest.raises(OSError) as caught:
            write_whole(path, bytes(5000))
        assert str(caught.value) == f'could not write {path}: File too large: free some space'
        assert caught.value.errno == errno.EFBIG
        assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ['a.png'])
        write_whole(path, b'old')
    assert path.read_bytes() == b'old'


def test_name_may_be_as_long_as_names_can_be(tmp_path):
    path = epath.Path(tmp_path / f'{"ä" * 125}.png')
    write_whole(path, b'x')
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_line_is_appended_whole_or_not_at_all(tmp_path):
    path = epath.Path(tmp_path / 'lines')
    append_whole(path, b'a' * 900)
    with small_files(1000), pytest.raises(OSError, match=f'could not write {path}: .*free some'):
        append_whole(path, b'b' * 900)
    append_whole(path, b'c')
    assert path.read_bytes() == b'a' * 900 + b'c'


@pytest.mark.parametrize('kind', [PermissionError, NotADirectoryError, OSError])
def test_errors_keep_their_kind(kind):
    number = {PermissionError: errno.EACCES, NotADirectoryError: errno.ENOTDIR}.get(kind, errno.EIO)
    with pytest.raises(kind) as caught, explain_write_errors('x/y'):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f'could not write x/y: {os.strerror(number)}: check the ')
    assert caught.value.errno == number


def test_sentences_are_not_worded_twice():
    with pytest.raises(OSError, match='^another run has it$'), explain_write_errors('x'):
        raise OSError('another run has it')
