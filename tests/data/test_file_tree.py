"""Listings of folders with sub-folders, and names of records."""

import os

import pytest
from etils import epath

from pdl_jax.data import file_tree


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.PNG', 'x/c.png', 'x/y.v2/d.png', '._a.png', '.x/e.png', 'n.txt'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / '__MACOSX').mkdir()
    (tmp_path / '__MACOSX' / 'f.png').touch()
    return epath.Path(tmp_path)


def test_files_of_all_folders_are_listed(folder):
    found = file_tree.list_tree(folder, ('.png',), remedy='x')
    assert found == ('a.PNG', 'b.png', 'x/c.png', 'x/y.v2/d.png')
    assert file_tree.list_stems(folder, ('.png',), remedy='x') == {
        'a': 'a.PNG', 'b': 'b.png', 'x/c': 'x/c.png', 'x/y.v2/d': 'x/y.v2/d.png',
    }  # fmt: skip


def test_circular_links_end(folder):
    os.symlink(folder, folder / 'x' / 'loop')
    os.symlink(folder / 'x', folder / 'z')
    found = file_tree.list_tree(folder, ('.png',), remedy='x')
    assert found == ('a.PNG', 'b.png', 'x/c.png', 'x/y.v2/d.png')


def test_missing_and_repeated_files(folder):
    with pytest.raises(FileNotFoundError, match=r'none does not exist: give it'):
        file_tree.list_tree(folder / 'none', ('.png',), remedy='give it')
    with pytest.raises(FileNotFoundError, match=r'holds no file \*\.jpg or \*\.bmp: give it'):
        file_tree.list_tree(folder, ('.jpg', '.bmp'), remedy='give it')
    (folder / 'b.tif').touch()
    with pytest.raises(ValueError, match=r'holds b\.png and b\.tif: names without'):
        file_tree.list_stems(folder, ('.png', '.tif'), remedy='x')


def test_tails_that_all_names_have_are_cut_off(tmp_path):
    folder = epath.Path(tmp_path)
    for name in ('a_mask.png', 'b_mask.png'):
        (folder / name).touch()
    tails = ('_masks', '_mask')
    stems = file_tree.list_stems(folder, ('.png',), remedy='x', tails=tails)
    assert list(stems) == ['a', 'b']
    (folder / 'c.png').touch()
    stems = file_tree.list_stems(folder, ('.png',), remedy='x', tails=tails)
    assert list(stems) == ['a_mask', 'b_mask', 'c']


def test_names_of_records_are_unique():
    names = file_tree.name_records(['x/a.jpg', 'x/b.jpg', 'y/a.png'])
    assert names == [('x/a.jpg', 'x_a.png'), ('b.jpg', 'b.png'), ('y/a.png', 'y_a.png')]
    with pytest.raises(ValueError, match=r'x/a\.jpg and x_a\.jpg: the predictions .* x_a\.png'):
        file_tree.name_records(['x/a.jpg', 'y/a.jpg', 'x_a.jpg'])
