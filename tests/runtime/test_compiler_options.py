"""Compiler options: effect on a CPU, absence elsewhere; where compiled programs are kept."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from pdl_jax.runtime.compiler_options import train_compiler_options

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_options_save_memory_on_a_cpu():
    x = jax.ShapeDtypeStruct((12, 64), jnp.float32)
    matrices = jax.ShapeDtypeStruct((50, 64, 64), jnp.float32)

    def add_products(x, matrices):
        # Each product reads a copy of its matrix; all copies could be made at once.
        return sum(x[i % 4 : i % 4 + 8] @ matrices[i] for i in range(50))

    def count_bytes(options):
        compiled = jax.jit(add_products, compiler_options=options).lower(x, matrices).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert count_bytes(train_compiler_options('cpu')) < count_bytes({}) / 5


def test_other_platforms_have_none():
    assert train_compiler_options('tpu') == train_compiler_options('gpu') == {}


def run_code(code, **variables):
    """Runs code in a process without a cache of programs of the tests."""
    environment = {
        key: value for key, value in os.environ.items() if key != 'JAX_COMPILATION_CACHE_DIR'
    }
    return subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env={**environment, 'JAX_PLATFORMS': 'cpu', **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize('own', ['', 'elsewhere'])
def test_compiled_programs_are_kept_in_the_folder_unless_told_otherwise(own):
    code = (
        'import jax; from pdl_jax.runtime.compiler_options import cache_programs; '
        'cache_programs("runs/a"); print(jax.config.jax_compilation_cache_dir)'
    )
    process = run_code(code, **({'JAX_COMPILATION_CACHE_DIR': own} if own else {}))
    assert process.stdout.strip() == (own or 'runs/a'), process.stderr


_CACHE = """
import jax
from pdl_jax.runtime.compiler_options import cache_user_programs
cache_user_programs()
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
print(jax.jit(lambda x: x + 1)(1))
"""


def test_predictions_keep_programs_for_the_user(tmp_path):
    process = run_code(_CACHE, XDG_CACHE_HOME=str(tmp_path))
    assert process.stdout.strip() == '2', process.stderr
    assert any(path.name.endswith('-cache') for path in (tmp_path / 'pdl_jax/compiled').iterdir())


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / 'file').write_text('')
    process = run_code(_CACHE, XDG_CACHE_HOME=str(tmp_path / 'file'))
    assert process.stdout.strip() == '2', process.stderr
