"""Files of PyTorch give the numbers that PyTorch reads, without it; special tensors are named."""

import numpy as np
import pytest

from pdl_jax.convert.readers import read_file

torch = pytest.importorskip('torch', reason="needs PyTorch: pip install 'pdl_jax[convert]'")

IS_ZIP = pytest.mark.parametrize('is_zip', [True, False], ids=['zip', 'stream'])


def save(content, path, is_zip=True):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return str(path)


def list_tensors():
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    tensors = {
        'base': base,
        'view': base[1:, ::2, 1:],
        'transposed': base.permute(2, 0, 1),
        'expanded': torch.tensor([2.5]).expand(4),
        'parameter': torch.nn.Parameter(torch.ones(2)),
        'scalar': torch.tensor(7),
        'empty': torch.zeros(0, 3),
        'bfloat16': torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }
    names = 'float16 float32 float64 uint8 int8 int16 int32 int64 bool uint16 uint32 uint64'.split()
    for name in names:
        tensors[name] = torch.tensor([0, 1, 1]).to(getattr(torch, name))
    return tensors


@IS_ZIP
def test_every_kind_of_plain_tensor_equals_that_of_pytorch(is_zip, tmp_path):
    tensors = list_tensors()
    if not is_zip:
        # PyTorch itself cannot write these as streams.
        tensors = {k: v for k, v in tensors.items() if not k.startswith('uint') or k == 'uint8'}
    arrays = read_file(save(tensors, tmp_path / 'a.pth', is_zip)).arrays
    loaded = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert arrays.keys() == tensors.keys()
    for key, tensor in loaded.items():
        tensor = tensor.detach()
        expected = (tensor.float() if key == 'bfloat16' else tensor).numpy()
        value = np.asarray(arrays[key])
        assert arrays[key].shape == expected.shape and value.dtype == expected.dtype, key
        np.testing.assert_array_equal(value, expected, err_msg=key)


@IS_ZIP
def test_state_dict_of_a_module_and_its_optimiser(is_zip, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = {'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'epoch': 3}
    contents = read_file(save(content, tmp_path / 'a.pth', is_zip))
    assert contents.others == ('optimizer', 'epoch')
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(contents.arrays[key], tensor.numpy())


def test_file_in_big_endian_order(tmp_path):
    from torch.utils.serialization import config

    tensors = {'a': torch.tensor([1.0, 2.0])}
    path = save(tensors, tmp_path / 'a.pth')
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert config is not None
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            if name.endswith('/byteorder'):
                data = b'big'
            elif '/data/' in name:
                data = np.frombuffer(data, '<f4').astype('>f4').tobytes()
            archive.writestr(name, data)
    np.testing.assert_array_equal(read_file(path).arrays['a'], [1, 2])


def make_special():
    plain = torch.ones(3)
    negative = torch.conj(torch.tensor([1 + 2j])).imag
    assert negative.is_neg()
    special = {
        'neg': lambda: negative,
        'complex': lambda: torch.zeros(2, dtype=torch.complex64),
        'sparse': lambda: plain.to_sparse(),
        'quantised': lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        'nested': lambda: torch.nested.nested_tensor([plain, plain]),
        'meta': lambda: torch.zeros(2, device='meta'),
        'bits8': lambda: torch.zeros(2, dtype=torch.uint8).view(torch.bits8),
        'float4': lambda: torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        'float8': lambda: plain.to(torch.float8_e4m3fn),
    }
    return [pytest.param(make, id=name) for name, make in special.items()]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make', make_special())
def test_special_tensors_are_named(make, tmp_path):
    try:
        path = save({'good': torch.zeros(1), 'odd': make()}, tmp_path / 'a.pth')
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        pytest.skip(f'this PyTorch cannot write it: {error}')
    with pytest.raises(
        ValueError, match='a.pth cannot be read as .*: odd is a tensor of a special'
    ):
        read_file(path)


class Network(torch.nn.Module):
    """Pickled whole by the test below."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize(('content', 'where'), [
    (lambda: Network(), 'it is a whole object of'),
    (lambda: {'model': Network(), 'epoch': 1}, "'model' is an object of"),
])  # fmt: skip
@IS_ZIP
def test_whole_modules_are_named_with_the_remedy(content, where, is_zip, tmp_path):
    path = save(content(), tmp_path / 'a.pth', is_zip)
    with pytest.raises(ValueError, match=where) as failure:
        read_file(path)
    message = str(failure.value)
    assert f'{__name__}.Network' in message and '.state_dict(), ' in message
    assert '\n' not in message


def test_options_beside_the_weights_may_be_objects(tmp_path):
    import argparse

    content = {
        'state_dict': {'a': torch.zeros(2)},
        'args': argparse.Namespace(lr=0.1),
        'best_acc1': np.float64(0.5),
        ('a', 'tuple'): {1, 2},
    }
    contents = read_file(save(content, tmp_path / 'a.pth'))
    assert list(contents.arrays) == ['a']
    assert set(contents.others) >= {'args', 'best_acc1'}


def test_tensors_outside_of_their_storage_are_refused(tmp_path):
    path = tmp_path / 'a.pth'
    save({'a': torch.arange(4.0)}, path)
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith('/data/0'))
    with zipfile.ZipFile(path, 'w') as archive:
        for member, data in members.items():
            archive.writestr(member, data[:8] if member == name else data)
    array = read_file(str(path)).arrays['a']
    with pytest.raises(ValueError, match='a.pth: a cannot be read: its numbers are cut short'):
        np.asarray(array)
    pickled = next(data for member, data in members.items() if member.endswith('data.pkl'))
    assert b'K\x04\x85' in pickled
    with zipfile.ZipFile(path, 'w') as archive:
        for member, data in members.items():
            archive.writestr(member, data.replace(b'K\x04\x85', b'K\x05\x85'))
    with pytest.raises(ValueError, match='a is a tensor that lies outside of its storage'):
        read_file(str(path))
