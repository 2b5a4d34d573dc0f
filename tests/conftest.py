"""Shared fixtures: simulated devices, the compilation cache, the reference data."""

import collections
import os
import pathlib
from collections.abc import Callable

import jax
import pytest

from pdl_jax.runtime.garbage import collect_garbage_rarely
from tests import quick_compiler, toy_backbone

# Nearly all tests compile for longer than they compute. Read when JAX first asks for devices.
os.environ.setdefault('XLA_FLAGS', quick_compiler.XLA_FLAGS)

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
# XLA compiles dominate the test time: a second run of the suite finds its programs here.
jax.config.update(
    'jax_compilation_cache_dir', os.environ.get('PDL_JAX_TEST_CACHE', '/tmp/pdl_jax_test_cache')
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

collect_garbage_rarely()
toy_backbone.allow_toy_backbone()

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def shared_dir() -> pathlib.Path:
    """The folder of goldens, real images and real weights; skips where it is absent."""
    path = pathlib.Path(os.environ.get('PDL_JAX_SHARED', ROOT.parent / 'shared'))
    if not path.is_dir():
        pytest.skip(f'reference data not found at {path}; set PDL_JAX_SHARED to run this test')
    return path


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> pathlib.Path:
    """A prepared dataset of a dozen tiny scenes."""
    from tests import tiny

    return tiny.prepare_scenes(tmp_path_factory.mktemp('scenes'))


@pytest.fixture(scope='session')
def find_golden(request) -> Callable[[str, str], pathlib.Path]:
    """Finds a golden case by its group and name, small ones here, others in the reference data."""

    def find(group: str, case: str) -> pathlib.Path:
        path = ROOT / 'tests' / 'goldens' / group / f'{case}.npz'
        if path.exists():
            return path
        return request.getfixturevalue('shared_dir') / 'golden' / group / f'{case}.npz'

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the files that take long, so that no worker is left with one at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker('slow'))
    items.sort(key=lambda item: -slow[item.path])
