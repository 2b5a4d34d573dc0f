"""Exports: each format equals the predictor, and nothing is left of one that does not."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.commands.config_file import load_config
from pdl_jax.convert.write import write_checkpoint
from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.categories import Category
from pdl_jax.data.records import open_split
from pdl_jax.experiment import Experiment
from pdl_jax.prediction.export import comparison
from pdl_jax.prediction.export import export as export_module
from pdl_jax.prediction.export.comparison import (
    Agreement,
    check_agreement,
    check_narrow_agreement,
    match_labels,
)
from pdl_jax.prediction.export.export import FORMATS, ExportOptions, export
from pdl_jax.prediction.export.program import OUTPUTS
from pdl_jax.prediction.export.weights import restore_variables, store_variables
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.runtime.sharding import make_mesh
from tests import tiny, toy_backbone
from tests.systems.toy_system import CONFIG, color_system

SPEC = DatasetSpec(
    'two', (Category(0, 'a', False, (0, 0, 0)), Category(1, 'b', False, (9, 9, 9))), 0, 255, 1000
)
# What each format is written and read with, besides JAX.
NEEDED = {
    'stablehlo': ('flatbuffers',),
    'onnx': ('onnx', 'onnxruntime'),
    'openvino': ('onnx', 'openvino'),
    'savedmodel': ('tensorflow',),
}


def need(form):
    for name in NEEDED[form]:
        pytest.importorskip(name, reason=f'{form} needs {name}: pip install "pdl_jax[export]"')


@pytest.fixture(scope='module')
def load_color(tmp_path_factory):
    """Loads a predictor of the system of colours, whose programs compile in no time."""
    path = tmp_path_factory.mktemp('color') / 'color.py'
    path.write_text(CONFIG)
    with color_system():
        config = load_config(str(path))
        config.update({'data': {'path': 'unused'}})
        experiment = Experiment.from_config(config)
        variables = experiment.make_system(SPEC.label_format).init(jax.random.key(0))
        variables['params']['bias'] = np.array([0.0, 0.1], np.float32)

    def load(dtype=None):
        system = dataclasses.replace(experiment.system, dtype=dtype or 'auto')
        changed = dataclasses.replace(experiment, system=system)
        mesh = make_mesh(devices=tiny.one_device())
        return Predictor(changed, SPEC, variables, checkpoint='', mesh=mesh)

    return load


@pytest.fixture(scope='module')
def checkpoint(data, tmp_path_factory):
    """An untrained Panoptic-DeepLab of a toy backbone."""
    workdir = tmp_path_factory.mktemp('run')
    experiment = tiny.make_experiment(
        data,
        model__backbone=toy_backbone.NAME,
        postprocess__center_threshold=0.0,
        postprocess__min_area_px=3,
        postprocess__stuff_area_limit_px=20,
    )
    spec = open_split(data, 'val').spec
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == 'kernel':
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        return np.full(leaf.shape, path[-1].key in ('scale', 'var'))

    system = experiment.make_system(spec.label_format)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw(path, leaf).astype(np.float32), abstract_variables(system)
    )
    write_checkpoint(
        str(workdir), variables, {'config': experiment.to_json(), 'dataset': spec.to_dict()}
    )
    return workdir


@pytest.mark.parametrize('form', FORMATS)
def test_a_system_of_the_users_is_exported(form, load_color, tmp_path):
    need(form)
    options = ExportOptions(form, (24, 32), batch_size=2)
    agreement = export(load_color, options, str(tmp_path / 'out'), say=lambda _: None)
    assert agreement.equal == 1 and agreement.num_images == 4
    about = json.loads((tmp_path / 'out' / 'description.json').read_text())
    assert about['outputs'] == list(OUTPUTS) and about['classes']['1']['name'] == 'b'
    assert (about['height_px'], about['width_px'], about['batch_size']) == (24, 32, 2)


@pytest.mark.parametrize(
    ('form', 'flags'),
    [
        ('stablehlo', ('--batch_size=any', '--any_size')),
        ('onnx', ('--batch_size=2',)),
        ('onnx', ('--batch_size=any', '--any_size', '--dtype=int8')),
        ('openvino', ('--batch_size=any',)),
        ('openvino', ('--dtype=bfloat16',)),
        ('savedmodel', ('--dtype=bfloat16',)),
    ],
)
def test_the_command_exports_panoptic_deeplab(form, flags, checkpoint, tmp_path, capsys):
    need(form)
    output = tmp_path / 'out'
    flags = [*flags, f'--output={output}', '--height_px=48', '--width_px=64']
    main(['export', f'--checkpoint={checkpoint}', f'--format={form}', *flags])
    said = capsys.readouterr().out
    assert 'of pixels equal' in said and f'wrote {output}' in said
    names = {path.name for path in output.iterdir()}
    assert 'description.json' in names and len(names) >= 2
    assert not [path for path in tmp_path.iterdir() if path != output]


class WrongFormat(types.ModuleType):
    """A format whose programs label everything void."""

    IS_EXACT, IS_OPAQUE = False, False

    @staticmethod
    def write(program, batch_size, folder, platform):
        (folder / 'model').write_bytes(b'')

    @staticmethod
    def load(folder):
        def run(images):
            panoptic = np.full(images.shape[:3], 255_000, np.int32)
            rows = np.zeros((len(images), 1), np.int32)
            names = {name: rows for name in OUTPUTS}
            return {**names, 'panoptic': panoptic, 'segment_valid': rows > 0}

        return run


def test_nothing_is_left_of_an_export_that_disagrees(load_color, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module.importlib, 'import_module', lambda _: WrongFormat('wrong'))
    options = ExportOptions('onnx', (16, 16))
    with pytest.raises(RuntimeError, match='disagrees with the predictor .0.000% of pixels'):
        export(load_color, options, str(tmp_path / 'out'), say=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_an_output_with_files_is_refused(load_color, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='holds files: choose another --output'):
        export(load_color, ExportOptions('onnx'), str(tmp_path))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'format': 'tflite'}, 'format .=.tflite.. must be one of'),
        ({'dtype': 'float16'}, 'dtype .=.float16.. must be one of'),
        ({'batch_size': 0}, 'batch_size .=0. must be positive'),
        ({'size': (0, 4)}, 'size .=.0, 4.. must be positive'),
        ({'platform': 'gpu'}, 'platform .=.gpu.. must be one of'),
    ],
)
def test_options_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**{'format': 'onnx', **fields})


def test_labels_match_up_to_the_numbering_of_instances():
    one = np.array([[1001, 1001, 1002, 0], [1001, 1002, 1002, 2000]])
    other = np.array([[1002, 1002, 1001, 0], [1001, 1001, 1001, 3000]])
    assert match_labels(one, other, 1000) == {(1001, 1002): 2, (1002, 1001): 3, (0, 0): 1}


def test_an_agreement_must_be_close():
    check_agreement(Agreement(2, 1, 0.9995, 0.0), is_exact=False)
    with pytest.raises(RuntimeError, match='needed: identical maps'):
        check_agreement(Agreement(2, 1, 0.9995, 0.0), is_exact=True)
    with pytest.raises(RuntimeError, match='needed: at least 99.9% of equal pixels'):
        check_agreement(Agreement(2, 1, 0.998, 0.0), is_exact=False)
    with pytest.raises(RuntimeError, match='scores'):
        check_agreement(Agreement(2, 2, 1.0, 0.1), is_exact=True)


def test_bfloat16_may_differ_as_much_as_the_predictor_itself():
    check_narrow_agreement(Agreement(2, 0, 0.991, 0.02), Agreement(2, 2, 1.0, 0.0))
    check_narrow_agreement(Agreement(2, 0, 0.93, 0.05), Agreement(2, 0, 0.96, 0.03))
    with pytest.raises(RuntimeError, match='at least 92.0% of equal pixels'):
        check_narrow_agreement(Agreement(2, 0, 0.91, 0.0), Agreement(2, 0, 0.96, 0.0))
    with pytest.raises(RuntimeError, match='needed: at most 0.02'):
        check_narrow_agreement(Agreement(2, 0, 0.995, 0.03), Agreement(2, 0, 0.999, 0.005))


def test_a_table_must_describe_its_map():
    found = {
        'panoptic': np.array([[5, 5, 7]]),
        'segment_valid': np.array([True, False]),
        'segment_label': np.array([5, 0]),
        'segment_area': np.array([3, 0]),
    }
    with pytest.raises(RuntimeError, match='gives segment 5 3 pixels, and its map has 2'):
        comparison._check_table(found)


def test_kernels_are_stored_narrow_and_widened():
    rng = np.random.default_rng(0)
    variables = {
        'kernel': rng.normal(size=(3, 3, 4, 5)).astype(np.float32),
        'bias': rng.normal(size=5).astype(np.float32),
    }
    variables['kernel'][..., 2] = 0
    for dtype, error in (('float32', 0), ('bfloat16', 2**-8), ('int8', 1 / 254)):
        stored = store_variables(variables, dtype)
        restored = restore_variables(stored)
        largest = np.abs(variables['kernel']).max(axis=(0, 1, 2))
        assert np.all(np.abs(restored['kernel'] - variables['kernel']) <= error * largest + 1e-7)
        np.testing.assert_array_equal(restored['bias'], variables['bias'])
        kernel = stored['kernel'].values if dtype == 'int8' else stored['kernel']
        assert kernel.dtype.itemsize == {'float32': 4, 'bfloat16': 2, 'int8': 1}[dtype]
