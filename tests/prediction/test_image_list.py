"""Words of --images, and names of results."""

import pytest

from pdl_jax.prediction.image_list import find_images, name_results, refuse_overwriting


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('b.jpg', 'a.jpg', 'a.png', 'x[1].jpg', 'x1.jpg', 'notes.txt', '._a.jpg'):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'below').mkdir()
    (tmp_path / 'below' / 'C.JPG').write_bytes(b'')
    (tmp_path / 'empty').mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['[ab].jpg', '?.jpg'], ['a.jpg', 'b.jpg']),
        # A file of this name counts before the pattern, which matches x1.jpg.
        (['x[1].jpg'], ['x[1].jpg']),
        (['x[1]*'], ['x1.jpg']),
        (['below'], ['below/C.JPG']),
        (['below/', 'b.jpg'], ['b.jpg', 'below/C.JPG']),
        (['.'], [f'./{n}' for n in ('a.jpg', 'a.png', 'b.jpg', 'x1.jpg', 'x[1].jpg')]),
        (['~/a.*'], ['HOME/a.jpg', 'HOME/a.png']),
        (['**/*.JPG'], ['below/C.JPG']),
        (['b*'], ['b.jpg']),
    ],
)
def test_words_stand_for_files(photos, words, expected):
    found = [path.replace(str(photos), 'HOME') for path in find_images(words)]
    assert found == expected


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('*.bmp', r'--images=\*.bmp: the pattern matches no file'),
        ('emp*', 'matches folders only'),
        ('empty', 'no file in this folder ends in .*--prefix=empty'),
        ('no/a.jpg', 'there is no folder no$'),
        ('aa.jpg', 'no such file or folder; did you mean a.jpg'),
        ('zzzzz', 'no such file or folder$'),
    ],
)
def test_words_that_stand_for_nothing(photos, word, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_images([word])


def test_addresses_are_no_files():
    with pytest.raises(ValueError, match='example.invalid/a.jpg is an address.* download'):
        find_images(['https://example.invalid/a.jpg'])


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['x/a.jpg', 'x/b.jpg'], ['a', 'b']),
        (['a.jpg', 'a.png', 'b.jpg'], ['a_jpg', 'a_png', 'b']),
        (['a.jpg', 'A.JPG'], ['a_jpg', 'A_JPG_2']),
        (['x/a.jpg', 'y/a.jpg'], ['x_a_jpg', 'y_a_jpg']),
        (['/r/x/a.jpg', '/s/x/a.jpg', '/s/a.png'], ['r_x_a_jpg', 's_x_a_jpg', 'a_png']),
        (['a.jpg', 'a.png', 'a_jpg.png'], ['a_jpg', 'a_png', 'a_jpg_png']),
        (['a.jpg', './a.jpg', 'a_jpg_2.png'], ['a_jpg', 'a_jpg_3', 'a_jpg_2']),
        (['gs://b/x/a.jpg', 'gs://b/y/a.jpg'], ['x_a_jpg', 'y_a_jpg']),
    ],
)
def test_results_have_names_of_their_own(paths, names):
    assert list(name_results(paths).items()) == list(zip(paths, names, strict=True))


def test_no_result_takes_the_place_of_an_image(tmp_path):
    image = tmp_path / 'a_overlay.png'
    refuse_overwriting([str(image)], [str(tmp_path / 'b_overlay.png')])
    with pytest.raises(ValueError, match='overwrite the image .*a_overlay.png'):
        refuse_overwriting([str(image)], [f'{tmp_path}/x/../a_overlay.png'])
