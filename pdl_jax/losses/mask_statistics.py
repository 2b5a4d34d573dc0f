"""Sums over the softmax of mask logits, without a second map of all queries in memory."""

import jax
import jax.numpy as jnp

from pdl_jax.typing import Array


@jax.custom_vjp
def mask_statistics(logits: Array, owner: Array) -> tuple[Array, Array, Array]:
    """Reduces the softmax over queries to what the losses of masks need.

    A pixel belongs to at most one query, so that every sum is a reduction of the logits, and the
    gradient is one more pass over them, from the normaliser per pixel.

    Args:
      logits: f32[B, h, w, N].
      owner: i32[B, h, w], the query that a pixel belongs to; -1 for void pixels, which count
        nowhere.

    Returns:
      cross_entropy: f32[B, h, w], of the softmax and the owner; 0 on void.
      total: f32[B, N], the sum of each query's probability over the pixels.
      overlap: f32[B, N], the same over the pixels that it owns.
    """
    return _forward(logits, owner)[0]


_Residual = tuple[Array, Array, Array]


def _forward(logits: Array, owner: Array) -> tuple[tuple[Array, Array, Array], _Residual]:
    highest = jnp.max(logits, axis=-1)
    below = logits - highest[..., None]
    log_total = jnp.log(jnp.sum(jnp.exp(below), axis=-1))
    is_owner = _is_owner(logits, owner)
    # Not normaliser - logit: beside large logits a small loss would be rounded away, and the loss
    # is averaged over the pixels whose own is not zero.
    cross_entropy = log_total - jnp.sum(jnp.where(is_owner, below, 0.0), axis=-1)
    normalizer = highest + log_total
    probability = jnp.exp(logits - normalizer[..., None])
    total = jnp.sum(jnp.where((owner >= 0)[..., None], probability, 0.0), axis=(1, 2))
    overlap = jnp.sum(jnp.where(is_owner, probability, 0.0), axis=(1, 2))
    statistics = jnp.where(owner >= 0, cross_entropy, 0.0), total, overlap
    return statistics, (logits, owner, normalizer)


def _backward(residual: _Residual, gradients: tuple[Array, Array, Array]) -> tuple[Array, None]:
    logits, owner, normalizer = residual
    of_entropy, of_total, of_overlap = gradients
    probability = jnp.exp(logits - normalizer[..., None])
    is_owner = _is_owner(logits, owner)
    of_total, of_overlap = (g[:, None, None, :] for g in (of_total, of_overlap))
    direct = of_total + jnp.where(is_owner, of_overlap, 0.0)
    mean = jnp.sum(probability * direct, axis=-1) - of_entropy
    gradient = probability * (direct - mean[..., None])
    gradient = gradient - jnp.where(is_owner, of_entropy[..., None], 0.0)
    return jnp.where((owner >= 0)[..., None], gradient, 0.0), None


mask_statistics.defvjp(_forward, _backward)


def _is_owner(logits: Array, owner: Array) -> Array:
    return owner[..., None] == jnp.arange(logits.shape[-1], dtype=jnp.int32)
