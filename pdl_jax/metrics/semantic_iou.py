"""Mean intersection over union of semantic classes."""

import functools
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from pdl_jax.ops.segments import count_pairs
from pdl_jax.typing import Array, LabelFormat


@flax.struct.dataclass
class SemanticIoU(metrics.Metric):
    """Confusion matrix; use the subclass that `for_format` returns.

    Pixels whose label is void do not count. A prediction of void (COCO: class 0 wins the argmax) is
    a miss of the labelled class, and void itself is never averaged; DeepLab2 averages it as a class
    of IoU 0 as soon as it is predicted.

    Attributes:
      confusion: i32[C, C + 1], pixels by labelled (row) and predicted class; the last column
        collects predictions outside of the classes.
    """

    confusion: Array

    label_format: ClassVar[LabelFormat | None] = None

    @staticmethod
    @functools.cache
    def for_format(label_format: LabelFormat) -> type['SemanticIoU']:
        """Makes the metric class of a data set; the same for the same format."""
        attributes = {'label_format': label_format}
        return flax.struct.dataclass(type('SemanticIoU', (SemanticIoU,), attributes))

    @classmethod
    def empty(cls) -> 'SemanticIoU':
        """Zeros in 64 bits, which only the host keeps."""
        num_classes = cls._format().num_classes
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
        label_format = cls._format()
        num_classes = label_format.num_classes

        def count(label, prediction):
            row = label // label_format.label_divisor
            row = jnp.where(row == label_format.ignore_label, -1, row)
            is_class = (prediction >= 0) & (prediction < num_classes)
            column = jnp.where(is_class, prediction, num_classes)
            return count_pairs(row, column, num_classes, num_classes + 1)

        confusion = jax.vmap(count)(panoptic_label, semantic_prediction)
        return cls(confusion=jnp.sum(jnp.where(valid[:, None, None], confusion, 0), axis=0))

    def merge(self, other: 'SemanticIoU') -> 'SemanticIoU':
        """Adds the matrices up, in the precision that they have."""
        return self.replace(confusion=self.confusion + other.confusion)

    def to_host(self) -> 'SemanticIoU':
        """Fetches the matrix as a NumPy array of 64 bits."""
        return self.replace(confusion=np.asarray(jax.device_get(self.confusion), np.int64))

    def compute(self) -> dict[str, Any]:
        """Averages over classes.

        Returns:
          'miou': mean over the classes that labelled pixels have or are predicted to have, void
            excluded; None if there is none.
          'n': the number of these classes.
          'pixel_accuracy': share of labelled pixels whose class is right; None if there are none.
          'per_class': arrays [C] 'iou' (0 where undefined) and 'valid', true for those classes.
        """
        confusion = self.to_host().confusion
        right = np.diagonal(confusion)
        size = confusion.sum(1) + confusion[:, :-1].sum(0) - right
        valid = size > 0
        if self._format().ignore_label < len(valid):
            valid[self._format().ignore_label] = False
        iou = np.where(valid, right / np.maximum(size, 1), 0.0)
        total = confusion.sum()
        return {
            'miou': float(iou[valid].mean()) if valid.any() else None,
            'n': int(valid.sum()),
            'pixel_accuracy': float(right.sum() / total) if total else None,
            'per_class': {'iou': iou, 'valid': valid},
        }

    @classmethod
    def _format(cls) -> LabelFormat:
        if cls.label_format is None:
            raise ValueError('SemanticIoU needs a label format: use SemanticIoU.for_format(...)')
        return cls.label_format
