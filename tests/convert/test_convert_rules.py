"""Conversion rules account for every key and every variable."""

import numpy as np
import pytest

from pdl_jax.convert.layers import torch_conv_norm
from pdl_jax.convert.rules import Rule, Target, ignore, load_variables, make_account, under
from pdl_jax.convert.sources import SOURCES

RULES = (
    *under(
        torch_conv_norm(r'layer(\d)\.conv', r'layer(\d)\.bn', 'stage{1+1}'),
        keys=r'(?:net\.)?',
        path='backbone',
    ),
    Rule('twice', (Target('params', 'a'), Target('params', 'b', np.ones_like))),
    ignore(r'fc\..*', 'a classifier'),
)
WANTED = {
    'params/backbone/stage2/conv/kernel': (3, 3, 4, 5),
    'params/backbone/stage2/norm/scale': (5,),
    'batch_stats/backbone/stage2/norm/var': (5,),
    'params/a': (2,),
    'params/b': (2,),
}


def make_arrays():
    rng = np.random.default_rng(0)
    shapes = {
        'net.layer1.conv.weight': (5, 4, 3, 3),
        'net.layer1.bn.weight': (5,),
        'net.layer1.bn.running_var': (5,),
        'twice': (2,),
    }
    return {key: rng.normal(size=shape) for key, shape in shapes.items()}


def test_arrays_go_where_the_rules_say():
    arrays = {
        **make_arrays(),
        'net.layer1.bn.num_batches_tracked': np.int64(3),
        'fc.weight': np.zeros((2, 2)),
    }
    account = make_account(arrays, RULES, WANTED)
    assert not account.num_faults
    assert {reason: keys for reason, keys in account.ignored.items() if 'classifier' in reason} == {
        'a classifier': ['fc.weight']
    }
    variables = load_variables(account, arrays)
    stage = variables['params']['backbone']['stage2']
    assert stage['conv']['kernel'].dtype == np.float32
    np.testing.assert_allclose(
        stage['conv']['kernel'][1, 2, 3, 4], arrays['net.layer1.conv.weight'][4, 3, 1, 2], rtol=1e-6
    )
    np.testing.assert_allclose(
        variables['batch_stats']['backbone']['stage2']['norm']['var'],
        arrays['net.layer1.bn.running_var'],
    )
    np.testing.assert_array_equal(variables['params']['b'], [1, 1])


def test_nothing_is_dropped_in_silence():
    arrays = make_arrays()
    arrays |= {
        'strange': np.zeros(1),
        'net.layer2.bn.bias': np.zeros(5),
        'layer1.bn.weight': np.zeros(5),
    }
    arrays['net.layer1.conv.weight'] = np.zeros((5, 4, 1, 1))
    del arrays['net.layer1.bn.running_var']
    account = make_account(arrays, RULES, WANTED)
    assert account.unexpected == {
        'strange': 'no rule matches it',
        'net.layer2.bn.bias': 'the network has no params/backbone/stage3/norm/bias',
        'layer1.bn.weight': 'net.layer1.bn.weight is params/backbone/stage2/norm/scale already',
    }
    assert account.missing == ['batch_stats/backbone/stage2/norm/var']
    (mismatch,) = account.mismatched
    assert str(mismatch) == (
        'net.layer1.conv.weight has shape [5, 4, 1, 1], which becomes [1, 1, 4, 5] for '
        'params/backbone/stage2/conv/kernel of shape [3, 3, 4, 5]'
    )


def test_arrays_of_integers_are_refused():
    arrays = {**make_arrays(), 'twice': np.zeros(2, np.int32)}
    with pytest.raises(ValueError, match='twice holds int32, not floating-point numbers'):
        load_variables(make_account(arrays, RULES, WANTED), arrays)


def test_sources_have_the_names_that_they_are_listed_by():
    assert set(SOURCES) == {
        'bowenc0221',
        'detectron2',
        'deeplab2',
        'torchvision',
        'keras',
        'tensorflow',
        'kmax_pytorch',
        'convnext',
        'timm',
        'deeplab_pytorch',
        'model_garden',
    }
