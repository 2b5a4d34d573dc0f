"""Tables of the segments of each image, from which the host explains the scores."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.metrics.segment_overlap import overlap_segments
from pdl_jax.typing import Array, LabelFormat

# Pairs that the tables keep of each segment. At most ten segments of a map cover a tenth of another
# one each, and no rule of `evaluation.analysis.causes` asks for smaller shares.
NUM_PAIRS = 10


def describe_images(
    panoptic_label: Array,
    panoptic_prediction: Array,
    semantic_prediction: Array,
    scores: dict[str, Array] | None,
    *,
    label_format: LabelFormat,
    max_segments: int,
    has_instances: bool = True,
) -> dict[str, Array]:
    """Tabulates the segments of a batch.

    Args:
      panoptic_label, panoptic_prediction: i32[B, H, W], see `overlap_segments`.
      semantic_prediction: i32[B, H, W], predicted classes.
      scores: 'label' i32[B, R] and 'score' f32[B, R] of predicted segments; None if they are
        unknown.
      label_format: encoding of classes and instances.
      max_segments: number of rows S for the segments of a map.
      has_instances: whether to tabulate segments.

    Returns:
      'num_labelled', 'num_right': i32[B], pixels that are labelled, and those of the right class.
      With instances also the arrays of `describe_pairs`, each with a leading B.
    """
    label_class = panoptic_label // label_format.label_divisor
    is_labelled = (label_class < label_format.num_classes) & (
        label_class != label_format.ignore_label
    )
    is_right = is_labelled & (label_class == semantic_prediction)
    tables = {
        'num_labelled': jnp.sum(is_labelled, axis=(1, 2), dtype=jnp.int32),
        'num_right': jnp.sum(is_right, axis=(1, 2), dtype=jnp.int32),
    }
    if not has_instances:
        return tables
    if scores is None:
        unknown = jnp.zeros((len(panoptic_label), 0))
        scores = {'label': unknown.astype(jnp.int32), 'score': unknown}
    describe = functools.partial(
        describe_pairs, label_format=label_format, max_segments=max_segments
    )
    return tables | jax.vmap(describe)(
        panoptic_label, panoptic_prediction, scores['label'], scores['score']
    )


def describe_pairs(
    label: Array,
    prediction: Array,
    scored_label: Array,
    score: Array,
    *,
    label_format: LabelFormat,
    max_segments: int,
) -> dict[str, Array]:
    """Tabulates the segments of one image with their largest overlaps.

    Args:
      label, prediction: i32[H, W], see `overlap_segments`.
      scored_label, score: i32[R] and f32[R], scores by predicted label.
      label_format: encoding of classes and instances.
      max_segments: number of rows S for the segments of a map.

    Returns:
      'label_id', 'label_area', 'id', 'area', 'on_void': i32[S], see `SegmentOverlap`;
      'on_crowd': i32[S], pixels of the prediction on crowds of its class;
      'score': f32[S], score of the prediction, NaN without one;
      'label_partner', 'label_overlap': i32[S, K], the predictions that share most pixels with the
        label, and the pixels shared; 'partner', 'overlap': the same by prediction.
    """
    s = overlap_segments(label, prediction, label_format=label_format, max_segments=max_segments)
    has_row = s.ids[:, None] == scored_label[None, :]
    on_crowd = jnp.where(s.agrees & s.is_crowd[:, None], s.overlap, 0)
    label_overlap, label_partner = _find_largest(s.overlap, min(NUM_PAIRS, max_segments))
    overlap, partner = _find_largest(s.overlap.T, min(NUM_PAIRS, max_segments))
    return {
        'label_id': s.label_ids,
        'label_area': s.label_area,
        'id': s.ids,
        'area': s.area,
        'on_void': s.on_void,
        'on_crowd': jnp.sum(on_crowd, axis=0),
        'score': jnp.where(
            jnp.any(has_row, axis=1), jnp.sum(jnp.where(has_row, score, 0.0), axis=1), jnp.nan
        ),
        'label_partner': label_partner,
        'label_overlap': label_overlap,
        'partner': partner,
        'overlap': overlap,
    }


def _find_largest(values: Array, num: int) -> tuple[Array, Array]:
    """Finds the largest values of each row, the first of equal ones first.

    `lax.top_k` sorts whole rows on CPU, which takes five times as long.

    Args:
      values: i32[R, S], not negative.
      num: number of values K, at most S.

    Returns:
      i32[R, K] each, the values and their columns.
    """
    columns = jnp.arange(values.shape[1], dtype=jnp.int32)

    def take(rest: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        largest = jnp.max(rest, axis=1)
        is_largest = rest == largest[:, None]
        column = jnp.min(jnp.where(is_largest, columns, values.shape[1]), axis=1)
        return jnp.where(columns == column[:, None], -1, rest), (largest, column)

    _, (largest, column) = lax.scan(take, values, length=num)
    return largest.T, column.T
