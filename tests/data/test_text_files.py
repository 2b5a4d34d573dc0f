"""Lists of names that define splits."""

import pytest
from etils import epath

from pdl_jax.data import text_files


def write_list(tmp_path, content):
    path = epath.Path(tmp_path / 'train.txt')
    path.write_bytes(content)
    return path


def test_names_of_a_list(tmp_path):
    path = write_list(tmp_path, b'\xef\xbb\xbf2007_000032\r\n\r\n 2007_000039 \n')
    names = text_files.read_names(path, remedy='')
    assert names == ('2007_000032', '2007_000039')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_text_of_windows(tmp_path, encoding):
    path = write_list(tmp_path, 'Straße\r\nWald\r\n'.encode(encoding))
    assert text_files.read_text(path, remedy='').splitlines() == ['Straße', 'Wald']


@pytest.mark.parametrize(
    'content, message',
    [
        (
            b'a\n../../etc/passwd\n',
            r"line 2 of train\.txt: file_name '\.\./\.\./etc/passwd' must be",
        ),
        (b'a\\b\n', 'must be a plain name'),
        (b'..\n', 'must be a plain name'),
        (b'a\x00b\n', 'must be a plain name'),
        (b'a\nb\na\n', "line 3 of train.txt: 'a' is listed twice, first on line 1"),
        (b'\n \n', r'train\.txt is empty: unpack it'),
        (b'\xff\xfe\n', 'is no UTF-8 text'),
        ('Straße\n'.encode('latin-1'), 'is no UTF-8 text.*save it as UTF-8'),
    ],
)
def test_lists_that_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        text_files.read_names(write_list(tmp_path, content), remedy='unpack it')


def test_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no\.txt does not exist: unpack it'):
        text_files.read_names(epath.Path(tmp_path / 'no.txt'), remedy='unpack it')
