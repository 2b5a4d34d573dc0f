"""Axial attention against its definition, pair by pair."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.axial_attention import (
    AxialAttention,
    AxialAttention2D,
    NormalizedSum,
    spread_distances,
)
from pdl_jax.models.blocks import LayerOptions
from tests.models.backbones import probe

HEADS, KEY, VALUE = 2, 4, 8


def randomize(module, x):
    """Draws variables without zeros, embeddings as large as their initial ones."""
    variables = probe.make_variables(
        jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    )
    return jax.tree_util.tree_map_with_path(
        lambda path, a: 10 * a if '_position' in path[-1].key else a, variables
    )


def normalize(x, norm, statistics):
    return (x - statistics['mean']) / np.sqrt(statistics['var'] + 1e-3) * norm['scale'] + norm[
        'bias'
    ]


def attend(x, params, statistics):
    """One row f64[L, C], pair by pair."""
    length, d, e = len(x), KEY // HEADS, VALUE // HEADS
    x = normalize(
        x @ params['query_key_value']['kernel'][0, 0],
        params['query_key_value_norm'],
        statistics['query_key_value_norm'],
    )
    query, key, value = np.split(x, [KEY, 2 * KEY], axis=-1)
    similarities = np.zeros((length, length, 3 * HEADS))
    content, positional = np.zeros((2, length, VALUE))
    for q in range(length):
        for m in range(length):
            distance = np.clip(m - q, -254, 254) + 254
            for h in range(HEADS):
                a, b = query[q, h * d : (h + 1) * d], key[m, h * d : (h + 1) * d]
                similarities[q, m, h] = a @ b
                similarities[q, m, HEADS + h] = a @ params['query_position'][distance]
                similarities[q, m, 2 * HEADS + h] = b @ params['key_position'][distance]
    norm = normalize(similarities, params['similarity_norm'], statistics['similarity_norm'])
    logits = norm.reshape(length, length, 3, HEADS).sum(2)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    for q in range(length):
        for m in range(length):
            distance = np.clip(m - q, -254, 254) + 254
            for h in range(HEADS):
                part = slice(h * e, (h + 1) * e)
                content[q, part] += weights[q, m, h] * value[m, part]
                positional[q, part] += weights[q, m, h] * params['value_position'][distance]
    retrieved = np.concatenate([content, positional], axis=-1)
    norm = normalize(retrieved, params['retrieved_norm'], statistics['retrieved_norm'])
    return norm[:, :VALUE] + norm[:, VALUE:]


def make_attention(axis, shape):
    attention = AxialAttention(KEY, VALUE, HEADS, axis)
    x = jax.random.normal(jax.random.key(1), shape)
    return attention, x, randomize(attention, x)


@pytest.mark.parametrize('axis', [1, 2])
def test_rows_and_columns_equal_the_definition(axis):
    attention, x, variables = make_attention(axis, (2, 3, 4, 5))
    found = np.asarray(jax.jit(lambda v: attention.apply(v, x, train=False))(variables))
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
    for image, result in zip(np.asarray(x, np.float64), found, strict=True):
        if axis == 1:
            image, result = image.swapaxes(0, 1), result.swapaxes(0, 1)
        for row, line in zip(image, result, strict=True):
            expected = attend(row, arrays['params'], arrays['batch_stats'])
            np.testing.assert_allclose(line, expected, atol=2e-5)


@pytest.mark.parametrize('length', [1, 2, 255, 260])
def test_distances_are_looked_up_and_clipped(length):
    table = np.random.default_rng(0).normal(size=(509, 3)).astype(np.float32)
    places = np.arange(length)
    expected = table[np.clip(places - places[:, None], -254, 254) + 254]
    np.testing.assert_array_equal(spread_distances(jnp.asarray(table), length), expected)


@pytest.mark.parametrize('is_frozen', [False, True])
def test_sum_is_that_of_one_batch_norm(is_frozen):
    terms = [2 * i + jax.random.normal(jax.random.key(i), (2, 3, 4, 5)) for i in range(3)]
    options = LayerOptions(is_norm_frozen=is_frozen)
    norm = NormalizedSum(2, options)
    variables = randomize(norm, terms)
    found, changed = norm.apply(variables, terms, train=True, mutable=['batch_stats'])
    single = nn.BatchNorm(is_frozen, epsilon=1e-3, axis=2)
    expected, statistics = single.apply(
        variables, jnp.concatenate(terms, axis=2), mutable=['batch_stats']
    )
    expected = expected.reshape(2, 3, 3, 4, 5).sum(2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if not is_frozen:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), changed, statistics)


def test_stride_subsamples_after_each_axis():
    x = jax.random.normal(jax.random.key(2), (1, 5, 4, 3))
    plain, strided = (AxialAttention2D(KEY, VALUE, HEADS, stride) for stride in (1, 2))
    variables = randomize(plain, x)
    full, half = jax.jit(
        lambda v: [module.apply(v, x, train=False) for module in (plain, strided)]
    )(variables)
    np.testing.assert_allclose(half, full[:, ::2, ::2], atol=1e-5)


def test_bfloat16_stays_near_float32():
    attention, x, variables = make_attention(1, (2, 3, 4, 5))
    half = attention.clone(options=LayerOptions(dtype=jnp.bfloat16))
    found, expected = jax.jit(
        lambda v: [module.apply(v, x, train=False) for module in (half, attention)]
    )(variables)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.3)


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match=r'value_features \(=10\) must be a multiple'):
        AxialAttention(8, 10, 8)
