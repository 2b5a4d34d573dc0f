"""Attention with several heads whose logits a BatchNorm scales."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.models.blocks import LayerOptions, batch_norm
from pdl_jax.ops.precise_products import einsum_float32
from pdl_jax.typing import Array


def attend(query: Array, key: Array, value: Array, options: LayerOptions, *, train: bool) -> Array:
    """Retrieves values by queries, as children of the module being called.

    Logits are not divided by the root of the keys' width; the BatchNorm 'similarity_norm' over the
    heads scales them, in float32. The BatchNorm 'retrieved_norm' follows.

    Args:
      query: float[B, N, heads, d].
      key: float[B, M, heads, d].
      value: float[B, M, heads, e].
      options: options of the layers.
      train: see `blocks.batch_norm`.

    Returns:
      float[B, 1, N, heads * e].

    Source: DeepLab2's model/layers/dual_path_transformer.py.
    """
    precise = dataclasses.replace(options, dtype=jnp.float32)
    precision = lax.Precision.HIGHEST
    logits = einsum_float32('bnhd,bmhd->bhnm', query, key, precision=precision)
    logits = batch_norm(precise, train=train, axis=1, name='similarity_norm')(logits)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    retrieved = jnp.einsum('bhnm,bmhd->bnhd', weights, value, precision=precision)
    retrieved = retrieved.reshape(query.shape[0], 1, query.shape[1], -1)
    return batch_norm(options, train=train, name='retrieved_norm')(retrieved)
