"""Who may import whom, and what importing the package must not do.

The table lists, for each module or package below pdl_jax, the modules it may import; a package
stands for everything in it. The longest matching row counts.
"""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

_LEAVES = ('typing', 'ops')
ALLOWED = {
    'typing': (),
    'ops': ('typing', 'ops'),
    'runtime': ('typing', 'ops.platforms', 'runtime'),
    # Functions of the user's, for whoever a configuration can name them to.
    'runtime.own_code': ('typing',),
    'storage': ('typing', 'runtime', 'storage'),
    'storage.paths': (),
    'models': (*_LEAVES, 'models', 'runtime.own_code'),
    'preprocess': (*_LEAVES, 'preprocess'),
    'losses': (*_LEAVES, 'losses'),
    'postprocess': (*_LEAVES, 'postprocess'),
    'metrics': (*_LEAVES, 'metrics'),
    'presets': ('typing', 'models', 'presets'),
    # The only place where networks, targets, losses and post-processing meet.
    'systems': (
        *_LEAVES,
        'losses',
        'models',
        'postprocess',
        'preprocess',
        'presets',
        'runtime.own_code',
        'systems',
    ),
    # Label maps as pictures, for whoever shows some.
    'systems.drawing': ('typing', 'systems.drawing'),
    'experiment': (
        'typing',
        'experiment',
        'losses.distillation',
        'postprocess.crf_options',
        'preprocess',
        'presets',
        'runtime.mesh_options',
        'systems',
    ),
    'data': ('typing', 'ops.rounding', 'runtime', 'storage', 'data'),
    'prediction': (
        *_LEAVES,
        'data',
        'experiment',
        'prediction',
        'postprocess.crf_options',
        'preprocess',
        'runtime',
        'storage',
        'systems.drawing',
        'systems.refinement',
        'systems.system',
    ),
    'evaluation': (
        *_LEAVES,
        'data',
        'evaluation',
        'experiment',
        'metrics',
        'prediction',
        'runtime',
        'storage',
        'systems.computation',
        'systems.drawing',
        'systems.system',
    ),
    # Files of any program are scored without JAX.
    'evaluation.analysis': ('evaluation.analysis',),
    'evaluation.page': (
        'evaluation.analysis',
        'evaluation.page',
        'evaluation.report',
        'storage',
    ),
    'evaluation.files': (
        'data',
        'evaluation.analysis',
        'evaluation.files',
        'evaluation.gallery',
        'evaluation.report',
        'metrics',
        'runtime',
        'storage',
        'typing',
    ),
    'training': (
        *_LEAVES,
        'data',
        'evaluation',
        'experiment',
        'prediction',
        'preprocess',
        'runtime',
        'storage',
        'losses.distillation',
        'systems.distillation',
        'systems.system',
        'training',
    ),
    'convert': (
        'typing',
        'convert',
        'data',
        'experiment',
        'models',
        'ops.platforms',
        'presets',
        'storage',
        'systems',
    ),
    # 3-D boxes label no pixels: a subject of its own beside the systems.
    'proposals': (
        *_LEAVES,
        'data',
        'evaluation.page',
        'proposals',
        'runtime',
        'storage',
        'systems.drawing',
    ),
    # It trains many networks, as training does one, and reports on them.
    'search': (
        *_LEAVES,
        'data',
        'evaluation.page',
        'experiment',
        'losses.distillation',
        'metrics',
        'models',
        'prediction',
        'runtime',
        'search',
        'storage',
        'systems.distillation',
        'systems.pixel_grid',
        'systems.system',
        'training',
    ),
    # A leaf: it analyses compiled programs, whatever they compute.
    'planning': ('typing', 'ops.rounding', 'planning', 'storage.json_files'),
    'main': ('commands',),
    '__main__': ('commands',),
}
# Commands stand above everything; nothing imports them.
ALLOWED['commands'] = tuple(row for row in ALLOWED if row not in ('main', '__main__')) + (
    'commands',
)
# The package itself looks the predictor up on first use.
ALLOWED[''] = ('prediction.predictor',)
# (importer, imported) pairs that no row may ever allow.
NEVER = (
    ('postprocess', 'models'),
    ('metrics', 'postprocess'),
    ('training', 'models'),
    ('training', 'systems'),
    ('evaluation', 'systems'),
    ('prediction', 'systems'),
    ('search', 'systems'),
)
# What configurations may import, whole names.
CONFIGS_MAY_IMPORT = ('ml_collections', 'configs')
# Large and optional: inside functions, and only where files of other frameworks are read or
# written.
# Trackers of runs are found by their names, and not imported.
TRACKERS = ('wandb', 'mlflow')
_RUNTIMES = ('onnx', 'onnxruntime', 'openvino')
OPTIONAL = ('tensorflow', 'torch', 'tensorboard', 'gradio', 'av', *_RUNTIMES, *TRACKERS)
OPTIONAL_ONLY_IN = ('convert', 'data', 'prediction.export')
# Only the door turns flags and ConfigDicts into an experiment.
DOOR_LIBRARIES = ('ml_collections', 'absl.flags', 'absl.app')
DOOR = ('commands', 'experiment')
# Grain's workers read absl flags, which nobody else parses in a notebook.
READS_FLAGS = ('data.pipeline',)
VAGUE_NAMES = ('utils', 'helpers', 'common')


