"""The query of each segment, and the constants of the losses that follow from it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.losses.matching import match_rows
from pdl_jax.ops.segments import lookup, segment_sum
from pdl_jax.typing import Array, MaskTargets

_EPSILON = 1e-5


class SegmentQueries(NamedTuple):
    """A matching of segments and queries of one image, or of a batch; without gradient.

    Attributes:
      query: i32[M], the query of each segment; -1 for rows that are not matched.
      owner: i32[h, w], the query of the pixel's segment; -1 for void, and segments not matched.
      log_share: f32[h, w], log of the map's pixels over those of the pixel's segment; void counts
        as a segment of one pixel.
      label: i32[N], the class of the query's segment; K for queries that are not matched.
      area: f32[N], pixels of the query's segment; 0 for queries that are not matched.
      class_weight: f32[N], dice similarity of matched queries; of others the share of their mask
        that lies on void.
      mask_weight: f32[N], probability of the segment's class; 0 for queries that are not matched.
    """

    query: Array
    owner: Array
    log_share: Array
    label: Array
    area: Array
    class_weight: Array
    mask_weight: Array


def match_queries(mask_logits: Array, class_logits: Array, targets: MaskTargets) -> SegmentQueries:
    """Matches segments with queries at the highest total of dice similarity times probability.

    Args:
      mask_logits: f32[B, h, w, N].
      class_logits: f32[B, N, K + 1], void last.
      targets: segments of the batch.

    Source: Wang et al., MaX-DeepLab, CVPR 2021, section 3.2.
    """
    return jax.vmap(_match)(*lax.stop_gradient((mask_logits, class_logits)), targets)


def _match(mask_logits: Array, class_logits: Array, targets: MaskTargets) -> SegmentQueries:
    num_segments, num_queries = len(targets.valid), mask_logits.shape[-1]
    void_class = class_logits.shape[-1] - 1
    # The extra row is void.
    index = jnp.where(targets.segment < 0, num_segments, targets.segment)
    overlap = segment_sum(index, jax.nn.softmax(mask_logits), num_segments + 1)
    area = segment_sum(index, jnp.ones(index.shape), num_segments + 1)[:-1]
    inside = jnp.sum(overlap[:-1], axis=0)
    dice = overlap[:-1] / ((inside + area[:, None]) / 2 + _EPSILON)
    # Class probabilities of void are left out after the softmax.
    probability = jax.nn.softmax(class_logits).T[targets.label]
    query = match_rows(-dice * probability, targets.valid)

    pairs = query[:, None] == jnp.arange(num_queries)
    is_matched = jnp.any(pairs, axis=0)

    def pick(values: Array) -> Array:
        return jnp.sum(jnp.where(pairs, values, 0), axis=0)

    is_void = jnp.concatenate([query < 0, jnp.ones(1, bool)])
    void = jnp.sum(jnp.where(is_void[:, None], overlap, 0.0), axis=0)
    void_share = void / (jnp.sum(overlap, axis=0) + _EPSILON)
    # Tables are read as 0 on void.
    owner = lookup(query + 1, targets.segment) - 1
    shares = jnp.log(targets.segment.size / jnp.maximum(area, 1.0))
    log_share = jnp.where(owner < 0, jnp.log(targets.segment.size), lookup(shares, targets.segment))
    class_weight = jnp.where(is_matched, pick(dice), void_share)
    mask_weight = jnp.maximum(pick(probability), _EPSILON)
    return SegmentQueries(
        query=query,
        owner=owner,
        log_share=log_share,
        label=jnp.where(is_matched, pick(targets.label[:, None]), void_class),
        area=pick(area[:, None]),
        class_weight=jnp.maximum(class_weight, _EPSILON),
        mask_weight=jnp.where(is_matched, mask_weight, 0.0),
    )
