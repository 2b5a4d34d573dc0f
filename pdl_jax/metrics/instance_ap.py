"""Average precision of instance masks: the device tabulates segments, the host ranks them."""

import functools
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from pdl_jax.metrics import cityscapes_ap, coco_ap
from pdl_jax.metrics.format_metric import FormatMetric, make_class, refuse_overflow
from pdl_jax.metrics.instances import Instances
from pdl_jax.metrics.segment_overlap import overlap_segments
from pdl_jax.ops.segments import first_pixels
from pdl_jax.typing import Array, LabelFormat


@struct.dataclass
class InstanceTables(FormatMetric):
    """Tables of the labelled and predicted segments of each image; base class of the metrics below.

    Ranking needs all detections of a class, so the state grows by about 50 bytes * `max_segments`
    per image.

    Attributes:
      batches: tables [B, S] of `describe_instances`, one dict per batch.
    """

    batches: tuple[dict[str, Array], ...]

    max_segments: ClassVar[int] = 0

    @classmethod
    def for_format(cls, label_format: LabelFormat, *, max_segments: int = 256) -> type[Self]:
        """Makes the metric class of a dataset; the same for the same arguments.

        Args:
          label_format: encoding of classes and instances.
          max_segments: largest number of segments in a label map or a prediction.
        """
        return make_class(cls, label_format=label_format, max_segments=max_segments)

    @classmethod
    def empty(cls) -> Self:
        """Returns the state without images."""
        return cls(batches=())

    @classmethod
    def from_model_output(
        cls,
        *,
        panoptic_label: Array,
        panoptic_prediction: Array,
        segment_table: dict[str, Array],
        valid: Array,
        **_: Any,
    ) -> Self:
        """Tabulates a batch.

        Args:
          panoptic_label: i32[B, H, W], label maps; instance 0 of a thing is a crowd region.
          panoptic_prediction: i32[B, H, W], predictions.
          segment_table: scores of the predicted segments, 'label' i32[B, R] panoptic labels and
            'score' f32[B, R]; segments without a row have score 0.
          valid: bool[B], false for images that pad the batch.
        """
        describe = functools.partial(
            describe_instances, label_format=cls.format(), max_segments=cls.max_segments
        )
        scores = {key: segment_table[key] for key in ('label', 'score')}
        return cls(
            batches=(jax.vmap(describe)(panoptic_label, panoptic_prediction, scores, valid),)
        )

    # pyright cannot tell that the type variable of `Metric.merge` is the class itself.
    def merge(self, other: Self) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Concatenates the batches of both."""
        return type(self)(batches=self.batches + other.batches)

    def to_host(self) -> Self:
        """Fetches the tables as NumPy arrays."""
        return jax.device_get(self)

    def list_instances(self) -> list[Instances]:
        """Extracts the things of each image from the tables.

        Raises:
          ValueError: an image has more than `max_segments` segments.
        """
        batches = self.to_host().batches
        refuse_overflow(sum(int(b['is_overflowing'].sum()) for b in batches), type(self))
        return [
            _select_things(jax.tree.map(lambda array, i=i: array[i], batch), self.format())
            for batch in batches
            for i in range(len(batch['valid']))
            if batch['valid'][i]
        ]


@struct.dataclass
class InstanceAP(InstanceTables):
    """Average precision and recall of COCO; use the subclass that `for_format` returns."""

    def compute(self) -> dict[str, Any]:
        """Averages over thresholds and classes; see `coco_ap.average_precision`."""
        num_classes = self.format().num_classes
        images = [coco_ap.match(i, num_classes=num_classes) for i in self.list_instances()]
        return coco_ap.average_precision(coco_ap.concatenate(images, num_classes=num_classes))


@struct.dataclass
class CityscapesAP(InstanceTables):
    """Average precision of Cityscapes; use the subclass that `for_format` returns.

    Caravans and trailers, which the dataset labels but does not score, are void in a panoptic map,
    so that detections on them are excused; cityscapesscripts excuses only those on groups of them.
    """

    def compute(self) -> dict[str, Any]:
        """Averages over thresholds and classes; see `cityscapes_ap.average_precision`."""
        num_classes = self.format().num_classes
        images = [cityscapes_ap.match(i, num_classes=num_classes) for i in self.list_instances()]
        joined = cityscapes_ap.concatenate(images, num_classes=num_classes)
        return cityscapes_ap.average_precision(joined)


def describe_instances(
    label: Array,
    prediction: Array,
    scores: dict[str, Array],
    valid: Array,
    *,
    label_format: LabelFormat,
    max_segments: int,
) -> dict[str, Array]:
    """Tabulates what average precision needs of the segments of one image.

    A label that matches a prediction with an IoU of at least 0.5 covers at least half of it, so
    only the two labels that cover most of it can match. Ties of the score are broken by the first
    pixel in raster order, as in DeepLab2.

    Args:
      label, prediction: i32[H, W], see `overlap_segments`.
      scores: 'label' i32[R] and 'score' f32[R] of predicted segments.
      valid: bool[], false for an image that pads the batch; returned unchanged.
      label_format: encoding of classes and instances.
      max_segments: number of rows S for the segments of a map.

    Returns:
      'label_id', 'label_area', 'id', 'area', 'on_void': i32[S], see `SegmentOverlap`;
      'score': f32[S], score of the prediction; 'first_pixel': i32[S], its first pixel in raster
        order;
      'on_small', 'on_crowd': i32[S], pixels of the prediction on labels of its class that are small
        by the rules of Cityscapes, and on the crowd of its class;
      'row', 'overlap': i32[S, 2], the two labels of its class that cover most of it, and the pixels
        shared with each;
      'is_overflowing', 'valid': bool[].
    """
    s = overlap_segments(label, prediction, label_format=label_format, max_segments=max_segments)
    has_row = s.ids[:, None] == scores['label'][None, :]
    own_class = jnp.where(s.agrees, s.overlap, 0)
    is_small = s.label_area < cityscapes_ap.MIN_AREA_PX
    objects = jnp.where(s.is_crowd[:, None], 0, own_class)
    overlap, row = lax.top_k(objects.T, 2)
    return {
        'label_id': s.label_ids,
        'label_area': s.label_area,
        'id': s.ids,
        'area': s.area,
        'on_void': s.on_void,
        'score': jnp.sum(jnp.where(has_row, scores['score'], 0.0), axis=1),
        'first_pixel': first_pixels(s.row_of_pixel, max_segments),
        'on_small': jnp.sum(jnp.where(is_small[:, None], own_class, 0), axis=0),
        'on_crowd': jnp.sum(jnp.where(s.is_crowd[:, None], own_class, 0), axis=0),
        'row': row,
        'overlap': overlap,
        'is_overflowing': s.is_overflowing & valid,
        'valid': valid,
    }


def _select_things(table: dict[str, np.ndarray], label_format: LabelFormat) -> Instances:
    """Extracts the things from the table of one image, arrays [S]."""
    divisor = label_format.label_divisor
    # Rows without a segment hold `num_labels`, whose class is the one appended here.
    is_thing = np.append(label_format.thing_table(), False)
    labels = np.flatnonzero(is_thing[table['label_id'] // divisor])
    detections = np.flatnonzero(is_thing[table['id'] // divisor])
    detections = detections[np.argsort(table['first_pixel'][detections])]
    label_class, instance = np.divmod(table['label_id'][labels], divisor)
    detected_class = table['id'][detections] // divisor
    is_crowd = instance == 0

    # All crowds of a class have instance 0, so that they are one segment.
    crowd_of_class = np.zeros(len(is_thing), np.int64)
    crowd_of_class[label_class[is_crowd]] = np.flatnonzero(is_crowd)
    overlap = np.column_stack([table['overlap'][detections], table['on_crowd'][detections]])
    row = np.column_stack(
        [np.searchsorted(labels, table['row'][detections]), crowd_of_class[detected_class]]
    )
    column = np.broadcast_to(np.arange(len(detections))[:, None], overlap.shape)
    shares = overlap > 0
    label_area = table['label_area'][labels].astype(np.int64)
    return Instances(
        label_class=label_class,
        label_area_px=label_area,
        stated_area=label_area,
        is_crowd=is_crowd,
        detected_class=detected_class,
        area_px=table['area'][detections].astype(np.int64),
        score=table['score'][detections].astype(np.float64),
        void_px=table['on_void'][detections].astype(np.int64),
        small_px=table['on_small'][detections].astype(np.int64),
        row=row[shares],
        column=column[shares],
        overlap_px=overlap[shares].astype(np.int64),
    )
