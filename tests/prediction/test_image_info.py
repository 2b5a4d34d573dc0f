"""Lists of images without labels."""

import json

import pytest

from pdl_jax.prediction.image_info import read_image_info


def write(folder, content):
    path = folder / 'info.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_ids_by_path(tmp_path):
    (tmp_path / 'x').mkdir()
    for name in ('x/a.jpg', 'b.JPG'):
        (tmp_path / name).write_bytes(b'')
    images = [{'id': 7, 'file_name': 'x/a.jpg'}, {'id': 3, 'file_name': 'b.jpg', 'width': 4}]
    path = write(tmp_path, '\ufeff' + json.dumps({'info': {}, 'images': images}))
    found = read_image_info(path, f'{tmp_path}/')
    assert found == {f'{tmp_path}/x/a.jpg': 7, f'{tmp_path}/b.JPG': 3}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'info.json is not valid JSON'),
        ('[' * 100000, 'info.json is not valid JSON'),
        ([], "must be an object with a field 'images'"),
        ({'images': []}, 'images is empty'),
        ({'images': [{'id': 1}]}, r"images\[0\] of info.json lacks the field 'file_name'"),
        ({'images': [{'id': 1.5, 'file_name': 'a'}]}, 'id must be int or str'),
        ({'images': [{'id': 1, 'file_name': '../a.jpg'}]}, 'must be a path below'),
        ({'images': [{'id': 1, 'file_name': n} for n in 'ab']}, r'images\[\].id .* more than once'),
        ({'images': [{'id': n, 'file_name': 'a.jpg'} for n in (1, 2)]}, 'is named twice'),
    ],
)
def test_faults_are_named(tmp_path, content, message):
    (tmp_path / 'a.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match=message):
        read_image_info(write(tmp_path, content), str(tmp_path))


def test_another_folder_is_told(tmp_path):
    path = write(tmp_path, {'images': [{'id': 1, 'file_name': 'a.jpg'}]})
    with pytest.raises(FileNotFoundError, match='1 of 1 files that info.json names are not in'):
        read_image_info(path, str(tmp_path))
