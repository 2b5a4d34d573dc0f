"""Compiler options: effect on a CPU, absence elsewhere."""

import jax
import jax.numpy as jnp

from pdl_jax.runtime.compiler_options import train_compiler_options


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
