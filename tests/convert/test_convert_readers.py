"""Files of other frameworks are read, and hostile ones execute nothing."""

import collections
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from pdl_jax.convert import contents
from pdl_jax.convert.readers import read_file

ARRAYS = {
    'stem.conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    'half': np.arange(3, dtype=np.float16),
    'columns': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'count': np.array(7, np.int64),
    'mask': np.array([True, False]),
    'big_endian': np.arange(3, dtype='>f4'),
}


def check_equal(found):
    assert found.arrays.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[key], value)


def write_call(path, module, name, *arguments):
    """Writes a hand-made pickle of {'model': {'a': module.name(*arguments)}}."""
    opcodes = [b'\x80\x02}', pickle.BINUNICODE, len(b'model').to_bytes(4, 'little'), b'model}']
    opcodes += [pickle.BINUNICODE, len(b'a').to_bytes(4, 'little'), b'a']
    opcodes += [b'c', module.encode(), b'\n', name.encode(), b'\n(']
    opcodes += [pickle.dumps(argument, 2)[2:-1] for argument in arguments]
    path.write_bytes(b''.join([*opcodes, b'tRss.']))


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('wrap', [dict, collections.OrderedDict])
def test_pickled_arrays_are_read(protocol, wrap, tmp_path):
    content = {'model': wrap(ARRAYS), '__author__': 'somebody', 'matching_heuristics': True}
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    found = read_file(str(tmp_path / 'a.pkl'))
    check_equal(found)
    assert set(found.others) == {'__author__', 'matching_heuristics'}


def test_pickled_arrays_of_numpy_1_and_python_2_are_read(tmp_path):
    data = pickle.dumps({'model': {'a': np.arange(3, dtype=np.float32)}}, 2)
    assert b'cnumpy._core.multiarray\n' in data
    (tmp_path / 'a.pkl').write_bytes(
        data.replace(b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n')
    )
    np.testing.assert_array_equal(read_file(str(tmp_path / 'a.pkl')).arrays['a'], [0, 1, 2])
    # Python 2 wrote bytes as strings:
    # (dp, 'a', numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), 'b'), state, ...
    values = np.array([1, 200, 255], np.uint8)
    raw = values.tobytes()
    python2 = (
        b"(dS'a'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nU" + bytes([len(raw)]) + raw + b'tbs.'
    )
    (tmp_path / 'b.pkl').write_bytes(python2)
    np.testing.assert_array_equal(read_file(str(tmp_path / 'b.pkl')).arrays['a'], values)


@pytest.mark.parametrize(
    ('module', 'name'),
    [
        ('os', 'system'),
        ('posix', 'system'),
        ('builtins', 'eval'),
        ('builtins', 'exec'),
        ('builtins', 'getattr'),
        ('subprocess', 'call'),
        ('numpy.testing._private.utils', 'runstring'),
        ('numpy', 'load'),
        ('numpy.lib.npyio', 'fromregex'),
        ('numpy._core.multiarray', 'fromfile'),
        ('numpy._core.multiarray', '_reconstruct.__globals__'),
        ('collections', 'OrderedDict.fromkeys'),
        ('collections', 'namedtuple'),
        ('torch', 'load'),
        ('pickle', 'loads'),
    ],
)
def test_pickles_that_call_anything_else_are_refused(module, name, tmp_path):
    path, marker = tmp_path / 'evil.pkl', tmp_path / 'executed'
    argument = (
        f'touch {marker}'
        if module in ('os', 'posix', 'subprocess')
        else f'open({str(marker)!r}, "w")'
    )
    write_call(path, module, name, argument)
    with pytest.raises(
        ValueError,
        match='evil.pkl cannot be read as a pickle of plain arrays: .* neither an array nor',
    ):
        read_file(str(path))
    assert not marker.exists()


def test_the_hostile_pickle_would_have_executed(tmp_path):
    marker = tmp_path / 'executed'
    write_call(tmp_path / 'evil.pkl', 'os', 'system', f'touch {marker}')
    pickle.loads((tmp_path / 'evil.pkl').read_bytes())
    assert marker.exists()


@pytest.mark.parametrize(
    'content',
    [
        {'a': np.array([{}, []], object)},
        {'a': np.array(['text'])},
        {'a': np.zeros(2, [('x', 'f4'), ('y', 'O')])},
        {'a': np.zeros(2, 'c8')},
        {'a': np.array(['2020-01-01'], 'datetime64[D]')},
    ],
)
def test_pickled_arrays_of_other_things_than_numbers_are_refused(content, tmp_path):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match='a.pkl cannot be read as a pickle of plain arrays'):
        read_file(str(tmp_path / 'a.pkl'))


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'not a pickle',
        pickle.dumps(ARRAYS)[:200],
        # A string longer than the file, a persistent id, a shape larger than the data, an array
        # that is its own dtype, an array without content.
        b'\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.',
        b'\x80\x02U\x01xQ.',
        pickle.dumps({'a': np.zeros(3, np.float32)}, 2).replace(
            b'K\x03\x85', b'J\xff\xff\xff\x7f\x85'
        ),
        b"}S'a'\ncnumpy\nndarray\n)\x81p0\n(I1\n(I3\ntg0\nI00\nS'abc'\ntbs.",
        b"}S'a'\ncnumpy\nndarray\n)\x81s.",
    ],
)
def test_damaged_pickles_are_refused(data, tmp_path):
    (tmp_path / 'a.pkl').write_bytes(data)
    with pytest.raises(ValueError, match='a.pkl '):
        read_file(str(tmp_path / 'a.pkl'))


