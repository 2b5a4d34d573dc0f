"""Files by the names in annotations: as tools write them, and never outside of the folder."""

import pathlib
import unicodedata

import pytest

from pdl_jax.data.file_names import FolderFiles, split_name
from pdl_jax.data.notices import Notices

COMPOSED = unicodedata.normalize('NFC', 'Küste 1.jpg')
DECOMPOSED = unicodedata.normalize('NFD', COMPOSED)


def make_files(root: pathlib.Path, *names: str) -> tuple[FolderFiles, Notices]:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    notices = Notices()
    return FolderFiles(root, ('.jpg', '.png'), notices), notices


@pytest.mark.parametrize(
    'name, present, found, told',
    [
        ('a.jpg', 'a.jpg', 'a.jpg', None),
        ('./a.jpg', 'a.jpg', 'a.jpg', None),
        ('left/a.jpg', 'left/a.jpg', 'left/a.jpg', None),
        ('left\\a.jpg', 'left/a.jpg', 'left/a.jpg', None),
        ('left//a.jpg', 'left/a.jpg', 'left/a.jpg', None),
        ('/home/me/set/images/a.jpg', 'a.jpg', 'a.jpg', 'folders that are not below'),
        ('C:\\set\\images\\left\\a.jpg', 'left/a.jpg', 'left/a.jpg', 'folders that are not below'),
        ('file:///x/a.jpg', 'a.jpg', 'a.jpg', 'folders that are not below'),
        ('my%20photo%2B.jpg', 'my photo+.jpg', 'my photo+.jpg', 'written with %20'),
        ('100%20.jpg', '100%20.jpg', '100%20.jpg', None),
        (COMPOSED, DECOMPOSED, DECOMPOSED, 'composition of letters'),
        (DECOMPOSED, COMPOSED, COMPOSED, 'composition of letters'),
        ('Küste/a.jpg', unicodedata.normalize('NFD', 'Küste') + '/a.jpg', None, None),
        ('a.JPG', 'a.jpg', 'a.jpg', 'differ in case'),
        ('a.jpg', 'A.JPG', 'A.JPG', 'differ in case'),
        ('a.jpg', 'a.png', 'a.png', 'differ in their ending'),
        ('a', 'a.png', 'a.png', 'differ in their ending'),
        ('frame_1.25', 'frame_1.25.png', 'frame_1.25.png', 'differ in their ending'),
        ('frame_1.25', 'frame_1.png', None, None),
        ('a.jpg', 'aachen/a.jpg', 'aachen/a.jpg', None),
        ('a.jpg', 'x/y/z/a.jpg', 'x/y/z/a.jpg', None),
        ('left/a.jpg', 'train/left/a.jpg', 'train/left/a.jpg', 'differ from the paths'),
        ('a_gtFine_leftImg8bit.png', 'bonn/a_leftImg8bit.png', 'bonn/a_leftImg8bit.png', None),
        ('b.jpg', 'a.jpg', None, None),
        ('left/b.jpg', 'left/a.jpg', None, None),
        ('/etc/passwd', 'a.jpg', None, None),
    ],
)
def test_names_as_tools_write_them(tmp_path, name, present, found, told):
    files, notices = make_files(tmp_path, present)
    if name.startswith('Küste/'):
        found = present
    assert files.find(name, 'a.json') == found
    lines = ' '.join(notices.to_lines())
    assert told in lines if told else not lines


@pytest.mark.parametrize(
    'name',
    ['../a.jpg', 'x/../../a.jpg', '..', '', '.', '/', 'a\0.jpg', '\ud800.jpg', '..\\a.jpg']
    + ['%2e%2e/a.jpg', '%2E%2E%2Fa.jpg', 'a/' * 100 + 'a.jpg'],
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    files, _ = make_files(tmp_path / 'images', 'b.jpg')
    (tmp_path / 'a.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match=r'images\[0\] of a\.json: file_name .* below the given'):
        files.find(name, 'images[0] of a.json')


def test_folders_that_are_links_do_not_lead_out(tmp_path):
    make_files(tmp_path / 'outside', 'secret.jpg')
    files, _ = make_files(tmp_path / 'images', 'left/a.jpg')
    (tmp_path / 'images' / 'evil').symlink_to(tmp_path / 'outside')
    (tmp_path / 'images' / 'fine').symlink_to(tmp_path / 'images' / 'left')
    files = FolderFiles(tmp_path / 'images', ('.jpg',), Notices())
    assert files.find('fine/a.jpg', 'a.json') == 'fine/a.jpg'
    with pytest.raises(ValueError, match=r'a\.json: file_name leads over the link .*evil out of'):
        files.find('evil/secret.jpg', 'a.json')
    # Nor do they where a name gives no folder.
    assert files.find('secret.jpg', 'a.json') is None


def test_files_that_are_links_are_told_of(tmp_path):
    # Caches of downloads consist of such links.
    make_files(tmp_path / 'blobs', '0a1b')
    files, notices = make_files(tmp_path / 'images', 'b.jpg')
    (tmp_path / 'images' / 'a.jpg').symlink_to(tmp_path / 'blobs' / '0a1b')
    (tmp_path / 'images' / 'c.jpg').symlink_to(tmp_path / 'images' / 'b.jpg')
    files = FolderFiles(tmp_path / 'images', ('.jpg',), notices)
    assert files.find('a.jpg', 'x') == 'a.jpg' and files.find('c.jpg', 'x') == 'c.jpg'
    assert notices.to_lines() == (
        '1 files are links that lead out of images: followed (first: a.jpg)',
    )


@pytest.mark.parametrize(
    'name, present',
    [
        ('a.jpg', ('left/a.jpg', 'right/a.jpg')),
        ('A.jpg', ('a.jpg', 'a.JPG')),
        ('a.bmp', ('a.jpg', 'a.png')),
        ('x/a.jpg', ('left/x/a.jpg', 'right/x/a.jpg')),
    ],
)
def test_names_of_two_files_are_refused(tmp_path, name, present):
    files, _ = make_files(tmp_path, *present)
    with pytest.raises(ValueError, match=r"a\.json: file_name '.*' could mean .* or .* in"):
        files.find(name, 'a.json')


def test_the_folder_decides_among_equal_names(tmp_path):
    files, _ = make_files(tmp_path, 'left/a.jpg', 'right/a.jpg', 'a.jpg')
    assert files.find('right/a.jpg', 'x') == 'right/a.jpg'
    assert files.find('a.jpg', 'x') == 'a.jpg'
    assert files.find('/data/left/a.jpg', 'x') == 'left/a.jpg'


def test_litter_and_hidden_files_are_not_searched(tmp_path):
    files, _ = make_files(tmp_path, '__MACOSX/a.jpg', '.hidden/a.jpg', 'x/a.jpg')
    assert files.find('a.jpg', 'x') == 'x/a.jpg'


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        FolderFiles(tmp_path / 'nowhere', ('.jpg',), Notices())


def test_parts_of_a_name():
    assert split_name('C:\\a\\.\\b.jpg', 'x') == ['a', 'b.jpg']
