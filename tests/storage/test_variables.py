"""Variables are read from a checkpoint, whole or in part, averaged ones first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.variables import restore_variables


def make_variables(offset):
    return {
        'params': {'layer': {'kernel': jnp.arange(8.0) + offset, 'bias': jnp.ones(2) + offset}},
        'batch_stats': {'layer': {'mean': jnp.zeros(3) + offset}},
    }


@pytest.fixture(scope='module', params=[False, True], ids=['newest', 'averaged'])
def saved(request, tmp_path_factory):
    """A checkpoint, and the variables that are to be read from it."""
    workdir = tmp_path_factory.mktemp('run')
    state = {'opt_state': (jnp.zeros(8),), **make_variables(0)}
    if request.param:
        state['ema_variables'] = make_variables(10)
    checkpointer = Checkpointer(workdir, keep=1)
    checkpointer.save(state, step=1, input_position={}, description={})
    checkpointer.close()
    return find_checkpoint(workdir), make_variables(10 if request.param else 0)


def make_abstract(variables):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)


def test_all_are_placed_on_devices(saved):
    checkpoint, expected = saved
    sharding = jax.sharding.NamedSharding(make_mesh(8, 1), P())
    found = restore_variables(checkpoint, make_abstract(expected), sharding)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert all(x.sharding == sharding for x in jax.tree.leaves(found))


def test_a_part_is_read_as_numpy_arrays(saved):
    checkpoint, expected = saved
    part = {'params': {'layer': {'kernel': expected['params']['layer']['kernel']}}}
    found = restore_variables(checkpoint, make_abstract(part))
    jax.tree.map(np.testing.assert_array_equal, found, part)
    kernel = found['params']['layer']['kernel']
    assert isinstance(kernel, np.ndarray) and kernel.dtype == np.float32


def test_other_shapes_are_refused(saved):
    checkpoint, expected = saved
    wanted = make_abstract(expected)
    wanted['params']['layer']['bias'] = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(ValueError, match=r'bias: the model has \(3,\), the checkpoint \(2,\)'):
        restore_variables(checkpoint, wanted)
