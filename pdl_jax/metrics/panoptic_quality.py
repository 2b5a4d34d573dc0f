"""Panoptic quality, counted on the device by the rules of panopticapi."""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from pdl_jax.metrics.averages import average_quality
from pdl_jax.metrics.format_metric import FormatMetric, make_class, refuse_overflow
from pdl_jax.metrics.segment_overlap import add_by_class, add_images, overlap_segments
from pdl_jax.typing import Array, LabelFormat

# An IoU is truncated to three digits of 16 bits: integers sum exactly in any order, and i32 holds
# the sum of almost 2**15 matches per class and batch.
_DIGIT_BITS = 16
_NUM_DIGITS = 3


@struct.dataclass
class PanopticQuality(FormatMetric):
    """Panoptic quality; use the subclass that `for_format` returns.

    The device counts one batch in 32 bits; `to_host` widens the counts, and the host sums batches.

    Attributes:
      iou_digits: i32[C, 3], sum of the IoU of matched segments per class, in units of 2**-16,
        2**-32 and 2**-48.
      tp: i32[C], matched pairs.
      fp: i32[C], predicted segments that are neither matched nor excused.
      fn: i32[C], labelled segments without a match, crowds left out.
      num_overflowing: i32[], images with more segments than the metric has rows for.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019; panopticapi, evaluation.py.
    """

    iou_digits: Array | np.ndarray
    tp: Array | np.ndarray
    fp: Array | np.ndarray
    fn: Array | np.ndarray
    num_overflowing: Array | np.ndarray

    max_segments: ClassVar[int] = 0

    @staticmethod
    def for_format(
        label_format: LabelFormat, *, max_segments: int = 256
    ) -> type['PanopticQuality']:
        """Makes the metric class of a dataset.

        Args:
          label_format: encoding of classes and instances.
          max_segments: largest number of segments in a label map or a prediction.

        Returns:
          A subclass of `PanopticQuality`, the same for the same arguments.
        """
        return make_class(PanopticQuality, label_format=label_format, max_segments=max_segments)

    @classmethod
    def empty(cls) -> 'PanopticQuality':
        """Returns 64-bit zeros, to sum batches on the host."""
        zeros = np.zeros(cls.format().num_classes, np.int64)
        digits = np.zeros((len(zeros), _NUM_DIGITS), np.int64)
        return cls(
            iou_digits=digits, tp=zeros, fp=zeros, fn=zeros, num_overflowing=np.zeros((), np.int64)
        )

    @classmethod
    def from_model_output(
        cls, *, panoptic_label: Array, panoptic_prediction: Array, valid: Array, **_: Any
    ) -> 'PanopticQuality':
        """Counts a batch.

        Args:
          panoptic_label: i32[B, H, W], label maps; instance 0 of a thing is a crowd region.
          panoptic_prediction: i32[B, H, W], predictions; instance 0 of a thing is an ordinary
            segment.
          valid: bool[B], false for images that pad the batch.

        Returns:
          The metric of the batch, in 32 bits.
        """
        count = functools.partial(
            count_matches, label_format=cls.format(), max_segments=cls.max_segments
        )
        counts = jax.vmap(count)(panoptic_label, panoptic_prediction)
        return cls(**{key: add_images(values, valid) for key, values in counts.items()})

    def compute(self) -> dict[str, Any]:
        """Averages over classes; see `averages.average_quality`.

        Raises:
          ValueError: an image has more than `max_segments` segments.
        """
        sums = self.host_sums()
        refuse_overflow(int(sums['num_overflowing']), type(self))
        label_format = self.format()
        return average_quality(
            sum_digits(sums['iou_digits']),
            sums['tp'],
            sums['fp'],
            sums['fn'],
            thing_classes=label_format.thing_classes,
            stuff_classes=label_format.stuff_classes,
        )


class MatchedSegments(NamedTuple):
    """The segments of a label map and of a prediction, S rows each, and what each counts as.

    Attributes:
      label_class, predicted_class: i32[S], classes; beyond the last class in surplus rows.
      is_counted: bool[S], labelled segments that are to be found: crowds are left out.
      is_missed: bool[S], those among them without a match.
      is_matched: bool[S], predictions with a match.
      is_false: bool[S], predictions that are neither matched nor excused.
      iou_digits: i32[3, S], IoU of the match in units of 2**-16, 2**-32 and 2**-48; 0 without one.
      is_overflowing: bool[], true if either map has more segments than there are rows.
    """

    label_class: Array
    predicted_class: Array
    is_counted: Array
    is_missed: Array
    is_matched: Array
    is_false: Array
    iou_digits: Array
    is_overflowing: Array


