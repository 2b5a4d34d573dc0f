"""Files that hold no weights, or in no form that is read: what they are, and what to do."""

import json
import re
import shlex
import zipfile
from collections.abc import Sequence

from etils import epath

_HEAD_BYTES = 2**16
# Ends a zip archive; a comment of at most 2**16 bytes may follow.
_ZIP_END = b'PK\x05\x06'
_TAIL_BYTES = 2**16 + 22
_AGAIN = 'download it again'
_KERAS = (
    "load it with Keras and write its weights by name, numpy.savez('weights.npz', "
    '**{w.path: w.numpy() for w in model.weights})'
)
# By the first bytes.
_FORMATS = (
    (b'version https://git-lfs.github.com/spec', 'a Git LFS pointer, which stands for the file '
     'itself: run `git lfs pull` in its repository, or download it by its address'),
    (b'\x1f\x8b', 'a gzip archive: unpack it with `tar xzf` or `gunzip`'),
    (b'BZh', 'a bzip2 archive: unpack it with `tar xjf` or `bunzip2`'),
    (b'\xfd7zXZ', 'an xz archive: unpack it with `tar xJf` or `unxz`'),
    (b'7z\xbc\xaf', 'a 7-Zip archive: unpack it'),
    (b'Rar!', 'a RAR archive: unpack it'),
    (b'\x28\xb5\x2f\xfd', 'a Zstandard archive: unpack it with `unzstd`'),
    (b'\x89HDF', f'an HDF5 file, as Keras writes it: {_KERAS}'),
    (b'\x93NUMPY', 'a single NumPy array without a name: write an .npz with numpy.savez'),
    (b'GGUF', 'a GGUF file, which holds language models'),
    (b'%PDF', 'a PDF document'),
    (b'\x89PNG', 'a PNG image'),
    (b'\xff\xd8\xff', 'a JPEG image'),
    (b'GIF8', 'a GIF image'),
)  # fmt: skip
_WEB_PAGE = re.compile(rb'<(!doctype\s+html|html|head|body|script|meta)\b', re.IGNORECASE)
_ERROR_PAGE = re.compile(rb'<(\?xml|error)\b', re.IGNORECASE)


def describe_folder(folder: epath.Path) -> str:
    """Words what a folder is in the place of a file of weights."""
    names = sorted(path.name for path in folder.iterdir())
    if 'checkpoints' in names:
        return 'is the directory of a run, whose checkpoints need no conversion'
    if 'saved_model.pb' in names:
        return (
            "is TensorFlow's SavedModel, a program: give the prefix of the checkpoint that it was "
            'made from'
        )
    prefixes = _list_prefixes(names)
    if prefixes:
        return (
            f'is a directory of {len(prefixes)} checkpoints: give the prefix of one, '
            f'{folder / prefixes[0]}'
        )
    files = [n for n in names if n.endswith(('.safetensors', '.pth', '.pt', '.bin', '.pkl'))]
    example = f', such as {folder / files[0]}' if files else ''
    return f'is a directory: give a file{example}'


