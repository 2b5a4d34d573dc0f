"""The notebooks of colab/: their form, and all of their cells, with small settings."""

import base64
import io
import json
import os
import re
import sys

import pytest
from PIL import Image

from pdl_jax.storage.shipped import find_shipped
from tests import quick_compiler, tiny
from tests.test_documentation import list_tiny_flags

FOLDER = tiny.ROOT / 'colab'
NOTEBOOKS = sorted(path.name for path in FOLDER.glob('*.ipynb'))
# What each Python of a notebook does first. torchvision declares box operators, whose library needs
# the CUDA version it was built for. Commands ask to be told before a checkpoint names code.
_PRELUDE = """import sys, types
name = 'torchvision._meta_registrations'
sys.modules.setdefault(name, types.ModuleType(name))
from tests import toy_backbone
toy_backbone.allow_toy_backbone()
"""
# What a file may take: it is opened in a browser.
_MAX_BYTES = 400_000
_TIMEOUT_SECONDS = 600


def read_notebook(name):
    return json.loads((FOLDER / name).read_text())


def list_code(notebook):
    """Returns the cells with code, and the code of each."""
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    return cells, [''.join(cell['source']) for cell in cells]


def find_missing_weights(sources):
    """Names the weights of a notebook that do not come with the package; '' if all do."""
    names = re.findall(r"load\('(\w+)'\)", '\n'.join(sources))
    missing = [name for name in names if find_shipped(name) is None]
    return f'no weights of the name {missing[0]} come with the package' if missing else ''


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_the_first_cell_installs_on_colab_only(name):
    _, sources = list_code(read_notebook(name))
    assert re.search(r"if 'google\.colab' in sys\.modules:\n    %pip install -q git\+", sources[0])
    # Nothing else is installed, so nothing that Colab has is replaced.
    assert not any('pip install' in source for source in sources[1:])


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_pictures_are_kept(name):
    assert (FOLDER / name).stat().st_size < _MAX_BYTES
    cells, sources = list_code(read_notebook(name))
    if obstacle := find_missing_weights(sources):
        pytest.skip(obstacle)
    outputs = [output for cell in cells for output in cell['outputs']]
    assert not any(output['output_type'] == 'error' for output in outputs)
    pictures = [x['data']['image/png'] for x in outputs if 'image/png' in x.get('data', {})]
    assert len(pictures) == sum(source.endswith('.quantize()') for source in sources) > 0
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert len(image.convert('RGB').getcolors(1 << 24)) > 20
    text = ''.join(str(output) for output in outputs)
    assert not re.search(r'/(work|home|root)/|/tmp/(?!tmp)', text), (
        'a path of the machine that ran it'
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_cells_run(name, data, tmp_path, monkeypatch):
    nbclient = pytest.importorskip('nbclient')
    nbformat = pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    _, sources = list_code(read_notebook(name))
    if obstacle := find_missing_weights(sources):
        pytest.skip(obstacle)
    if 'import torch\n' in '\n'.join(sources):
        pytest.importorskip('torch')
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    flags = list_tiny_flags(data)
    if name == 'own_data.ipynb':
        # The data are those of the notebook.
        flags = {key: flag for key, flag in flags.items() if not key.startswith('data.')}
    (tmp_path / 'sitecustomize.py').write_text(_PRELUDE)
    environment = {
        'FLAGS': ' '.join(flag.replace(' ', '') for flag in flags.values()),
        'JAX_COMPILATION_CACHE_DIR': os.environ.get('PDL_JAX_TEST_CACHE', ''),
        'JAX_PLATFORMS': 'cpu',
        'PATH': f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}',
        'PYTHONPATH': os.pathsep.join([str(tmp_path), str(tiny.ROOT), *filter(None, sys.path)]),
        'TMPDIR': str(tmp_path),
        'XLA_FLAGS': quick_compiler.XLA_FLAGS,
    }
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    nbclient.NotebookClient(notebook, timeout=_TIMEOUT_SECONDS, kernel_name='python3').execute()
    assert all(cell['execution_count'] for cell in list_code(notebook)[0])
