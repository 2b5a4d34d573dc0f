"""Files that hold no weights are named for what they are, with the remedy, on one line."""

import gzip
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from pdl_jax.convert.readers import read_file


def make_zip(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        for name in names:
            archive.writestr(name, b'x' * 100)
    return stream.getvalue()


def make_tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('ckpt-1.index'))
    return stream.getvalue()


def make_npz():
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(1000, np.float32))
    return stream.getvalue()


HEADER = b'{"a":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}'
SAFETENSORS = len(HEADER).to_bytes(8, 'little') + HEADER
KINDS = {
    'empty': (b'', 'is empty: download it again'),
    'zeros': (bytes(5000), 'full of zeros, as after an interrupted download'),
    'page': (b'<!DOCTYPE html><html><title>404 Not Found</title>', r'a web page \(404 Not Found\)'),
    'late_page': (b'\n\n<!-- saved -->\n<HTML><body>login', 'a web page, not weights: the link'),
    'lfs': (
        b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n',
        'a Git LFS pointer.*git lfs pull',
    ),
    'json': (b'{"message": "Not Found"}', r'a JSON document, not weights \(.*Not Found'),
    'index': (b'{"metadata": {}, "weight_map": {"a": "b"}}', 'an index of weights'),
    'xml': (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', 'message of a server'),
    'text': (b'please log in: you have no access\n', r'a text, not weights \(please log in'),
    'tar': (make_tar(), 'a tar archive: unpack it'),
    'gzip': (gzip.compress(make_tar()), 'a gzip archive: unpack it with `tar xzf`'),
    'hdf5': (b'\x89HDF\r\n\x1a\n' + bytes(100), 'an HDF5 file.*numpy.savez'),
    'keras': (make_zip('config.json', 'model.weights.h5'), 'a Keras archive: .*numpy.savez'),
    'png': (b'\x89PNG\r\n\x1a\n' + bytes(100), 'a PNG image'),
    'tflite': (b'\x1c\0\0\0TFL3' + bytes(100), 'a TensorFlow Lite program'),
    'script': (
        make_zip('m/data.pkl', 'm/constants.pkl', 'm/code/__torch__.py'),
        'a TorchScript archive.*torch.jit.load',
    ),
    'other_zip': (make_zip('readme.txt', 'w/model.pth'), r'a zip archive of other files \(readme'),
    'cut_zip': (make_npz()[:700], 'beginning of a zip archive.*cut short after 700 bytes'),
    'cut_safetensors': (SAFETENSORS, 'needs 466: cut short'),
    'other': (b'\x01\x02\x03\x04binary', 'no file of weights that is known here'),
}


@pytest.mark.parametrize('suffix', ['.pth', '.pkl'])
@pytest.mark.parametrize('kind', KINDS)
def test_kind_and_remedy_are_named(kind, suffix, tmp_path):
    data, match = KINDS[kind]
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(data)
    if kind == 'other' and suffix == '.pkl':
        match = 'cannot be read as a pickle'
    with pytest.raises(ValueError, match=match) as failure:
        read_file(str(path))
    assert str(path) in str(failure.value) and '\n' not in str(failure.value)


def test_folders_and_parts_of_checkpoints(tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'x')
    with pytest.raises(ValueError, match='is a directory: give a file, such as .*model.safet'):
        read_file(str(tmp_path))
    for name in ('ckpt-3.index', 'ckpt-4.index'):
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(ValueError, match='of 2 checkpoints: give the prefix of one, .*ckpt-3$'):
        read_file(str(tmp_path))
    with pytest.raises(ValueError, match='a part of a TensorFlow checkpoint: .*--input=.*/ckpt-3$'):
        read_file(str(tmp_path / 'ckpt-3.index'))
    (tmp_path / 'saved_model.pb').write_bytes(b'x')
    with pytest.raises(ValueError, match="is TensorFlow's SavedModel"):
        read_file(str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(ValueError, match='whose checkpoints need no conversion'):
        read_file(str(tmp_path))


def test_a_folder_stands_for_its_only_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr('pdl_jax.convert.readers._read_tensorflow', lambda prefix: prefix)
    for name in ('ckpt-3.index', 'ckpt-3.data-00000-of-00001', 'notes.txt'):
        (tmp_path / name).write_bytes(b'x')
    assert read_file(str(tmp_path)) == str(tmp_path / 'ckpt-3')
    assert read_file(f'{tmp_path}/ckpt-3') == f'{tmp_path}/ckpt-3'


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    for path in (str(tmp_path / 'pipe.pth'), '/dev/zero'):
        with pytest.raises(ValueError, match='is a (named pipe|device): give a regular file'):
            read_file(path)


def test_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / 'weights.pth'
    path.write_bytes(make_npz())
    assert list(read_file(str(path)).arrays) == ['a']
    path.write_bytes(SAFETENSORS + bytes(400))
    assert read_file(str(path)).arrays['a'].shape == (100,)
