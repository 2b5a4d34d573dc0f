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


@pytest.mark.parametrize('own', ['', 'elsewhere'])
def test_compiled_programs_are_kept_in_the_workdir_unless_told_otherwise(own):
    code = (
        'import jax; from pdl_jax.runtime.compiler_options import cache_programs; '
        'cache_programs("runs/a"); print(jax.config.jax_compilation_cache_dir)'
    )
    environment = {
        key: value for key, value in os.environ.items() if key != 'JAX_COMPILATION_CACHE_DIR'
    }
    if own:
        environment['JAX_COMPILATION_CACHE_DIR'] = own
    process = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.stdout.strip() == (own or 'runs/a/compiled'), process.stderr