def test_dicts_that_hold_themselves_end(tmp_path):
    content = {}
    content['model'] = content
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match='holds no arrays by name'):
        read_file(str(tmp_path / 'a.pkl'))


def test_npz_is_read(tmp_path):
    np.savez(tmp_path / 'a.npz', **ARRAYS)
    check_equal(read_file(str(tmp_path / 'a.npz')))


def test_npz_of_objects_or_damaged_is_refused(tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, a=np.array([{}], object))
    whole = path.read_bytes()
    for data in (whole, whole[:100], b'PK', b''):
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match='a.npz (cannot be read as an .npz|is empty|is the beg)'
        ):
            read_file(str(path))
    np.save(tmp_path / 'b', np.zeros(3))
    (tmp_path / 'b.npy').rename(tmp_path / 'b.npz')
    with pytest.raises(ValueError, match='b.npz is a single NumPy array without a name'):
        read_file(str(tmp_path / 'b.npz'))


def test_sizes_are_bounded_before_and_after_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, 'MAX_BYTES', 10_000)
    np.savez_compressed(tmp_path / 'bomb.npz', a=np.zeros(100_000, np.float32))
    assert os.path.getsize(tmp_path / 'bomb.npz') < 10_000
    with pytest.raises(ValueError, match='unpacks to 400.* bytes, more than 10000'):
        read_file(str(tmp_path / 'bomb.npz'))
    (tmp_path / 'large.pkl').write_bytes(bytes(10_001))
    with pytest.raises(ValueError, match='large.pkl has more than 10000 bytes'):
        read_file(str(tmp_path / 'large.pkl'))


def test_absent_files_are_named(tmp_path):
    for name in ('a.pth', 'ckpt-1'):
        with pytest.raises(
            FileNotFoundError, match='no such file; of a TensorFlow checkpoint give the prefix'
        ):
            read_file(str(tmp_path / name))


def test_absent_tensorflow_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    (tmp_path / 'ckpt-1.index').write_bytes(b'')
    with pytest.raises(ImportError, match=r"pip install 'pdl_jax\[tensorflow\]'"):
        read_file(str(tmp_path / 'ckpt-1'))