def is_under(name, prefix):
    return name == prefix or name.startswith(prefix + '.')


def find_imports(tree):
    """Yields (line, dotted name, whether inside of a function); `from a import b` counts as a.b."""

    def visit(node, is_inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, alias.name, is_inside
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    dots = '.' * child.level
                    yield child.lineno, f'{dots}{child.module or ""}.{alias.name}', is_inside
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, is_inside or is_function)

    return list(visit(tree, False))


def check_module(module, source):
    """The violations of one module, given its dotted name below pdl_jax ('' is the package)."""
    faults = []
    rows = [row for row in ALLOWED if is_under(module, row) or module == row]
    if module and not rows:
        faults.append(f'{module}: no row: add one to the table in tests/test_imports.py')
    allowed = ALLOWED[max(rows, key=len)] if rows else ()
    if module.rpartition('.')[2] in VAGUE_NAMES:
        faults.append(f'{module}: name it after what it holds')
    for line, name, is_inside in find_imports(ast.parse(source)):
        where = f'{module}:{line}'
        top = name.partition('.')[0]
        if not top:
            faults.append(f'{where}: relative import {name}: write it absolute')
        elif top in OPTIONAL and not any(is_under(module, p) for p in OPTIONAL_ONLY_IN):
            faults.append(f'{where}: {top} only in {" and ".join(OPTIONAL_ONLY_IN)}')
        elif top in OPTIONAL and not is_inside:
            faults.append(f'{where}: {top} only inside of functions')
        elif any(is_under(name, library) for library in DOOR_LIBRARIES):
            if not any(is_under(module, door) for door in (*DOOR, *READS_FLAGS)):
                faults.append(f'{where}: {name} only in {" and ".join(DOOR)}')
        elif top == 'configs' and is_under(module, 'commands.config_file'):
            continue
        elif top in ('configs', 'tests', 'benchmarks', 'launch'):
            faults.append(f'{where}: the package must not import {name}')
        elif top == 'pdl_jax' and name != 'pdl_jax':
            target = name.removeprefix('pdl_jax.')
            if not target.startswith('__') and not any(is_under(target, p) for p in allowed):
                faults.append(f'{where}: must not import {target}')
    return faults


def check_config(name, source):
    """The violations of one file of configs/."""
    return [
        f'configs.{name}:{line}: must not import {imported}'
        for line, imported, _ in find_imports(ast.parse(source))
        if not any(is_under(imported, allowed) for allowed in CONFIGS_MAY_IMPORT)
    ]


def list_modules():
    """(dotted name below pdl_jax, path) of every module that exists."""
    package = ROOT / 'pdl_jax'
    for path in sorted(package.rglob('*.py')):
        parts = path.relative_to(package).with_suffix('').parts
        yield '.'.join(part for part in parts if part != '__init__'), path


def test_modules_import_only_what_lies_below_them():
    modules = list(list_modules())
    assert len(modules) > 5
    faults = [fault for module, path in modules for fault in check_module(module, path.read_text())]
    assert not faults, '\n'.join(faults)


def test_configs_import_only_ml_collections():
    paths = sorted((ROOT / 'configs').glob('*.py'))
    faults = [fault for path in paths for fault in check_config(path.stem, path.read_text())]
    assert not faults, '\n'.join(faults)


