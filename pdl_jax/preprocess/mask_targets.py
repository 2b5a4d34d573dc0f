"""Targets of mask transformers from a panoptic label map: a list of segments, and their pixels."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.ops.resize import subsample
from pdl_jax.ops.segments import index_labels, lookup
from pdl_jax.typing import Array, LabelFormat, MaskTargets, check_positive


@dataclasses.dataclass(frozen=True)
class MaskTargetOptions:
    """Options of the targets.

    Attributes:
      max_segments: rows of the list of segments. An image with more of them keeps the largest.
      small_instance_area_px: area in pixels of the crop below which an instance is small.

    Raises:
      ValueError: an option is not positive.
    """

    max_segments: int = 128
    small_instance_area_px: int = 4096

    def __post_init__(self) -> None:
        check_positive('targets', self, 'max_segments', 'small_instance_area_px')


def make_mask_targets(
    panoptic: Array,
    *,
    size: tuple[int, int],
    label_format: LabelFormat,
    options: MaskTargetOptions,
) -> MaskTargets:
    """Makes the targets of one crop.

    A thing instance is a segment, and so are all pixels of a stuff class. Void is what has no valid
    class, and crowd regions. A segment that loses all its pixels by subsampling does not count.

    Args:
      panoptic: i32[H, W], the label map after augmentation.
      size: (height, width) of the masks in pixels; H and W must lead to it by whole steps, see
        `resize.subsample`.
      label_format: encoding of classes and instances.
      options: see `MaskTargetOptions`.

    Returns:
      Targets in the order of the panoptic labels.
    """
    label_map = subsample(panoptic, size)
    divisor = label_format.label_divisor
    semantic, instance = label_map // divisor, label_map % divisor
    # Columns: index among the valid classes, or -1, and whether the class is a thing.
    table = np.full((label_format.num_semantic_values, 2), -1, np.int32)
    table[list(label_format.valid_classes), 0] = np.arange(len(label_format.valid_classes))
    table[:, 1] = label_format.thing_table()
    # Values beyond the table are read as 0.
    class_index, is_thing = jnp.moveaxis(lookup(jnp.asarray(table + [1, 0]), semantic), -1, 0)
    class_index = jnp.where((is_thing > 0) & (instance == 0), 0, class_index) - 1

    num_labels = len(label_format.valid_classes) * divisor
    labels = class_index * divisor + jnp.where(is_thing > 0, instance, 0)
    labels = jnp.where(class_index < 0, num_labels, labels)
    ids, area, count = _largest_labels(labels, size=options.max_segments, num_labels=num_labels)
    valid = ids < num_labels
    segment = index_labels(labels, ids, num_labels=num_labels)
    step_area = panoptic.size / label_map.size
    return MaskTargets(
        segment=jnp.where(segment < options.max_segments, segment, -1),
        label=jnp.where(valid, ids // divisor, 0),
        valid=valid,
        is_small=valid & (ids % divisor > 0) & (area * step_area < options.small_instance_area_px),
        count=count,
        semantic=class_index,
    )


def _largest_labels(labels: Array, *, size: int, num_labels: int) -> tuple[Array, Array, Array]:
    """Lists the labels with the most pixels.

    Args:
      labels: i32[h, w] in [0, num_labels]; the upper bound stands for no label.
      size: number of rows of the list.
      num_labels: value of pixels without a label.

    Returns:
      ids: i32[size], ascending, padded with `num_labels`; of labels with equally many pixels the
        smaller is kept.
      area: i32[size], pixels of each.
      count: i32[], the number of distinct labels, which may exceed `size`.
    """
    ordered = jnp.sort(labels.reshape(-1))
    ordered = jnp.concatenate([jnp.full(1, -1, jnp.int32), ordered, jnp.full(1, num_labels)])
    is_first = ordered[1:] != ordered[:-1]
    place = jnp.arange(is_first.size, dtype=jnp.int32)
    following = lax.cummin(jnp.where(is_first, place, is_first.size), reverse=True)
    length = jnp.concatenate([following[1:], following[-1:]]) - place
    is_label = is_first & (ordered[1:] < num_labels)
    rows = min(size, is_first.size)
    area, index = lax.top_k(jnp.where(is_label, length, 0), rows)
    ids = jnp.where(area > 0, ordered[1:][index], num_labels)
    ids, area = lax.sort((ids, area), num_keys=1)
    ids = jnp.pad(ids, (0, size - rows), constant_values=num_labels)
    return ids, jnp.pad(area, (0, size - rows)), jnp.sum(is_label, dtype=jnp.int32)