def find_prefix(folder: epath.Path) -> str:
    """Finds the prefix of the only TensorFlow checkpoint in a folder, such as DeepLab2 publishes.

    Returns:
      The prefix; '' for anything else.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    prefixes = _list_prefixes(names)
    is_other = 'checkpoints' in names or 'saved_model.pb' in names
    return '' if is_other or len(prefixes) != 1 else str(folder / prefixes[0])


def _list_prefixes(names: Sequence[str]) -> list[str]:
    return [name.removesuffix('.index') for name in names if name.endswith('.index')]


def describe_foreign(file: epath.Path, head: bytes, size: int) -> str:
    """Words what a file is that holds no weights, and the remedy; '' if it may hold some.

    Args:
      file: its path.
      head: its first bytes, see `read_head`.
      size: number of its bytes.
    """
    name = file.name
    if name.endswith('.index') or '.data-0' in name:
        prefix = re.sub(r'\.(index|data-\d.*)$', '', str(file))
        return f'a part of a TensorFlow checkpoint: give its prefix, --input={prefix}'
    if not size:
        return f'empty: {_AGAIN}'
    if not head.strip(b'\0'):
        return f'full of zeros, as after an interrupted download: {_AGAIN}'
    for start, kind in _FORMATS:
        if head.startswith(start):
            return kind
    if head[257:262] == b'ustar':
        return 'a tar archive: unpack it with `tar xf`'
    if head[4:8] == b'TFL3':
        return 'a TensorFlow Lite program: give the checkpoint that it was made from'
    if head.startswith(b'PK\x03\x04'):
        return _describe_zip(file, size)
    return _describe_text(head)


def read_head(file: epath.Path) -> bytes:
    """Reads the first bytes of a file."""
    with file.open('rb') as stream:
        return stream.read(_HEAD_BYTES)


def list_names(file: epath.Path) -> list[str]:
    """Lists the files in a zip archive; none if it is damaged, which its reader reports."""
    try:
        with file.open('rb') as stream, zipfile.ZipFile(stream) as archive:
            return archive.namelist()
    except Exception:  # A damaged archive can raise anything.
        return []


def _describe_text(head: bytes) -> str:
    """Words what a text is; '' for anything else."""
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n')
    if _WEB_PAGE.match(text) or (text.startswith(b'<!--') and _WEB_PAGE.search(text)):
        title = re.search(rb'<title[^>]*>([^<]*)', text, re.IGNORECASE)
        about = f' ({_show(title[1])})' if title and title[1].strip() else ''
        return (
            f'a web page{about}, not weights: the link is dead, asks for a login or leads to a '
            f'page about the file; open it in a browser and download the file itself'
        )
    if _ERROR_PAGE.match(text):
        return f'an error message of a server ({_show(text)}): {_AGAIN}'
    if text[:1] in (b'{', b'[') and _is_json(text):
        if b'"weight_map"' in text:
            return 'an index of weights that lie in several files: merge them into one'
        return f'a JSON document, not weights ({_show(text)}): {_AGAIN}'
    is_text = all(32 <= byte < 127 or byte in b'\t\r\n' for byte in text[:512])
    if is_text and len(text) > 8 and (b' ' in text or b':' in text) and not _is_old_pickle(text):
        return f'a text, not weights ({_show(text)}): {_AGAIN}'
    return ''


def _is_json(text: bytes) -> bool:
    if len(text) >= _HEAD_BYTES - 16:
        return bool(re.match(rb'[{\[]\s*["{\[\d]', text))
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_old_pickle(text: bytes) -> bool:
    # Pickles of protocol 0 are text: marks, then names and values by line.
    return bool(re.match(rb'[(\]}cdlp]', text)) and text.rstrip().endswith(b'.')


def _describe_zip(file: epath.Path, size: int) -> str:
    """Words what a zip archive is; '' for one of PyTorch or of NumPy."""
    with file.open('rb') as stream:
        stream.seek(max(0, size - _TAIL_BYTES))
        if _ZIP_END not in stream.read():
            return (
                f'the beginning of a zip archive, as PyTorch and NumPy write them, cut short '
                f'after {size} bytes: {_AGAIN}'
            )
    names = list_names(file)
    parts = {name.partition('/')[2] for name in names}
    quoted = shlex.quote(str(file))
    if 'constants.pkl' in parts or any(part.startswith('code/') for part in parts):
        return (
            f'a TorchScript archive, a program with weights: write these alone with PyTorch, '
            f'python -c "import torch, sys; torch.save(torch.jit.load(sys.argv[1], '
            f"map_location='cpu').state_dict(), 'weights.pth')\" {quoted}"
        )
    if any(part.startswith(('models/', 'archive_format')) for part in (*parts, *names)) and any(
        name.endswith('.json') for name in names
    ):
        return 'a program of torch.export: write the state dict of its module with torch.save'
    if 'model.weights.h5' in names:
        return f'a Keras archive: {_KERAS}'
    is_known = 'data.pkl' in (*names, *parts) or any(name.endswith('.npy') for name in names)
    if names and not is_known:
        shown = ', '.join(_show(name.encode()) for name in names[:3])
        return f'a zip archive of other files ({shown}): unpack it, and give the file of weights'
    return ''


def _show(text: bytes) -> str:
    """Shows the beginning of a text on one line."""
    words = ' '.join(text[:200].decode('utf-8', 'replace').split())
    shown = ''.join(c if c.isprintable() else '?' for c in words)
    return shown if len(shown) <= 60 else f'{shown[:60]}...'
