"""A predictor that is deleted takes its variables and programs with it."""

import gc
import weakref

import jax
import numpy as np
import pytest

from pdl_jax.commands.config_file import load_config
from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.categories import Category
from pdl_jax.experiment import Experiment
from pdl_jax.prediction import programs as programs_module
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.programs import Programs
from pdl_jax.runtime.sharding import make_mesh
from tests import tiny
from tests.systems.toy_system import CONFIG, color_system

SPEC = DatasetSpec(
    'two', (Category(0, 'a', False, (0, 0, 0)), Category(1, 'b', False, (9, 9, 9))), 0, 255, 1000
)


@pytest.fixture
def make_predictor(tmp_path):
    (tmp_path / 'color.py').write_text(CONFIG)
    with color_system():
        config = load_config(str(tmp_path / 'color.py'))
        config.update({'data': {'path': 'unused'}})
        experiment = Experiment.from_config(config)
        system = experiment.make_system(SPEC.label_format)

        def make():
            variables = system.init(jax.random.key(0))
            mesh = make_mesh(devices=tiny.one_device())
            return Predictor(experiment, SPEC, variables, checkpoint='', mesh=mesh)

        yield make


@pytest.mark.slow
def test_deleted_predictors_are_freed(make_predictor):
    image = np.zeros((8, 8, 3), np.uint8)
    kept = []
    for _ in range(2):
        predictor = make_predictor()
        predictor(image)
        kept += [weakref.ref(predictor), weakref.ref(predictor.variables['params']['kernel'])]
        del predictor
    gc.collect()
    assert [reference() for reference in kept] == [None] * 4


@pytest.mark.slow
def test_programs_are_kept_and_the_oldest_goes(make_predictor, monkeypatch):
    monkeypatch.setattr(programs_module, '_MAX_PROGRAMS', 2)
    predictor = make_predictor()
    compiled, compile_program = [], Programs.compile

    def record(programs, variables, canvas_size, num_rows):
        compiled.append(canvas_size)
        return compile_program(programs, variables, canvas_size, num_rows)

    monkeypatch.setattr(Programs, 'compile', record)
    for side in (8, 9, 8, 10, 8, 9):
        predictor(np.zeros((side, side, 3), np.uint8))
    assert [size[0] for size in compiled] == [8, 9, 10, 9]
