"""Weights are found in training checkpoints, and their keys are the network's own."""

import numpy as np
import pytest

from pdl_jax.convert.contents import StoredArray
from pdl_jax.convert.state_dicts import choose_weights, clean_keys

MODEL = {f'layer{i}.weight': np.zeros(2) for i in range(9)}
OTHER = {f'layer{i}.weight': np.ones(2) for i in range(9)}


def choose(content, choice=''):
    weights, notes = choose_weights(content, (np.ndarray,), choice)
    return weights, ' | '.join(notes)


@pytest.mark.parametrize('wrapper', ['state_dict', 'model', 'net', 'model_state_dict', 'strange'])
@pytest.mark.parametrize('accuracy', [0.5, np.array(0.5)])
def test_other_content_is_left_beside(wrapper, accuracy):
    content = {
        'epoch': 3,
        'best_acc1': accuracy,
        'optimizer': {'state': {'a': np.zeros(2), 'b': np.zeros(2)}},
        wrapper: MODEL,
    }
    weights, notes = choose(content)
    assert weights.values is not content and weights.values == MODEL and not notes
    assert weights.beside == ('epoch', 'best_acc1', 'optimizer')


@pytest.mark.parametrize(
    'name',
    'state_dict_ema model_ema ema ema_state_dict shadow model_ema_state_dict params_ema '
    'swa_state_dict averaged_model EMA'.split(),
)
def test_averages_are_taken_alone_or_when_asked_for(name):
    both = {'model': MODEL, name: OTHER}
    weights, notes = choose(both)
    assert weights.values == MODEL and "takes the weights in 'model'" in notes
    assert f'--weights=ema takes those in {name!r}' in notes
    weights, notes = choose(both, 'ema')
    assert weights.values == OTHER and '--weights=model takes those in' in notes
    weights, notes = choose({name: OTHER, 'epoch': 1, 'best': np.array(1.0)})
    assert weights.values == OTHER and 'averaged over training steps' in notes
    with pytest.raises(ValueError, match=f"--weights=model: the only weights are .*'{name}'"):
        choose({name: OTHER}, 'model')
    with pytest.raises(ValueError, match="--weights=ema: the only weights are those in 'model'"):
        choose({'model': MODEL}, 'ema')


def test_averages_may_be_nested_or_told_by_their_keys():
    nested = {'model': MODEL, 'ema': {'decay': 0.9, 'module': OTHER}}
    assert choose(nested, 'ema')[0].values == OTHER
    flat = {f'model.{k}': v for k, v in MODEL.items()}
    flat |= {f'model_ema.{k}': v for k, v in OTHER.items()}
    weights, notes = choose({'state_dict': flat})
    assert set(weights.values) == {f'model.{k}' for k in MODEL}
    assert "--weights=ema takes those in 'state_dict/model_ema'" in notes
    assert weights.beside == ('model_ema.*',)
    assert choose({'state_dict': flat}, 'ema')[0].values == OTHER


def test_other_networks_are_mentioned():
    weights, notes = choose({'generator': MODEL, 'discriminator': {**OTHER, 'more': np.zeros(1)}})
    assert "takes the weights in 'discriminator'" in notes and "leaves those in 'gene" in notes
    assert len(weights.values) == 10
    content = {'deep': MODEL}
    content['itself'] = content
    assert choose(content)[0].values == MODEL
    assert choose_weights({'a': 1, 'b': [np.zeros(1)]}, (np.ndarray,), '') is None


@pytest.mark.parametrize(
    ('prefix', 'told'),
    [
        ('module.', 'module.'),
        ('model.', 'model.'),
        ('net.', 'net.'),
        ('_orig_mod.', '_orig_mod.'),
        ('module._orig_mod.', '_orig_mod. module.'),
        ('_orig_mod.module.model.', '_orig_mod. module. model.'),
        ('model.module.net.', 'module. model. net.'),
    ],
)
def test_prefixes_of_wrapping_modules_are_taken_away(prefix, told):
    arrays = {f'{prefix}{key}': StoredArray((2,), lambda: np.zeros(2)) for key in MODEL}
    counter = {'n_averaged': StoredArray((), lambda: np.zeros(()))}
    cleaned, others, removed = clean_keys({**arrays, **counter})
    assert cleaned.keys() == MODEL.keys() and others == ('n_averaged',) and removed == told


def test_keys_stay_where_a_prefix_tells_them_apart():
    def store(*keys):
        return {key: StoredArray((2,), lambda: np.zeros(2)) for key in keys}

    for arrays in (
        store('module.a', 'a'),
        store('model.a', 'backbone.a', 'backbone.b'),
        store('backbone.conv1.weight', 'classifier.4.bias'),
    ):
        assert clean_keys(arrays) == (arrays, (), '')
    # A compiled part of a network, and a loss beside it.
    cleaned, _, removed = clean_keys(store('backbone._orig_mod.a', 'backbone.b'))
    assert list(cleaned) == ['backbone.a', 'backbone.b'] and removed == '_orig_mod.'
    cleaned, _, _ = clean_keys(store('model.a', 'model.b', 'loss.weight'))
    assert list(cleaned) == ['a', 'b', 'loss.weight']


def test_one_dict_may_have_two_names():
    """Before the first step, a program may save the same tensors as both."""
    both = {'model': MODEL, 'model_ema': MODEL}
    assert "'model_ema'" in choose(both)[1]
    assert choose(both, 'ema')[0].path == ('model_ema',)
    ring = {'a': {}}
    for name in 'bcdefgh':
        ring[name] = ring['a']
    ring['a'].update(ring)
    assert choose_weights(ring, (np.ndarray,), '') is None
