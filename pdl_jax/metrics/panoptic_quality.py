"""Panoptic quality, counted on the device by the rules of panopticapi."""

import functools
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from pdl_jax.ops.segments import count_pairs, index_labels, unique_labels
from pdl_jax.typing import Array, LabelFormat


@flax.struct.dataclass
class PanopticQuality(metrics.Metric):
    """Panoptic quality; use the subclass that `for_format` returns.

    The device counts one batch in 32 bits; `to_host` widens the counts, which are added up there.

    Attributes:
      iou_sum: f32[C], sum of the IoU of matched segments per class.
      tp: i32[C], matched pairs per class.
      fp: i32[C], predicted segments that match nothing and are not excused.
      fn: i32[C], labelled segments that nothing matches, crowds left out.
      num_overflowing: i32[], images with more segments than the metric has rows for.
    """

    iou_sum: Array
    tp: Array
    fp: Array
    fn: Array
    num_overflowing: Array

    label_format: ClassVar[LabelFormat | None] = None
    max_segments: ClassVar[int] = 0

    @staticmethod
    def for_format(
        label_format: LabelFormat, *, max_segments: int = 256
    ) -> type['PanopticQuality']:
        """Makes the metric class of a data set.

        Args:
          label_format: how classes and instances are coded.
          max_segments: most distinct segments of one label map or prediction.

        Returns:
          a subclass of `PanopticQuality`, the same for the same arguments.
        """
        return _make_class(label_format, max_segments)

    @classmethod
    def empty(cls) -> 'PanopticQuality':
        """Zeros in 64 bits, which only the host keeps."""
        zeros = np.zeros(cls._format().num_classes, np.int64)
        iou_sum = zeros.astype(np.float64)
        return cls(iou_sum=iou_sum, tp=zeros, fp=zeros, fn=zeros, num_overflowing=np.int64(0))

    @classmethod
    def from_model_output(
        cls, *, panoptic_label: Array, panoptic_prediction: Array, valid: Array, **_
    ) -> 'PanopticQuality':
        """Counts a batch.

        Args:
          panoptic_label: i32[B, H, W], the label map; instance 0 of a thing is a crowd region.
          panoptic_prediction: i32[B, H, W]; instance 0 of a thing is a segment like any other.
          valid: bool[B], false for images that only fill up the batch.

        Returns:
          the metric of the batch, in 32 bits.
        """
        count = functools.partial(
            count_matches, label_format=cls._format(), max_segments=cls.max_segments
        )
        counts = jax.vmap(count)(panoptic_label, panoptic_prediction)

        def add(values):
            keep = valid.reshape(-1, *[1] * (values.ndim - 1))
            return jnp.sum(jnp.where(keep, values, 0), axis=0, dtype=values.dtype)

        return cls(**jax.tree.map(add, counts))

    def merge(self, other: 'PanopticQuality') -> 'PanopticQuality':
        """Adds the counts up, in the precision that they have."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    def to_host(self) -> 'PanopticQuality':
        """Fetches the counts as NumPy arrays of 64 bits."""
        return _widen(self)

    def compute(self) -> dict[str, Any]:
        """Averages over classes.

        Returns:
          'All', 'Things', 'Stuff': {'pq', 'sq', 'rq': mean over the classes with a count, None if
            there is none; 'n': the number of these classes}.
          'per_class': arrays [C] 'pq', 'sq', 'rq' (0 where undefined), 'tp', 'fp', 'fn' and
            'valid', true for classes with a count.

        Raises:
          ValueError: an image had more segments than `max_segments`.
        """
        counts = self.to_host()
        if counts.num_overflowing:
            raise ValueError(
                f'{counts.num_overflowing} images have more than max_segments '
                f'(={self.max_segments}) segments in the label map or the prediction: raise '
                f'max_segments in PanopticQuality.for_format'
            )
        size = counts.tp + 0.5 * counts.fp + 0.5 * counts.fn
        valid = size > 0
        sq = counts.iou_sum / np.maximum(counts.tp, 1)
        rq = counts.tp / np.where(valid, size, 1)
        per_class = {'pq': counts.iou_sum / np.where(valid, size, 1), 'sq': sq, 'rq': rq}

        def average(classes):
            chosen = [c for c in classes if valid[c]]
            means = {k: float(v[chosen].mean()) if chosen else None for k, v in per_class.items()}
            return {**means, 'n': len(chosen)}

        label_format = self._format()
        result = {
            'All': average(range(label_format.num_classes)),
            'Things': average(label_format.thing_classes),
            'Stuff': average(label_format.stuff_classes),
        }
        per_class.update(tp=counts.tp, fp=counts.fp, fn=counts.fn, valid=valid)
        return {**result, 'per_class': per_class}

    @classmethod
    def _format(cls) -> LabelFormat:
        if cls.label_format is None:
            raise ValueError('PanopticQuality has no label format: use PanopticQuality.for_format')
        return cls.label_format


@functools.cache
def _make_class(label_format, max_segments):
    attributes = {'label_format': label_format, 'max_segments': max_segments}
    return flax.struct.dataclass(type('PanopticQuality', (PanopticQuality,), attributes))


def count_matches(
    label: Array, prediction: Array, *, label_format: LabelFormat, max_segments: int
) -> dict[str, Array]:
    """Matches the segments of one image.

    A pair matches if its classes agree and IoU > 0.5, decided in integers. The union leaves out
    predicted pixels on void, not those on crowd. A prediction that matches nothing is no false
    positive if more than half of it lies on void and crowds of its own class.

    Args:
      label: i32[H, W]; void is every label whose class is ignored or not among the classes.
      prediction: i32[H, W]; void alike.
      label_format: how classes and instances are coded.
      max_segments: rows S for the distinct segments of either map.

    Returns:
      'iou_sum': f32[C], 'tp', 'fp', 'fn': i32[C], 'num_overflowing': i32[], 0 or 1.

    Source: panopticapi, evaluation.py.
    """
    divisor = label_format.label_divisor
    label_ids, label_index, label_count = _list_segments(label, label_format, max_segments)
    ids, index, count = _list_segments(prediction, label_format, max_segments)
    # The last row and column collect void.
    shared = count_pairs(label_index, index, max_segments + 1, max_segments + 1)
    overlap = shared[:-1, :-1]
    label_area, area = jnp.sum(shared[:-1], axis=1), jnp.sum(shared[:, :-1], axis=0)
    on_void = shared[-1, :-1]

    label_class, predicted_class = label_ids // divisor, ids // divisor
    is_label, is_prediction = label_ids < label_format.num_labels, ids < label_format.num_labels
    things = jnp.asarray(label_format.thing_classes, jnp.int32)
    is_crowd = jnp.isin(label_class, things) & (label_ids % divisor == 0) & is_label
    agrees = label_class[:, None] == predicted_class[None, :]

    union = label_area[:, None] + area[None, :] - overlap - on_void[None, :]
    is_match = agrees & (is_label & ~is_crowd)[:, None] & (2 * overlap > union)
    iou = jnp.where(is_match, overlap / jnp.maximum(union, 1), 0.0)

    on_crowd = jnp.sum(jnp.where(agrees & is_crowd[:, None], overlap, 0), axis=0)
    is_matched = jnp.any(is_match, axis=0)
    is_excused = 2 * (on_void + on_crowd) > area
    is_false = is_prediction & ~is_matched & ~is_excused
    is_missed = is_label & ~is_crowd & ~jnp.any(is_match, axis=1)

    classes = jnp.arange(label_format.num_classes, dtype=jnp.int32)

    def add_by_class(values, segment_class):
        return jnp.sum(jnp.where(segment_class == classes[:, None], values, 0), axis=1)

    return {
        'iou_sum': add_by_class(jnp.sum(iou, axis=0), predicted_class),
        'tp': add_by_class(is_matched.astype(jnp.int32), predicted_class),
        'fp': add_by_class(is_false.astype(jnp.int32), predicted_class),
        'fn': add_by_class(is_missed.astype(jnp.int32), label_class),
        'num_overflowing': (jnp.maximum(label_count, count) > max_segments).astype(jnp.int32),
    }


def _list_segments(labels, label_format, max_segments):
    """Labels i32[S], filled with num_labels; the row of every pixel, S on void; their number."""
    num_labels = label_format.num_labels
    semantic = labels // label_format.label_divisor
    is_segment = (semantic >= 0) & (semantic < label_format.num_classes)
    is_segment &= semantic != label_format.ignore_label
    labels = jnp.where(is_segment, labels, num_labels)
    ids, count = unique_labels(labels, size=max_segments, num_labels=num_labels)
    return ids, index_labels(labels, ids, num_labels=num_labels), count


def _widen(tree):
    """Fetches a tree of arrays and widens integers to int64 and floats to float64."""

    def widen(array):
        wide = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
        return np.asarray(array, wide)

    return jax.tree.map(widen, jax.device_get(tree))