@pytest.mark.parametrize(
    ('module', 'source', 'fault'),
    [
        ('postprocess.merge', 'from pdl_jax.models import heads', 'must not import models.heads'),
        ('metrics.semantic_iou', 'import pdl_jax.postprocess.merge', 'must not import postprocess'),
        ('ops.resize', 'from pdl_jax import training', 'must not import training'),
        ('evaluation.evaluator', 'from pdl_jax.main import main', 'must not import main'),
        ('prediction.bulk', 'from pdl_jax.training import step', 'must not import training.step'),
        ('training.step', 'from pdl_jax.systems import deeplab', 'must not import systems.deeplab'),
        ('evaluation.files.x', 'from pdl_jax.ops import segments', 'must not import ops.segments'),
        ('planning.hlo', 'import pdl_jax.training.program', 'must not import training.program'),
        ('training.loop', 'from pdl_jax.commands import train', 'must not import commands.train'),
        ('training.loop', 'from ml_collections import ConfigDict', 'only in commands'),
        ('data.records', 'from absl import flags', 'absl.flags only in commands'),
        (
            'data.pipeline',
            'def f():\n  from pdl_jax.losses.panoptic_deeplab import x',
            ':2: must not import losses',
        ),
        ('training.step', 'from .losses import x', 'relative import .losses.x'),
        ('data.records', 'import tensorflow as tf', 'tensorflow only inside of functions'),
        ('convert.a', 'if True:\n  from torch import nn', ':2: torch only inside of functions'),
        ('data.a', 'class A:\n  import tensorboard', ':2: tensorboard only inside'),
        ('evaluation.a', 'def f():\n  import torch', 'torch only in convert and data'),
        ('ops.utils', '', 'name it after what it holds'),
        ('losses.a', 'from configs import coco', 'must not import configs.coco'),
        ('unheard_of', '', 'add one to the table'),
        ('', 'from pdl_jax.training.loop import train', 'must not import train'),
    ],
)
def test_checker_finds_violations(module, source, fault):
    faults = check_module(module, source)
    assert len(faults) == 1 and fault in faults[0]


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('data.records', 'import tensorflow_datasets\ndef f():\n  import tensorflow.compat.v1'),
        ('prediction.a', 'from pdl_jax.data.images import decode_image'),
        ('prediction.a', 'from pdl_jax.data import images'),
        ('data.scenes.dataset', 'from pdl_jax import typing'),
        ('commands.train', 'def f():\n  from absl import flags'),
        ('data.prepare', 'from absl import logging'),
        ('typing', 'import jax, pdl_jax\nfrom pdl_jax import __version__'),
    ],
)
def test_checker_passes_what_is_allowed(module, source):
    assert check_module(module, source) == []


def test_checker_finds_violations_in_configs():
    source = (
        'from ml_collections import ConfigDict\nfrom configs import common\nimport ml_collections'
    )
    assert check_config('good', source) == []
    for bad in ('import jax', 'import configs_of_others', 'from pdl_jax import config'):
        assert len(check_config('bad', bad)) == 1


def test_table_keeps_to_the_design():
    for row, allowed in ALLOWED.items():
        doors = {'main', '__main__'} | ({'commands'} - {row})
        assert row in ('main', '__main__') or not doors & set(allowed), row
    for importer, imported in NEVER:
        assert imported not in ALLOWED[importer], f'{importer} must never import {imported}'


def test_table_has_no_cycles():
    # By folder: what a row of a module allows counts for its folder.
    below = {}
    for row, allowed in ALLOWED.items():
        folder = row.partition('.')[0]
        below.setdefault(folder, set()).update(name.partition('.')[0] for name in allowed)

    def reach(folder, path):
        assert folder not in path, ' -> '.join((*path, folder))
        for name in below[folder] - {folder}:
            reach(name, (*path, folder))

    for folder in below:
        reach(folder, ())


def test_importing_loads_no_framework_and_no_device():
    entries = [name for name, _ in list_modules() if name not in ('', '__main__')]
    code = f"""
import sys
import pdl_jax
for module in ('jax', 'numpy'):
    assert module not in sys.modules, f'importing pdl_jax imports {{module}}'
import importlib
for name in {entries!r}:
    importlib.import_module('pdl_jax.' + name)
    for module in {OPTIONAL!r}:
        assert module not in sys.modules, f'importing pdl_jax.{{name}} imports {{module}}'
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized(), f'importing pdl_jax.{{name}} starts a device'
"""
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_requirements_name_what_the_package_imports():
    # Distributions whose import name is another.
    names = {
        'absl': 'absl-py',
        'PIL': 'pillow',
        'orbax': 'orbax-checkpoint',
        'tensorflow_datasets': 'tensorflow-datasets',
    }
    text = (ROOT / 'requirements.txt').read_text()
    lines = [line.partition('#')[0].strip() for line in text.splitlines()]
    required = {
        re.split(r'[\[<>=~! ]', line)[0].lower().replace('_', '-') for line in lines if line
    }
    imported = {
        name.partition('.')[0]
        for _, path in list_modules()
        for _, name, is_inside in find_imports(ast.parse(path.read_text()))
        if not is_inside
    }
    imported -= set(sys.stdlib_module_names) | {'pdl_jax'}
    needed = {names.get(name, name).lower().replace('_', '-') for name in imported}
    assert needed <= required, f'missing in requirements.txt: {sorted(needed - required)}'
