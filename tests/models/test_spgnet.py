"""SPGNet: the gate against stored values, parameters by part, and gradients of both stages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.panoptic_deeplab import LossOptions, panoptic_loss
from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.spgnet import SemanticGuidance
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.presets import make_options


def make_variables(golden, **changes):
    values = {key: jnp.asarray(changes.get(key, golden[key]), jnp.float32) for key in golden}
    return {
        'params': {
            'semantic': {'kernel': values['w_semantic'][None, None], 'bias': values['b_semantic']},
            'gate': {'kernel': values['w_guide'][None, None], 'bias': values['b_guide']},
        }
    }


@pytest.fixture(scope='module')
def golden(find_golden):
    return dict(np.load(find_golden('spgnet', 'own_gate')))


def test_the_gate_equals_the_golden(golden):
    x = jnp.asarray(golden['x'], jnp.float32)
    guided, semantic = SemanticGuidance(5).apply(make_variables(golden), x)
    np.testing.assert_allclose(semantic, golden['semantic'], atol=1e-6)
    np.testing.assert_allclose(guided, golden['out'], atol=1e-6)


@pytest.mark.parametrize(('bias', 'factor'), [(-1e4, 1), (1e4, 2)])
def test_a_closed_gate_keeps_features_and_an_open_one_doubles_them(golden, bias, factor):
    x = jnp.asarray(golden['x'], jnp.float32)
    variables = make_variables(golden, b_guide=np.full(8, bias))
    guided, _ = SemanticGuidance(5).apply(variables, x)
    np.testing.assert_array_equal(guided, factor * x)


def test_the_gate_may_see_probabilities(golden):
    x = jnp.asarray(golden['x'], jnp.float32)
    guided, semantic = SemanticGuidance(5, 'softmax').apply(make_variables(golden), x)
    seen = jax.nn.softmax(semantic) @ golden['w_guide'] + golden['b_guide']
    np.testing.assert_allclose(guided, x * (1 + jax.nn.sigmoid(seen)), rtol=1e-5, atol=1e-6)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.slow
def test_parameters_of_the_parts():
    model = DeepLab(19, make_options('spgnet/resnet50'))
    variables = eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3))))
    params = variables['params']
    assert count(params['backbone']) == 25_557_032 - 1000 * 2049
    stages = params['semantic_decoder']
    # No stem, and 256 channels enter the first unit, which so needs no shortcut.
    difference = (49 * 3 * 64 + 128) + (64 * 256 + 512) - (256 - 64) * 64
    assert count(stages['encoder2']) == count(params['backbone']) - difference
    assert count(stages['guidance1']) == 4_883 + 5_120
    widths = (256, 512, 1024, 2048)
    unit = (256 * 64 + 128) + (9 * 64 * 64 + 128) + (64 * 256 + 512)
    # Projections of all scales, the pooled one, and a unit for each scale but the coarsest.
    decoder = sum(256 * width + 512 for width in (*widths, 2048)) + 3 * unit
    assert count(stages['decoder1']) == count(stages['decoder2']) == decoder
    # Those of the first encoder and decoder to each scale of the second encoder.
    for width, stride in zip(widths, (4, 8, 16, 32), strict=True):
        assert count(stages[f'encoded2_stride{stride}']) == width * width + 2 * width
        assert count(stages[f'decoded2_stride{stride}']) == 256 * width + 2 * width
    assert count(stages['predict']) == 257 * 19


@pytest.fixture(scope='module')
def small():
    options = make_options('spgnet/resnet18', width_multiplier=0.125, semantic_features=8)
    return DeepLab(3, options)


@pytest.mark.slow
def test_the_losses_of_both_stages_reach_what_is_before_them(small):
    labels = jax.random.randint(jax.random.key(1), (2, 65, 97), 0, 3)
    targets = {'semantic': labels, 'semantic_weight': jnp.ones(labels.shape)}
    image = jax.random.normal(jax.random.key(0), (2, 65, 97, 3))

    def total(params, variables, weights):
        outputs, _ = small.apply(
            {**variables, 'params': params}, image, train=True, mutable=['batch_stats']
        )
        _, terms = panoptic_loss(
            outputs, targets, ignore_label=255, options=LossOptions(top_k_fraction=1.0)
        )
        assert set(terms) == {'semantic', 'semantic_stage1'}
        return weights[0] * terms['semantic_stage1'] + weights[1] * terms['semantic']

    @jax.jit
    def run():
        variables = small.init(jax.random.key(0), image)
        return [
            jax.grad(total)(variables['params'], variables, weights)
            for weights in ((1.0, 0.0), (0.0, 1.0))
        ]

    first, second = run()
    for gradients in (first, second):
        assert np.any(gradients['backbone']['stem']['conv']['kernel'])
        assert np.any(
            gradients['semantic_decoder']['decoder1']['project_stride4']['conv']['kernel']
        )
    assert not any(np.any(x) for x in jax.tree.leaves(first['semantic_decoder']['encoder2']))
    # At first the last norm of a unit lets nothing through, and learns alone.
    unit = second['semantic_decoder']['encoder2']['stage5_block2']
    assert np.any(unit['conv2']['norm']['scale'])
    assert np.any(second['semantic_decoder']['guidance1']['semantic']['kernel'])
    assert not np.any(first['semantic_decoder']['guidance1']['gate']['kernel'])


def test_evaluation_has_the_last_stage_alone(small):
    image = jnp.zeros((1, 65, 97, 3))

    def run(train):
        variables = small.init(jax.random.key(0), image)
        return small.apply(variables, image, train=train, mutable=['batch_stats'])[0]

    shapes = [eval_shape(lambda train=train: run(train)) for train in (False, True)]
    assert {key: x.shape for key, x in shapes[0].items()} == {'semantic': (1, 17, 25, 3)}
    assert set(shapes[1]) == {'semantic', 'semantic_stage1'}
    one = DeepLab(3, dataclasses.replace(small.options, num_stages=1))
    params = eval_shape(lambda: one.init(jax.random.key(0), image))['params']
    assert set(params['semantic_decoder']) == {'decoder1', 'predict'}


def test_what_makes_no_sense_is_refused():
    for fields, words in (
        ({'semantic_features': 30}, 'multiple of 4'),
        ({'num_stages': 0}, 'num_stages'),
        ({'output_stride': 16}, 'must be 32'),
        ({'guidance': 'argmax'}, 'guidance'),
    ):
        with pytest.raises(ValueError, match=words):
            make_options('spgnet/resnet50', **fields)
    with pytest.raises(ValueError, match="stem='none'"):
        make_backbone('resnet18', stem='none')
