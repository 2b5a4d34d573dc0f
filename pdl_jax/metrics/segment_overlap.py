"""Segments of a label map and of a prediction, and the pixels that they share; on the device."""

from typing import NamedTuple

import jax.numpy as jnp

from pdl_jax.ops.segments import count_pairs, index_labels, unique_labels
from pdl_jax.typing import Array, LabelFormat


class SegmentOverlap(NamedTuple):
    """Segments of a label map and of a prediction, S rows each; surplus rows hold no segment.

    Attributes:
      label_ids, ids: i32[S], panoptic labels, ascending; the format's `num_labels` in surplus rows.
      label_class, predicted_class: i32[S], classes; beyond the last class in surplus rows.
      is_label, is_prediction: bool[S], true for rows that hold a segment.
      is_crowd: bool[S], true for labelled crowd regions.
      label_area, area: i32[S], areas in pixels.
      on_void: i32[S], pixels of the prediction where nothing is labelled.
      overlap: i32[S, S], pixels shared by label (row) and prediction (column).
      agrees: bool[S, S], true if both are segments of the same class.
      row_of_pixel: i32[H, W], row of the predicted segment of each pixel, S on void.
      is_overflowing: bool[], true if either map has more segments than there are rows.
    """

    label_ids: Array
    ids: Array
    label_class: Array
    predicted_class: Array
    is_label: Array
    is_prediction: Array
    is_crowd: Array
    label_area: Array
    area: Array
    on_void: Array
    overlap: Array
    agrees: Array
    row_of_pixel: Array
    is_overflowing: Array


def overlap_segments(
    label: Array, prediction: Array, *, label_format: LabelFormat, max_segments: int
) -> SegmentOverlap:
    """Lists the segments of both maps and counts the pixels that they share.

    Args:
      label: i32[H, W], label map; labels of the ignored class or beyond the classes are void, and
        instance 0 of a thing is a crowd region.
      prediction: i32[H, W], prediction; void as in `label`, instance 0 of a thing is an ordinary
        segment.
      label_format: encoding of classes and instances.
      max_segments: number of rows S for the segments of a map.
    """
    divisor, num_labels = label_format.label_divisor, label_format.num_labels
    label_ids, label_index, label_count = _list_segments(label, label_format, max_segments)
    ids, index, count = _list_segments(prediction, label_format, max_segments)
    # The last row and the last column are void.
    shared = count_pairs(label_index, index, max_segments + 1, max_segments + 1)
    label_class, predicted_class = label_ids // divisor, ids // divisor
    is_label, is_prediction = label_ids < num_labels, ids < num_labels
    things = jnp.asarray(label_format.thing_classes, jnp.int32)
    agrees = label_class[:, None] == predicted_class[None, :]
    return SegmentOverlap(
        label_ids=label_ids,
        ids=ids,
        label_class=label_class,
        predicted_class=predicted_class,
        is_label=is_label,
        is_prediction=is_prediction,
        is_crowd=jnp.isin(label_class, things) & (label_ids % divisor == 0) & is_label,
        label_area=jnp.sum(shared[:-1], axis=1),
        area=jnp.sum(shared[:, :-1], axis=0),
        on_void=shared[-1, :-1],
        overlap=shared[:-1, :-1],
        agrees=agrees & is_label[:, None] & is_prediction[None, :],
        row_of_pixel=index,
        is_overflowing=jnp.maximum(label_count, count) > max_segments,
    )


def add_by_class(values: Array, segment_class: Array, num_classes: int) -> Array:
    """Sums values [S] over the segments of each class: [C]; rows beyond the classes are dropped."""
    classes = jnp.arange(num_classes, dtype=jnp.int32)
    return jnp.sum(jnp.where(segment_class == classes[:, None], values, 0), axis=1)


def add_images(values: Array, valid: Array) -> Array:
    """Sums values [B, ...] over the valid images, in the precision of the values."""
    keep = valid.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(jnp.where(keep, values, 0), axis=0, dtype=values.dtype)


def _list_segments(
    labels: Array, label_format: LabelFormat, max_segments: int
) -> tuple[Array, Array, Array]:
    """Lists the segments of a map i32[H, W].

    Returns:
      i32[S], labels in ascending order, padded with `num_labels`; i32[H, W], row of each pixel, S
      on void; i32[], number of segments, which may exceed S.
    """
    num_labels = label_format.num_labels
    semantic = labels // label_format.label_divisor
    is_segment = (semantic >= 0) & (semantic < label_format.num_classes)
    is_segment &= semantic != label_format.ignore_label
    labels = jnp.where(is_segment, labels, num_labels)
    ids, count = unique_labels(labels, size=max_segments, num_labels=num_labels)
    return ids, index_labels(labels, ids, num_labels=num_labels), count
