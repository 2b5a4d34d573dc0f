"""Model Garden's networks with the weights of the goldens, from its lists of checkpoint keys."""

import functools
import importlib.util
import pathlib
import types

import numpy as np

SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
BACKBONES = ('resnet50', 'resnet101', 'mobilenet_v3_large', 'mobilenet_v3_small')
INDEX = '_CHECKPOINTABLE_OBJECT_GRAPH'


@functools.cache
def load_rule(shared_dir: pathlib.Path) -> types.ModuleType:
    """Loads the rule that fills weights, of the goldens of this family."""
    path = shared_dir / 'golden' / 'model_garden' / 'rule.py'
    spec = importlib.util.spec_from_file_location('model_garden_rule', path)
    assert spec is not None and spec.loader is not None
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule


def list_keys(shared_dir, backbone):
    """Returns the shape of every array of a published checkpoint by its key."""
    path = shared_dir / 'specs' / 'checkpoint_keys' / f'keys_model_garden_{backbone}.txt'
    rows = (line.split('\t') for line in path.read_text().splitlines())
    return {key: tuple(map(int, filter(None, shape.split('x')))) for key, shape, _ in rows}


def fill_checkpoint(shared_dir, backbone, seed=0):
    """Fills every array of a checkpoint by the rule of the goldens."""
    fill = load_rule(shared_dir).fill
    return {
        key: fill(key.removesuffix(SUFFIX), shape, seed) if key != INDEX else np.array(b'')
        for key, shape in list_keys(shared_dir, backbone).items()
    }