def match_segments(
    label: Array, prediction: Array, *, label_format: LabelFormat, max_segments: int
) -> MatchedSegments:
    """Matches the segments of one image, each pair by itself.

    A pair matches if its classes agree and IoU > 0.5, decided in integers. The union leaves out
    predicted pixels on void, not those on crowd. A prediction that matches nothing is no false
    positive if more than half of it lies on void and crowds of its own class. So a prediction
    without some of its segments has the same matches of the others.

    Args:
      label, prediction: i32[H, W], see `overlap_segments`.
      label_format: encoding of classes and instances.
      max_segments: number of rows S for the segments of a map.

    Source: panopticapi, evaluation.py.
    """
    s = overlap_segments(label, prediction, label_format=label_format, max_segments=max_segments)
    union = s.label_area[:, None] + s.area[None, :] - s.overlap - s.on_void[None, :]
    is_match = s.agrees & ~s.is_crowd[:, None] & (2 * s.overlap > union)
    is_matched = jnp.any(is_match, axis=0)
    # A match covers more than half of the prediction's labelled pixels: no column has two.
    digits = _divide(
        jnp.sum(jnp.where(is_match, s.overlap, 0), axis=0),
        jnp.maximum(jnp.sum(jnp.where(is_match, union, 0), axis=0), 1),
    )
    on_crowd = jnp.sum(jnp.where(s.agrees & s.is_crowd[:, None], s.overlap, 0), axis=0)
    is_excused = 2 * (s.on_void + on_crowd) > s.area
    is_counted = s.is_label & ~s.is_crowd
    return MatchedSegments(
        label_class=s.label_class,
        predicted_class=s.predicted_class,
        is_counted=is_counted,
        is_missed=is_counted & ~jnp.any(is_match, axis=1),
        is_matched=is_matched,
        is_false=s.is_prediction & ~is_matched & ~is_excused,
        iou_digits=digits,
        is_overflowing=s.is_overflowing,
    )


def count_matches(
    label: Array, prediction: Array, *, label_format: LabelFormat, max_segments: int
) -> dict[str, Array]:
    """Counts the matches and mistakes of one image per class, see `match_segments`.

    Returns:
      The fields of `PanopticQuality` for the image.
    """
    s = match_segments(label, prediction, label_format=label_format, max_segments=max_segments)
    add = functools.partial(add_by_class, num_classes=label_format.num_classes)
    return {
        'iou_digits': jnp.stack([add(d, s.predicted_class) for d in s.iou_digits], axis=-1),
        'tp': add(s.is_matched.astype(jnp.int32), s.predicted_class),
        'fp': add(s.is_false.astype(jnp.int32), s.predicted_class),
        'fn': add(s.is_missed.astype(jnp.int32), s.label_class),
        'num_overflowing': s.is_overflowing.astype(jnp.int32),
    }


def sum_digits(digits: np.ndarray) -> np.ndarray:
    """Converts sums of digits, integers[..., 3], to sums of IoU, f64[...]."""
    return digits @ 2.0 ** (-_DIGIT_BITS * np.arange(1, _NUM_DIGITS + 1))


def _divide(numerator: Array, denominator: Array) -> Array:
    """Divides in integers, truncated to three digits of 16 bits.

    Args:
      numerator: i32[S], from 0 to `denominator`.
      denominator: i32[S], below 2**30.

    Returns:
      i32[3, S], the most significant digit first; a ratio of 1 has the first digit 2**16.
    """

    def find_digit(rest: Array, _: None) -> tuple[Array, Array]:
        def add_bit(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            digit, rest = state
            bit = (2 * rest >= denominator).astype(jnp.int32)
            return 2 * digit + bit, 2 * rest - bit * denominator

        return lax.fori_loop(0, _DIGIT_BITS, add_bit, (jnp.zeros_like(rest), rest))[::-1]

    is_whole = (numerator == denominator).astype(jnp.int32)
    rest = numerator - is_whole * denominator
    _, digits = lax.scan(find_digit, rest, length=_NUM_DIGITS)
    return digits.at[0].add(is_whole << _DIGIT_BITS)