def test_safetensors_are_read_and_damaged_ones_refused(tmp_path):
    numpy_format = pytest.importorskip('safetensors.numpy')
    path = tmp_path / 'a.safetensors'
    arrays = {
        key: np.ascontiguousarray(value) for key, value in ARRAYS.items() if key != 'big_endian'
    }
    numpy_format.save_file(arrays, path)
    found = read_file(str(path))
    for key, value in arrays.items():
        np.testing.assert_array_equal(found.arrays[key], value)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match='a.safetensors cannot be read as safetensors'):
        read_file(str(path))


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason="needs PyTorch: pip install 'pdl_jax[convert]'")


def make_tensors(torch):
    native = {key: value for key, value in ARRAYS.items() if key != 'big_endian'}
    return {key: torch.from_numpy(np.array(value)) for key, value in native.items()}


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'model'])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_torch_files_are_read_in_their_wrappings(torch, is_zip, wrapper, prefix, tmp_path):
    tensors = {prefix + key: value for key, value in make_tensors(torch).items()}
    content = (
        {wrapper: tensors, 'start_iter': 3, 'optimizer': {'state': {}}} if wrapper else tensors
    )
    torch.save(content, tmp_path / 'a.pth.tar', _use_new_zipfile_serialization=is_zip)
    found = read_file(str(tmp_path / 'a.pth.tar'))
    assert found.arrays.keys() == make_tensors(torch).keys()
    for key, value in found.arrays.items():
        np.testing.assert_array_equal(value, ARRAYS[key])
    assert set(found.others) == ({'start_iter', 'optimizer'} if wrapper else set())


def test_bfloat16_becomes_float32(torch, tmp_path):
    torch.save({'a': torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / 'a.pth')
    value = np.asarray(read_file(str(tmp_path / 'a.pth')).arrays['a'])
    assert value.dtype == np.float32 and value.tolist() == [1.5, -2.0]


@pytest.mark.parametrize('is_zip', [True, False])
def test_torch_files_that_execute_are_refused(torch, is_zip, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path / "executed"}',)

    torch.save(
        {'a': torch.zeros(1), 'b': Evil()},
        tmp_path / 'evil.pth',
        _use_new_zipfile_serialization=is_zip,
    )
    with pytest.raises(
        ValueError, match='evil.pth cannot be read as a PyTorch file of plain tensors'
    ):
        read_file(str(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'executed').exists()


def test_torch_files_of_other_things_are_refused(torch, tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    sparse = torch.zeros(3).to_sparse()
    for content, match in (
        ([torch.zeros(1)], 'holds no arrays by name'),
        ({'epoch': 1}, 'holds no arrays by name'),
        ({'a': sparse}, 'a is a tensor of a special kind'),
        ({'a': torch.zeros(2, dtype=torch.complex64)}, 'a is a tensor of a special kind'),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=match):
            read_file(str(path))
    path.write_bytes(b'\x01\x02no file of PyTorch')
    with pytest.raises(ValueError, match='a.pth is no file of weights that is known here'):
        read_file(str(path))
    monkeypatch.setattr(contents, 'MAX_BYTES', 10_000)
    # Four stored bytes that expand to a million.
    torch.save({'a': torch.zeros(1).expand(250_000)}, path)
    with pytest.raises(ValueError, match='unpacks to 1000000 bytes, more than 10000'):
        read_file(str(path))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', bytes(20_000))
    with pytest.raises(ValueError, match='unpacks to 20000 bytes'):
        read_file(str(path))


@pytest.mark.parametrize(('name', 'count'), [('resnet20-12fca82f', 97), ('resnet56-4bfd9763', 277)])
def test_real_legacy_files_are_read(torch, name, count, shared_dir):
    """Saved on a GPU, without zip, wrapped, and under 'module.'."""
    found = read_file(str(shared_dir / 'data' / 'weights' / 'cifar10_resnet_torch' / f'{name}.th'))
    assert found.others == ('best_prec1',)
    assert len(found.arrays) == count
    assert found.arrays['conv1.weight'].shape == (16, 3, 3, 3)
    assert found.arrays['linear.weight'].shape == (10, 64)
