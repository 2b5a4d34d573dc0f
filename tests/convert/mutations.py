"""Seeded mutations of files of weights, and what reading them does."""

import io
import pickle
import random
import signal
import sys
import time
import zipfile

import numpy as np

from pdl_jax.convert.readers import read_file

KINDS = ('pkl', 'npz', 'safetensors', 'zip', 'stream')
_INTERESTING = (
    b'\0',
    b'\xff',
    b'\x7f\xff\xff\xff',
    b'\xff' * 8,
    b'(',
    b')',
    b'R',
    b'.',
    b's',
    b'q',
)
_EVENTS = ('os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn')
_TIMEOUT_S = 10


def make_arrays():
    rng = np.random.default_rng(0)
    return {
        'backbone.conv1.weight': rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        'backbone.bn1.num_batches_tracked': np.array(7),
        'classifier.bias': np.arange(5, dtype=np.float16),
    }


def make_seeds():
    """Makes one small valid file of every kind; those of PyTorch only with PyTorch."""
    arrays = make_arrays()
    npz = io.BytesIO()
    np.savez_compressed(npz, **arrays)
    seeds = {
        'pkl': pickle.dumps({'model': arrays, 'epoch': 3, '__author__': 'x'}, 2),
        'npz': npz.getvalue(),
        'safetensors': _make_safetensors(arrays),
    }
    try:
        import torch
    except ImportError:
        return seeds
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    content = {'state_dict': tensors, 'epoch': 3, 'optimizer': {'state': {0: tensors}}}
    for name, is_zip in (('zip', True), ('stream', False)):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
        seeds[name] = stream.getvalue()
    return seeds


def _make_safetensors(arrays):
    entries, data = [], b''
    for key, value in arrays.items():
        code = {'float32': 'F32', 'float16': 'F16', 'int64': 'I64'}[str(value.dtype)]
        place = [len(data), len(data) + value.nbytes]
        shape = list(value.shape)
        entries.append(f'"{key}":{{"dtype":"{code}","shape":{shape},"data_offsets":{place}}}')
        data += value.tobytes()
    header = f'{{{",".join(entries)}}}'.encode()
    return len(header).to_bytes(8, 'little') + header + data


def mutate(data, seed, kind):
    """Mutates a file; of every second archive the members, so that its checksums are right."""
    rng = random.Random(seed)
    if kind not in ('npz', 'zip') or seed % 2:
        return _mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    chosen = rng.choice(sorted(members, key=lambda name: not name.endswith('data.pkl'))[:4])
    members[chosen] = _mutate_bytes(members[chosen], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _mutate_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice((1, 1, 2, 4, 8, 40)))
        action = rng.randrange(6)
        if action == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[place:end] = rng.randbytes(end - place)
        elif action == 2:
            data[place:place] = rng.choice(_INTERESTING)
        elif action == 3:
            del data[place:end]
        elif action == 4:
            data[place:place] = data[rng.randrange(len(data) + 1) :][: rng.choice((4, 40))]
        elif rng.random() < 0.3:
            del data[place:]
        else:
            data[place:end] = rng.choice(_INTERESTING)
        if not data:
            break
    return bytes(data)


class Watch:
    """Counts what must not happen while files are read: code that runs, modules that load."""

    def __init__(self):
        self.events = []
        self.is_on = False
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if not self.is_on:
            return
        # Python loads its own codecs when they are first used.
        is_code = event == 'exec' and not arguments[0].co_filename.startswith(sys.base_prefix)
        is_writing = event == 'open' and 'w' in str(arguments[1])
        if event in _EVENTS or is_code or is_writing:
            self.events.append((event, str(arguments)[:100]))


def read(path, watch):
    """Reads a file and all its arrays.

    Returns:
      '' for a file that is read, the message of a ValueError that names it, or 'UNNAMED ...'; and
      the seconds that it took.
    """

    def give_up(*_):
        raise TimeoutError('reading takes too long')

    old = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_TIMEOUT_S)
    start = time.monotonic()
    watch.is_on = True
    try:
        for array in read_file(str(path)).arrays.values():
            np.asarray(array)
        result = ''
    except ValueError as error:
        result = str(error)
        if str(path) not in result or '\n' in result:
            result = f'UNNAMED {result}'
    except BaseException as error:
        result = f'UNNAMED {type(error).__name__}: {error}'
    finally:
        watch.is_on = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    return result, time.monotonic() - start
