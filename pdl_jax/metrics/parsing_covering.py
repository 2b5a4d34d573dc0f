"""Parsing covering, counted on the device: labelled segments with their best IoU, by area."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pdl_jax.metrics.averages import average_covering
from pdl_jax.metrics.format_metric import FormatMetric, make_class, refuse_overflow
from pdl_jax.metrics.segment_overlap import add_by_class, add_images, overlap_segments
from pdl_jax.typing import Array, LabelFormat


@struct.dataclass
class ParsingCovering(FormatMetric):
    """Parsing covering; use the subclass that `for_format` returns.

    Averages the best IoU of each labelled segment among the predictions of its class, weighted by
    the area of the segment. There is no threshold, and superfluous predictions are not penalised.
    Pixels labelled void or crowd are removed from predictions.

    Attributes:
      weighted_iou: f32[C], sum over labelled segments of area times best IoU.
      area: f32[C], sum of these areas.
      num_overflowing: i32[], images with more segments than the metric has rows for.

    Source: Yang et al., DeeperLab, 2019; tensorflow/models, deeplab/evaluation/parsing_covering.py.
    """

    weighted_iou: Array | np.ndarray
    area: Array | np.ndarray
    num_overflowing: Array | np.ndarray

    max_segments: ClassVar[int] = 0
    is_area_normalized: ClassVar[bool] = True

    @staticmethod
    def for_format(
        label_format: LabelFormat, *, max_segments: int = 256, is_area_normalized: bool = True
    ) -> type['ParsingCovering']:
        """Makes the metric class of a dataset.

        Args:
          label_format: encoding of classes and instances.
          max_segments: largest number of segments in a label map or a prediction.
          is_area_normalized: true to divide areas by the area of their image, so that large images
            do not weigh more.

        Returns:
          A subclass of `ParsingCovering`, the same for the same arguments.
        """
        return make_class(
            ParsingCovering,
            label_format=label_format,
            max_segments=max_segments,
            is_area_normalized=is_area_normalized,
        )

    @classmethod
    def empty(cls) -> 'ParsingCovering':
        """Returns 64-bit zeros, to sum batches on the host."""
        zeros = np.zeros(cls.format().num_classes)
        return cls(weighted_iou=zeros, area=zeros, num_overflowing=np.zeros((), np.int64))

    @classmethod
    def from_model_output(
        cls,
        *,
        panoptic_label: Array,
        panoptic_prediction: Array,
        size: Array,
        valid: Array,
        **_: Any,
    ) -> 'ParsingCovering':
        """Counts a batch.

        Args:
          panoptic_label: i32[B, H, W], label maps.
          panoptic_prediction: i32[B, H, W], predictions.
          size: i32[B, 2], (height, width) of the images in pixels; beyond them maps are void.
          valid: bool[B], false for images that pad the batch.

        Returns:
          The metric of the batch, in 32 bits.
        """
        cover = functools.partial(
            cover_labels, label_format=cls.format(), max_segments=cls.max_segments
        )
        sums = jax.vmap(cover)(panoptic_label, panoptic_prediction)
        if cls.is_area_normalized:
            pixels = jnp.maximum(jnp.prod(size, axis=-1), 1)[:, None]
            sums['weighted_iou'] /= pixels
            sums['area'] /= pixels
        return cls(**{key: add_images(values, valid) for key, values in sums.items()})

    def compute(self) -> dict[str, Any]:
        """Averages over classes; see `averages.average_covering`.

        Raises:
          ValueError: an image has more than `max_segments` segments.
        """
        sums = self.host_sums()
        refuse_overflow(int(sums['num_overflowing']), type(self))
        label_format = self.format()
        return average_covering(
            sums['weighted_iou'],
            sums['area'],
            thing_classes=label_format.thing_classes,
            stuff_classes=label_format.stuff_classes,
        )


def cover_labels(
    label: Array, prediction: Array, *, label_format: LabelFormat, max_segments: int
) -> dict[str, Array]:
    """Sums the best IoU of the labelled segments of one image, weighted by area.

    Args:
      label, prediction: i32[H, W], see `overlap_segments`.
      label_format: encoding of classes and instances.
      max_segments: number of rows S for the segments of a map.

    Returns:
      The fields of `ParsingCovering` for the image, areas in pixels.
    """
    s = overlap_segments(label, prediction, label_format=label_format, max_segments=max_segments)
    on_crowd = jnp.sum(jnp.where(s.is_crowd[:, None], s.overlap, 0), axis=0)
    area = s.area - s.on_void - on_crowd
    union = s.label_area[:, None] + area[None, :] - s.overlap
    iou = jnp.where(s.agrees, s.overlap / jnp.maximum(union, 1), 0.0)
    label_area = jnp.where(s.is_crowd, 0, s.label_area).astype(jnp.float32)
    add = functools.partial(add_by_class, num_classes=label_format.num_classes)
    return {
        'weighted_iou': add(label_area * jnp.max(iou, axis=1), s.label_class),
        'area': add(label_area, s.label_class),
        'num_overflowing': s.is_overflowing.astype(jnp.int32),
    }
