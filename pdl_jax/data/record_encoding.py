"""Encoding of labelled images as examples of a record file.

A module without TFDS, which worker processes would spend seconds importing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import LoadedRecord
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.record_images import encode_record_image
from pdl_jax.data.statistics import ImageStatistics, count_labels


class EncodedRecord(NamedTuple):
    """An example and its share in the metadata of the split.

    Attributes:
      example: values of the features of `records`.
      image_id_type: 'int' or 'str'.
      num_segments: number of segments, crowds included, void excluded.
      num_instances: number of thing instances.
      statistics: counts over the label.
      image_changes: what was done to the image, see `record_images`.
    """

    example: dict[str, Any]
    image_id_type: str
    num_segments: int
    num_instances: int
    statistics: ImageStatistics
    image_changes: tuple[str, ...] = ()


def encode_item(
    item: Any,
    *,
    load: Callable[[Any], LoadedRecord],
    spec: catalog.DatasetSpec,
    pixels: PixelFormat = PixelFormat(),  # noqa: B008 - it is immutable.
    has_range: bool = True,
) -> EncodedRecord:
    """Loads and encodes one item of an `AnnotatedSplit`.

    Args:
      item: the item.
      load: the split's function that loads it.
      spec: classes and label format.
      pixels, has_range: see `record_images.encode_record_image`.

    Raises:
      ValueError: a file is damaged or contradicts the others.
    """
    loaded = load(item)
    height, width = loaded.panoptic.shape
    image = encode_record_image(
        loaded.image,
        size=(height, width),
        name=loaded.file_name,
        pixels=pixels,
        has_range=has_range,
    )
    example = {
        'image': image.data,
        'panoptic': images.encode_ids(loaded.panoptic),
        'image_id': str(loaded.image_id),
        'file_name': loaded.file_name,
        'annotation_file_name': loaded.annotation_file_name,
        'height': height,
        'width': width,
    }
    labels = np.flatnonzero(np.bincount(loaded.panoptic.ravel()))
    labels = labels[labels != spec.label_format.void_label]
    num_instances = int((labels % spec.label_divisor > 0).sum())
    return EncodedRecord(
        example,
        type(loaded.image_id).__name__,
        len(labels),
        num_instances,
        count_labels(loaded.panoptic, spec),
        image.changes,
    )
