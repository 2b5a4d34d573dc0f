"""Removal of things that are too uncertain or too small to report."""

from collections.abc import Mapping

import jax.numpy as jnp

from pdl_jax.ops.segments import index_labels, lookup
from pdl_jax.postprocess.merge import is_in_classes
from pdl_jax.typing import Array, LabelFormat


def drop_things(
    panoptic: Array,
    table: Mapping[str, Array],
    *,
    label_format: LabelFormat,
    min_score: float,
    min_area_px: int,
) -> Array:
    """Makes things void whose score or area is too low.

    Their pixels become void, not the most likely stuff class: the network says that there is a
    thing, as in detectron2, where pixels of a thing class without an instance stay void, and in
    Hugging Face's post-processing, where a rejected segment leaves its pixels unlabelled. Stuff and
    the labels of the other things stay as they are.

    Args:
      panoptic: i32[H, W].
      table: its segments, see `segment_table`.
      label_format: encoding of classes and instances.
      min_score: lowest score to keep, inclusive.
      min_area_px: smallest area to keep, inclusive.

    Returns:
      i32[H, W].
    """
    labels = table['label']
    is_thing = is_in_classes(labels // label_format.label_divisor, label_format.thing_classes)
    is_low = (table['score'] < min_score) | (table['area'] < min_area_px)
    is_dropped = table['valid'] & is_thing & is_low
    # Surplus rows come last and must not be found: ids have to ascend.
    ids = jnp.where(table['valid'], labels, label_format.num_labels)
    row = index_labels(panoptic, ids, num_labels=label_format.num_labels)
    is_rejected = lookup(is_dropped.astype(jnp.int32), row) > 0
    return jnp.where(is_rejected, label_format.void_label, panoptic)
