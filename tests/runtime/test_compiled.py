"""Functions compiled at their first call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.runtime import processes
from pdl_jax.runtime.compiled import CompiledOnFirstCall


@pytest.fixture
def traces():
    return []


@pytest.fixture
def add(traces):
    @jax.jit
    def add(a, b):
        traces.append(a.shape)
        return {'sum': a + b, 'table': a * jnp.asarray(np.arange(3.0))}

    return CompiledOnFirstCall(add, name='the addition')


def test_it_is_compiled_once_and_after_a_barrier(add, traces, monkeypatch):
    names = []
    monkeypatch.setattr(processes, 'wait_for_all', names.append)
    assert names == traces == []
    for i in range(3):
        found = add(jnp.ones(3), jnp.full(3, i))
        np.testing.assert_array_equal(found['sum'], np.full(3, 1.0 + i))
    assert names == ['the addition is compiled'] and traces == [(3,)]


def test_other_shapes_are_refused(add):
    add(jnp.ones(3), jnp.ones(3))
    with pytest.raises(TypeError):
        add(jnp.ones((3, 3)), jnp.ones((3, 3)))


def test_compilation_may_transfer_but_calls_may_not(add):
    a, b = jnp.ones(3), jnp.ones(3)
    with jax.transfer_guard('disallow'):
        np.testing.assert_array_equal(jax.device_get(add(a, b)['sum']), 2)
        with pytest.raises(Exception, match='[Dd]isallowed'):
            add(a, np.ones(3))


def test_donated_arguments_are_donated():
    increment = CompiledOnFirstCall(jax.jit(lambda x: x + 1, donate_argnums=0), name='the sum')
    x = jnp.zeros(1000)
    for _ in range(2):
        y = increment(x)
        assert x.is_deleted()
        x = y
    assert x[0] == 2
