"""Mean intersection over union of semantic classes."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.metrics.averages import average_iou
from pdl_jax.metrics.format_metric import FormatMetric, make_class
from pdl_jax.metrics.segment_overlap import add_images
from pdl_jax.ops.segments import count_pairs
from pdl_jax.typing import Array, LabelFormat


@flax.struct.dataclass
class SemanticIoU(FormatMetric):
    """Confusion matrix; use the subclass that `for_format` returns.

    Pixels whose label is void do not count. A prediction of void (COCO: class 0 wins the argmax) is
    a miss of the labelled class, and void itself is never averaged; DeepLab2 averages it as a class
    of IoU 0 as soon as it is predicted.

    Attributes:
      confusion: i32[C, C + 1], pixels by labelled (row) and predicted class; the last column
        collects predictions outside of the classes.
    """

    confusion: Array

    @staticmethod
    def for_format(label_format: LabelFormat) -> type['SemanticIoU']:
        """Makes the metric class of a data set; the same for the same format."""
        return make_class(SemanticIoU, label_format=label_format)

    @classmethod
    def empty(cls) -> 'SemanticIoU':
        """Zeros in 64 bits, which only the host keeps."""
        num_classes = cls.format().num_classes
        return cls(confusion=np.zeros((num_classes, num_classes + 1), np.int64))

    @classmethod
    def from_model_output(
        cls, *, panoptic_label: Array, semantic_prediction: Array, valid: Array, **_
    ) -> 'SemanticIoU':
        """Counts a batch.

        Args:
          panoptic_label: i32[B, H, W], the label map; crowds count for their class.
          semantic_prediction: i32[B, H, W], predicted classes.
          valid: bool[B], false for images that only fill up the batch.

        Returns:
          the metric of the batch, in 32 bits: exact for fewer than 2**31 pixels.
        """
        label_format = cls.format()
        num_classes = label_format.num_classes

        def count(label, prediction):
            row = label // label_format.label_divisor
            row = jnp.where(row == label_format.ignore_label, -1, row)
            is_class = (prediction >= 0) & (prediction < num_classes)
            column = jnp.where(is_class, prediction, num_classes)
            return count_pairs(row, column, num_classes, num_classes + 1)

        confusion = jax.vmap(count)(panoptic_label, semantic_prediction)
        return cls(confusion=add_images(confusion, valid))

    def compute(self) -> dict[str, Any]:
        """Averages over classes, void excluded; see `averages.average_iou`."""
        confusion = self.to_host().confusion
        predicted = confusion[:, :-1].sum(0)
        # Void has no labelled pixels already.
        if self.format().ignore_label < len(predicted):
            predicted[self.format().ignore_label] = 0
        return average_iou(np.diagonal(confusion), confusion.sum(1), predicted)
