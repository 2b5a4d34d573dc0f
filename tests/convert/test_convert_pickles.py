"""Pickles that want time, memory or code get none of them."""

import pickle
import resource
import sys
import time
import zipfile

import numpy as np
import pytest

from pdl_jax.convert import pickles
from pdl_jax.convert.readers import read_file

PROTOCOL = b'\x80\x02'
NESTED = b'K\x01\x85q\x00' + b'h\x00h\x00\x86q\x00' * 60
TEXT = pickle.BINUNICODE + (4).to_bytes(4, 'little') + b'text'


def call(module, name, *arguments):
    return b'c' + f'{module}\n{name}\n'.encode() + b'(' + b''.join(arguments) + b'tR'


# Every one of them takes exponential time or memory when it is hashed, compared or shown.
BOMBS = {
    'key': b'}' + NESTED + b'K\x01s.',
    'keys': b'}(' + NESTED + b'K\x01u.',
    'dict': b'(' + NESTED + b'K\x01d.',
    'set': b'\x8f(' + NESTED + b'\x90.',
    'frozenset': b'(' + NESTED + b'\x91.',
    'ordered': call('collections', 'OrderedDict', b'](' + NESTED + b'K\x01\x86e') + b'.',
    'counter': call('collections', 'Counter', b'}' + NESTED + b'K\x01s') + b'.',
    'encode': call('_codecs', 'encode', NESTED, TEXT) + b'.',
    'dtype': b'}'
    + TEXT
    + call('numpy._core.multiarray', 'scalar', call('numpy', 'dtype', NESTED), b'U\x01x')
    + b's.',
    'shape': b'}' + TEXT + call('numpy._core.numeric', '_frombuffer', b'U\x01x',
        call('numpy', 'dtype', b"U\x02f4"), NESTED, b'U\x01C') + b's.',
    'state': b'}' + TEXT + call('numpy', 'dtype', b'U\x02f4') + NESTED + b'bs.',
    'name': NESTED + NESTED + b'\x93.',
    'function': NESTED + b')R.',
    'storage': NESTED + b'Q.',
    'tensor': b'}' + TEXT + call('torch._utils', '_rebuild_tensor_v2', *[NESTED] * 6) + b's.',
    'options': b'}' + TEXT + b'c__main__\nOptions\n)\x81}' + NESTED + b'K\x01sbs.',
    'memo': b'K\x01r\xff\xff\xff\x7f.',
    'bytearray': b'\x96' + (2**40).to_bytes(8, 'little') + b'.',
    'frame': b'\x95' + (2**62).to_bytes(8, 'little') + b'.',
    'digits': b'I' + b'9' * 100_000 + b'\n.',
    'integer': b'\x8b' + (2**31 - 1).to_bytes(4, 'little') + b'1.',
    'extension': b'\x82\x01.',
    'lists': b']q\x00(' + b'K\x01' * 50_000 + b'e' + call('collections', 'OrderedDict', b'h\x00')
    * 5000 + b'.',
}  # fmt: skip


def write_torch(path, data):
    """Writes the archive of `torch.save` around a pickle."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('w/data.pkl', data)
        archive.writestr('w/byteorder', b'little')
        archive.writestr('w/data/0', bytes(8))


@pytest.mark.parametrize('suffix', ['.pkl', '.pth'])
@pytest.mark.parametrize('bomb', BOMBS)
def test_bombs_end_at_once(bomb, suffix, tmp_path):
    path = tmp_path / f'bomb{suffix}'
    data = PROTOCOL + BOMBS[bomb]
    path.write_bytes(data) if suffix == '.pkl' else write_torch(path, data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(ValueError, match='bomb') as failure:
        read_file(str(path))
    assert time.process_time() - start < 5
    # In kB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert len(str(failure.value)) < 2000


def test_bombs_beside_the_weights_do_no_harm(tmp_path):
    """Options of any class may lie beside them; none of it is built."""
    weights = pickle.dumps({'a': np.zeros(2, np.float32)}, 2)[2:-1]
    entry = TEXT + b'}' + NESTED + b'K\x01s'
    model = pickle.BINUNICODE + (5).to_bytes(4, 'little') + b'model'
    (tmp_path / 'a.pkl').write_bytes(PROTOCOL + b'}(' + model + weights + entry + b'u.')
    contents = read_file(str(tmp_path / 'a.pkl'))
    assert list(contents.arrays) == ['a'] and contents.others == ('text',)


def test_steps_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, '_MAX_STEPS', 1000)
    (tmp_path / 'a.pkl').write_bytes(PROTOCOL + b'N0' * 600 + b'N.')
    with pytest.raises(ValueError, match='takes more than 1000 steps'):
        read_file(str(tmp_path / 'a.pkl'))


def test_no_module_is_imported(tmp_path):
    assert 'this' not in sys.modules
    (tmp_path / 'a.pkl').write_bytes(PROTOCOL + b'}' + TEXT + call('this', 's') + b's.')
    with pytest.raises(ValueError, match=r'this\.s'):
        read_file(str(tmp_path / 'a.pkl'))
    assert 'this' not in sys.modules


@pytest.mark.parametrize('protocol', range(6))
def test_plain_values_are_those_of_pickle(protocol):
    import io

    values = {
        'a': [1, -2, 2**40, 2**80, 1.5, True, False, None, 'text', 'é', b'bytes', bytearray(b'b')],
        'b': (((), ('x',)), {'c': {}}),
        3: [[]],
    }
    values['a'].append(values['b'])
    data = pickle.dumps(values, protocol)
    stream = io.BytesIO(data + b'rest')
    loaded = pickles.load_pickle(stream, len(data))
    if protocol < 5:
        # A bytearray is an object of a class in older protocols.
        values['a'][11] = loaded['a'][11]
    if protocol < 3:
        values['a'][10] = 'bytes'
    assert loaded == values
    assert stream.read() == b'rest'
