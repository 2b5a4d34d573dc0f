"""Relaxation of masks and classes by semantic logits in training.

Source: Sun et al., ReMaX: Relaxing for Better Training on Efficient Panoptic Segmentation,
NeurIPS 2023.
"""

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.segments import segment_sum
from pdl_jax.typing import Array

_EPSILON = 1e-5


def relax_masks(mask_logits: Array, class_logits: Array, semantic_logits: Array) -> Array:
    """Raises mask logits where the semantic logits agree with the query's classes (ReMask).

    m (1 + R) with R = sigmoid(semantic) sigmoid(class)^T, which has no gradient.

    Args:
      mask_logits: f32[B, h, w, N].
      class_logits: f32[B, N, K + 1].
      semantic_logits: f32[B, h, w, K + 1].

    Returns:
      f32[B, h, w, N].
    """
    semantic, classes = jax.nn.sigmoid(semantic_logits), jax.nn.sigmoid(class_logits)
    agreement = jnp.einsum('bhwk,bnk->bhwn', semantic, classes, precision=lax.Precision.HIGHEST)
    return mask_logits * (1 + lax.stop_gradient(agreement))


def relax_classes(one_hot: Array, mask_logits: Array, semantic: Array, *, eta: float) -> Array:
    """Mixes into each query's class those whose pixels it covers (ReClass).

    eta w + (1 - eta w) y, where w is the share of the pixels of a class that the sigmoid of the
    query's mask covers. The labels need not sum to 1.

    Args:
      one_hot: f32[B, N, K + 1], y.
      mask_logits: f32[B, h, w, N], not relaxed.
      semantic: i32[B, h, w], classes in [0, K); -1 for void, which is class K here.
      eta: degree of relaxation.

    Returns:
      f32[B, N, K + 1], without gradient.
    """
    num = one_hot.shape[-1]

    def cover(logits: Array, semantic: Array) -> Array:
        index = jnp.where(semantic < 0, num - 1, semantic)
        covered = segment_sum(index, jax.nn.sigmoid(logits), num)
        area = segment_sum(index, jnp.ones(index.shape), num)
        return (covered / (area[:, None] + _EPSILON)).T

    share = lax.stop_gradient(eta * jax.vmap(cover)(mask_logits, semantic))
    return share + (1 - share) * one_hot
