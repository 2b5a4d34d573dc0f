"""Scores of pixels and segments, for ranking in average precision and for display."""

import jax.numpy as jnp

from pdl_jax.ops.segments import (
    count_pairs,
    index_labels,
    lookup,
    segment_boxes,
    segment_centroids,
    segment_sum,
    unique_labels,
)
from pdl_jax.postprocess.merge import is_in_classes
from pdl_jax.typing import Array, LabelFormat


def map_center_scores(instance: Array, scores: Array) -> Array:
    """Maps every pixel of an instance to the score of its centre.

    Args:
      instance: i32[H, W], 1-based row of the centre; 0 on stuff.
      scores: f32[K], heat of every centre.

    Returns:
      f32[H, W], 0 on stuff.
    """
    return lookup(scores, instance - 1)


def score_at_centroids(instance: Array, heatmap: Array, *, max_instances: int) -> Array:
    """Maps every pixel of an instance to the heat at its pixels' mean position, rounded down.

    This is the score of bowenc0221 and detectron2. The position need not be the peak that was
    found: it may lie outside of a bent instance and score 0.

    Args:
      instance: i32[H, W], 1..max_instances; 0 on stuff.
      heatmap: f32[H, W].
      max_instances: number of instances K.

    Returns:
      f32[H, W], 0 on stuff.
    """
    index = jnp.where(instance > 0, instance - 1, max_instances)
    _, mean = segment_centroids(index, max_instances)
    y, x = jnp.floor(mean).astype(jnp.int32).T
    return map_center_scores(instance, heatmap[y, x])


def segment_table(
    panoptic: Array,
    class_probability: Array,
    center_score: Array,
    *,
    label_format: LabelFormat,
    max_segments: int,
) -> dict[str, Array]:
    """Describes the segments of a panoptic map.

    The score of a thing is the mean probability of its class over its mask times the mean centre
    score; that of stuff is the former alone.

    Args:
      panoptic: i32[H, W].
      class_probability: f32[H, W], probability of the class in `panoptic`.
      center_score: f32[H, W], from `map_center_scores`.
      label_format: encoding of classes and instances.
      max_segments: number of rows S; beyond it the segments with the highest labels are dropped.

    Returns:
      'label': i32[S], ascending panoptic labels, void excluded; void in invalid rows.
      'area': i32[S], in pixels.
      'box': i32[S, 4], (y0, x0, y1, x1) in pixels, ends exclusive.
      'centroid': f32[S, 2], mean (y, x) of the pixels; 0 in invalid rows.
      'score': f32[S] in [0, 1] if the inputs are.
      'valid': bool[S], true rows first.
    """
    num_labels, divisor = label_format.num_labels, label_format.label_divisor
    labels = jnp.where(panoptic // divisor == label_format.ignore_label, num_labels, panoptic)
    ids, _ = unique_labels(labels, size=max_segments, num_labels=num_labels)
    index = index_labels(labels, ids, num_labels=num_labels)
    area = count_pairs(index, jnp.zeros_like(index), max_segments, 1)[:, 0]

    sums = segment_sum(index, jnp.stack([class_probability, center_score], -1), max_segments)
    mean = sums / jnp.maximum(area, 1)[:, None]
    is_thing = is_in_classes(ids // divisor, label_format.thing_classes)
    valid = ids < num_labels
    return {
        'label': jnp.where(valid, ids, label_format.void_label),
        'area': area,
        'box': segment_boxes(index, max_segments),
        'centroid': segment_centroids(index, max_segments)[1],
        'score': mean[:, 0] * jnp.where(is_thing, mean[:, 1], 1.0),
        'valid': valid,
    }
