"""Variables of a network: those of the peer, or random without a peer."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from benchmarks.program import Setup
from pdl_jax.convert.conversion import check_account, choose_network, load
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.deeplab import DeepLab

_STATISTICS = {'running_mean': 'mean', 'running_var': 'var'}


def load_weights(setup: Setup, model: DeepLab) -> Any:
    """Loads 'params' and 'batch_stats' from the state that a PyTorch peer has written.

    Draws them if the file 'weights' does not exist.
    """
    if not os.path.exists(setup.files.get('weights', '')):
        return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 65, 65, 3)))
    with np.load(setup.files['weights']) as file:
        arrays = dict(file)
    family = setup.arguments['preset'].split('/')[0]
    if family == 'bowenc0221':
        conversion = choose_network(Contents(arrays), SOURCES[family], setup.arguments['preset'])
        check_account(conversion)
        return load(conversion, Contents(arrays))
    return read_by_name(arrays)


def read_by_name(arrays: dict[str, np.ndarray]) -> Any:
    """Converts the state of a PyTorch network with our module names to variables."""
    variables = {}
    for key, value in arrays.items():
        *path, name = key.split('.')
        if name in _STATISTICS:
            variables['batch_stats', *path, _STATISTICS[name]] = value
        elif value.ndim == 4:
            variables['params', *path, 'kernel'] = value.transpose(2, 3, 1, 0)
        elif name != 'num_batches_tracked':
            variables['params', *path, 'scale' if name == 'weight' else name] = value
    return unflatten_dict(variables)
