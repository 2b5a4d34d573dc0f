"""Top-1 and top-5 accuracy of classified images, counted on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pdl_jax.metrics.format_metric import FormatMetric, make_class
from pdl_jax.ops.image_classes import find_classes
from pdl_jax.typing import Array, LabelFormat

_TOP = 5


@struct.dataclass
class ClassAccuracy(FormatMetric):
    """Confusion matrix of images and hits among the five best classes; use `for_format`'s subclass.

    Images of void alone do not count. A hit needs fewer than five classes with a higher score, so
    that ties count for the image.

    Attributes:
      confusion: i32[C, C + 1], images by true (row) and most probable class (column); the last
        column is empty, as in `SemanticIoU` that of predictions beyond the classes.
      top5: i32[C], images whose true class is among the five most probable ones, by true class.
    """

    confusion: Array | np.ndarray
    top5: Array | np.ndarray

    @staticmethod
    def for_format(label_format: LabelFormat) -> type['ClassAccuracy']:
        """Makes the metric class of a dataset; the same for the same format."""
        return make_class(ClassAccuracy, label_format=label_format)

    @classmethod
    def empty(cls) -> 'ClassAccuracy':
        """Returns 64-bit zeros, to sum batches on the host."""
        num_classes = cls.format().num_classes
        zeros = np.zeros((num_classes, num_classes + 1), np.int64)
        return cls(confusion=zeros, top5=zeros[:, 0])

    @classmethod
    def from_model_output(
        cls, *, panoptic_label: Array, image_scores: Array, valid: Array, **_: Any
    ) -> 'ClassAccuracy':
        """Counts a batch.

        Args:
          panoptic_label: i32[B, H, W], label maps; the pixels of an image share a class.
          image_scores: f32[B, C], the higher the more probable.
          valid: bool[B], false for images that pad the batch.
        """
        label_format = cls.format()
        num_classes = label_format.num_classes
        label = find_classes(panoptic_label, label_format=label_format)
        counted = (valid & (label >= 0)).astype(jnp.int32)
        is_label = jax.nn.one_hot(label, num_classes, dtype=jnp.int32) * counted[:, None]
        is_best = jax.nn.one_hot(
            jnp.argmax(image_scores, axis=-1), num_classes + 1, dtype=jnp.int32
        )
        own = jnp.take_along_axis(image_scores, jnp.maximum(label, 0)[:, None], axis=-1)
        is_hit = jnp.sum(image_scores > own, axis=-1) < _TOP
        return cls(
            # Few rows: a product costs less than a scatter over a sharded batch.
            confusion=is_label.T @ is_best,
            top5=jnp.sum(is_label * is_hit[:, None], axis=0),
        )

    def compute(self) -> dict[str, Any]:
        """Returns 'top1' and 'top5' in [0, 1], and 'per_class': {'accuracy', 'valid'} arrays [C].

        NaN where no image counts; 'valid' marks the classes that have images.
        """
        sums = self.host_sums()
        right, total = np.diagonal(sums['confusion']), sums['confusion'].sum(1)
        num_images = total.sum()

        def share(count: Any, number: Any) -> Any:
            return np.where(number > 0, count / np.maximum(number, 1), np.nan)

        return {
            'top1': float(share(right.sum(), num_images)),
            'top5': float(share(sums['top5'].sum(), num_images)),
            'per_class': {'accuracy': share(right, total), 'valid': total > 0},
        }
