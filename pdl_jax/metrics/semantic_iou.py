"""Mean intersection over union of semantic classes, counted on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pdl_jax.metrics.averages import average_iou
from pdl_jax.metrics.format_metric import FormatMetric, make_class
from pdl_jax.metrics.segment_overlap import add_images
from pdl_jax.ops.segments import count_pairs
from pdl_jax.typing import Array, LabelFormat


@struct.dataclass
class SemanticIoU(FormatMetric):
    """Confusion matrix of classes; use the subclass that `for_format` returns.

    Pixels labelled void do not count. A prediction of void (COCO: class 0 wins the argmax) is a
    miss of the labelled class, and void itself is never averaged; DeepLab2 averages it with an IoU
    of 0 once it is predicted.

    Attributes:
      confusion: i32[C, C + 1], pixels by labelled (row) and predicted class (column); the last
        column counts predictions beyond the classes.
    """

    confusion: Array | np.ndarray

    @staticmethod
    def for_format(label_format: LabelFormat) -> type['SemanticIoU']:
        """Makes the metric class of a dataset; the same for the same format."""
        return make_class(SemanticIoU, label_format=label_format)

    @classmethod
    def empty(cls) -> 'SemanticIoU':
        """Returns 64-bit zeros, to sum batches on the host."""
        num_classes = cls.format().num_classes
        return cls(confusion=np.zeros((num_classes, num_classes + 1), np.int64))

    @classmethod
    def from_model_output(
        cls, *, panoptic_label: Array, semantic_prediction: Array, valid: Array, **_: Any
    ) -> 'SemanticIoU':
        """Counts a batch.

        Args:
          panoptic_label: i32[B, H, W], label maps; crowds count for their class.
          semantic_prediction: i32[B, H, W], predicted classes.
          valid: bool[B], false for images that pad the batch.

        Returns:
          The metric of the batch, in 32 bits: exact for fewer than 2**31 pixels.
        """
        label_format = cls.format()
        num_classes = label_format.num_classes

        def count(label: Array, prediction: Array) -> Array:
            row = label // label_format.label_divisor
            row = jnp.where(row == label_format.ignore_label, -1, row)
            is_class = (prediction >= 0) & (prediction < num_classes)
            column = jnp.where(is_class, prediction, num_classes)
            return count_pairs(row, column, num_classes, num_classes + 1)

        confusion = jax.vmap(count)(panoptic_label, semantic_prediction)
        return cls(confusion=add_images(confusion, valid))

    def compute(self) -> dict[str, Any]:
        """Averages over classes, void excluded; see `averages.average_iou`."""
        confusion = self.host_sums()['confusion']
        predicted = confusion[:, :-1].sum(0)
        # Pixels labelled void are not in the matrix; those predicted as void must not count either.
        if self.format().ignore_label < len(predicted):
            predicted[self.format().ignore_label] = 0
        return average_iou(np.diagonal(confusion), confusion.sum(1), predicted)
