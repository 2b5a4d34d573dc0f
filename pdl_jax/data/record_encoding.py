"""Encoding of labelled images as examples of a record file, and hashes of what they came from.

A module without TFDS, which worker processes would spend seconds importing.
"""

import concurrent.futures
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from pdl_jax.data import catalog, images
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.data.fingerprints import NUM_READERS, hash_files
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.record_images import encode_record_image
from pdl_jax.data.statistics import ImageStatistics, count_labels


class EncodedRecord(NamedTuple):
    """An example and its share in the metadata of the split.

    Attributes:
      example: values of the features of `records`.
      image_id_type: 'int' or 'str'.
      statistics: counts over the label.
      image_changes: what was done to the image, see `record_images`.
      files_hash: see `hash_item`.
      remarks: see `LoadedRecord`.
    """

    example: dict[str, Any]
    image_id_type: str
    statistics: ImageStatistics
    image_changes: tuple[str, ...]
    files_hash: str
    remarks: Mapping[str, int]


def encode_item(
    item: Any,
    *,
    load: Callable[[Any], LoadedRecord],
    list_files: Callable[[Any], tuple[epath.Path, ...]] | None,
    spec: catalog.DatasetSpec,
    pixels: PixelFormat = PixelFormat(),  # noqa: B008 - it is immutable.
    has_range: bool = True,
) -> EncodedRecord:
    """Loads and encodes one item of an `AnnotatedSplit`.

    Args:
      item: the item.
      load, list_files: the split's functions.
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
    return EncodedRecord(
        example,
        image_id_type=type(loaded.image_id).__name__,
        statistics=count_labels(loaded.panoptic, spec),
        image_changes=image.changes,
        files_hash=hash_item(item, list_files=list_files, load=load, loaded=loaded),
        remarks=loaded.remarks,
    )


def hash_item(
    item: Any,
    *,
    list_files: Callable[[Any], tuple[epath.Path, ...]] | None,
    load: Callable[[Any], LoadedRecord],
    loaded: LoadedRecord | None = None,
) -> str:
    """Returns a SHA-256 in hex that changes if the files of an item change.

    Args:
      item: the item of an `AnnotatedSplit`.
      list_files, load: see `AnnotatedSplit`.
      loaded: the loaded item, if it is at hand.

    Raises:
      OSError: a file cannot be read.
      ValueError: the item had to be loaded, and a file is damaged.
    """
    if list_files is not None:
        return hash_files(list_files(item))
    record = load(item) if loaded is None else loaded
    digest = hashlib.sha256(record.image)
    digest.update(f'{record.panoptic.shape}'.encode() + record.panoptic.tobytes())
    return digest.hexdigest()


def hash_items(split: AnnotatedSplit) -> Iterator[str]:
    """Yields `hash_item` of every item."""
    hash_one = functools.partial(hash_item, list_files=split.list_files, load=split.load)
    with concurrent.futures.ThreadPoolExecutor(NUM_READERS) as pool:
        yield from pool.map(hash_one, split.items)
