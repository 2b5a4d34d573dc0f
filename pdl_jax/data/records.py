"""Format of prepared records, and random access to the records of a split.

A split is one directory that plain TFDS reads as well:
`tfds.builder_from_directory('DIR/train').as_data_source('train')`.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from pdl_jax.data import catalog, images, split_directory
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.record_images import decode_record_image
from pdl_jax.data.statistics import SplitStatistics
from pdl_jax.storage import paths

FORMAT_VERSION = '1.0.0'

# Metadata of a split besides `spec`. Numbers are counts, except where `_px` says pixels.
_METADATA_FIELDS = {
    'num_images': int,
    'max_height_px': int,
    'max_width_px': int,
    'max_segments': int,
    'max_instances': int,
    'image_id_type': str,
    'fingerprint': str,
}
_IMAGE_ID_TYPES = {'int': int, 'str': str}


class PanopticRecords(tfds.core.ShardBasedBuilder):
    """Writes one split as ArrayRecord files without TensorFlow or Beam.

    A GeneratorBasedBuilder would not do: its shuffler spills to disk through TensorFlow once a
    split exceeds 1 GB, and sorts whole splits in memory if shuffling is off. Shards are written in
    the order of the records; training shuffles when it reads.
    """

    VERSION = tfds.core.Version(FORMAT_VERSION)
    RELEASE_NOTES = {FORMAT_VERSION: 'First version.'}

    def __init__(
        self,
        *,
        split: str,
        make_shards: Sequence[Callable[[], Iterator[tuple[int, Mapping[str, Any]]]]],
        metadata: tfds.core.MetadataDict,
        data_dir: str | os.PathLike,
    ) -> None:
        """Keeps the arguments; `download_and_prepare(file_format='array_record')` writes.

        Args:
          split: name of the split.
          make_shards: one function per shard, called in order; each returns an iterator over
            (key, example).
          metadata: metadata of the split, read after the examples have been generated.
          data_dir: an empty local directory.
        """
        self._split = split
        self._make_shards = make_shards
        self._metadata = metadata
        super().__init__(data_dir=data_dir, file_format='array_record')

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Images with one panoptic label per pixel.',
            features=_make_features(self._metadata['pixels']['num_channels']),
            metadata=self._metadata,
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Any:
        del dl_manager
        return {self._split: self._make_shards}

    def _example_writer(self) -> writer.ExampleWriter:
        return _DeterministicWriter(tfds.core.FileFormat.ARRAY_RECORD)

    def _log_download_bytes(self) -> None:
        # TFDS would print the path of the workspace, from which the split is moved afterwards.
        pass

    def _log_download_done(self) -> None:
        pass


class _DeterministicWriter(writer.ExampleWriter):
    """Writes the same bytes for the same examples in every process."""

    def write(self, path: epath.PathLike, examples: Iterable[tuple[Any, bytes]]) -> Any:
        # The features of an example are a protobuf map. Its default order of serialisation changes
        # from process to process, and TFDS does not ask for the deterministic one.
        def reserialize() -> Iterator[tuple[Any, bytes]]:
            for key, data in examples:
                # Generated protobuf modules have no stubs.
                example_class = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
                example = example_class.FromString(data)
                yield key, example.SerializeToString(deterministic=True)

        return super().write(path, reserialize())


class RecordSource:
    """Random access to the records of a prepared split; picklable and thread-safe.

    `source[i]` is the raw record, `source.decode(i)` its arrays, `source.info(i)` the rest.

    Attributes:
      directory: directory of the split.
      split: name of the split.
      spec: classes and label format.
      max_size: largest height and largest width of an image in pixels.
      max_segments: largest number of segments of an image.
      max_instances: largest number of thing instances of an image.
      fingerprint: identity of the annotations, the classes and the record format.
      statistics: counts over the labels; None for a split of version 0.2 or before.
      pixels: number of channels of the images, and the value range of their files.
    """

    def __init__(self, directory: epath.Path, split: str, metadata: Mapping[str, Any]) -> None:
        self.directory = directory
        self.split = split
        self.spec = catalog.DatasetSpec.from_dict(metadata['spec'])
        self.max_size = (metadata['max_height_px'], metadata['max_width_px'])
        self.max_segments = metadata['max_segments']
        self.max_instances = metadata['max_instances']
        self.fingerprint = metadata['fingerprint']
        statistics = metadata.get('statistics')
        self.statistics = SplitStatistics.from_dict(statistics) if statistics else None
        # Splits of earlier versions do not name it: they have three channels.
        self.pixels = PixelFormat.from_dict(
            metadata.get('pixels', {}), source=f'{os.fspath(directory)}/metadata.json'
        )
        self._num_images = metadata['num_images']
        self._image_id_type = _IMAGE_ID_TYPES[metadata['image_id_type']]
        self._records: Sequence[Any] | None = None
        self._lock = threading.Lock()

    @property
    def num_images(self) -> int:
        """Number of records."""
        return self._num_images

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one record.

        Returns:
          'image' and 'panoptic' as encoded bytes, 'image_id', 'file_name',
          'annotation_file_name', 'height', 'width'.

        Raises:
          IndexError: there is no record `index`.
          ValueError: the record file is damaged.
        """
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f'record {index} of {self.directory} is outside 0 .. {len(self) - 1}')
        records = self._open()
        try:
            record = records[index]
        except MemoryError:
            raise
        except Exception as error:
            # ArrayRecord raises exceptions of several types for damaged files.
            raise ValueError(
                f'record {index} of {self.directory} cannot be read: {error}; if the storage '
                f'can be reached, the file is damaged: prepare the split again with --overwrite'
            ) from error
        return {
            'image': record['image'],
            'panoptic': record['panoptic'],
            'image_id': self._image_id_type(_to_text(record['image_id'])),
            'file_name': _to_text(record['file_name']),
            'annotation_file_name': _to_text(record['annotation_file_name']),
            'height': int(record['height']),
            'width': int(record['width']),
        }

    def decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads and decodes one record.

        Returns:
          The image u8[H, W, pixels.num_channels] and the panoptic label i32[H, W].

        Raises:
          ValueError: the record is damaged; the message names the image file.
        """
        record = self[index]
        name = f'{record["file_name"]} (record {index} of {self.directory})'
        num_channels = self.pixels.num_channels
        image = decode_record_image(record['image'], name=name, num_channels=num_channels)
        panoptic = images.decode_ids(record['panoptic'], name=f'label of {name}')
        if image.shape[:2] != panoptic.shape:
            raise ValueError(f'{name}: image {image.shape[:2]} and label {panoptic.shape} differ')
        return image, panoptic

    def info(self, index: int) -> dict[str, Any]:
        """Returns image_id (int or str), file_name, annotation_file_name, height, width."""
        record = self[index]
        return {key: record[key] for key in record if key not in ('image', 'panoptic')}

    def _open(self) -> Sequence[Any]:
        with self._lock:
            records = self._records
            if records is None:
                skip = tfds.decode.SkipDecoding()
                builder = tfds.builder_from_directory(os.fspath(self.directory))
                records = builder.as_data_source(
                    self.split,  # pyright: ignore[reportCallIssue]  # Lost by TFDS's decorator.
                    decoders={'image': skip, 'panoptic': skip},
                )
                self._records = records
            return records

    def __getstate__(self) -> dict[str, Any]:
        return {key: v for key, v in self.__dict__.items() if key not in ('_records', '_lock')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._records = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f'RecordSource({os.fspath(self.directory)!r}, {len(self)} records)'


def open_split(path: str | os.PathLike, split: str) -> RecordSource:
    """Opens a split that `prepare` wrote.

    Args:
      path: the dataset directory, the --out of `prepare`.
      split: name of the split, e.g. 'train'.

    Raises:
      FileNotFoundError: the split is missing; the message gives the command that prepares it.
      ValueError: the split is empty, or was written in another format.
    """
    path = paths.make_path(path)
    directory = path / split
    if not split_directory.is_complete(directory):
        command = (
            f'pdl_jax prepare --format=coco_panoptic --images=IMAGES '
            f'--panoptic=PNGS --json=FILE.json --out={os.fspath(path)} --split={split}'
        )
        others = []
        if path.is_dir():
            others = sorted(p.name for p in path.iterdir() if split_directory.is_complete(p))
        found = f'it has {", ".join(others)}' if others else 'it has no prepared split'
        raise FileNotFoundError(
            f'{os.fspath(path)} has no split {split!r} ({found}): prepare it with\n  {command}'
        )
    metadata = read_metadata(directory)
    if not metadata['num_images']:
        raise ValueError(f'{os.fspath(directory)} is empty: prepare it from at least one image')
    return RecordSource(directory, split, metadata)


def read_metadata(directory: epath.Path) -> dict[str, Any]:
    """Reads the metadata that `prepare` stored with the records.

    Args:
      directory: directory of the split.

    Returns:
      The fields num_images, max_height_px, max_width_px, max_segments, max_instances,
      image_id_type, fingerprint, 'spec' as `catalog.DatasetSpec.from_dict` takes it, and, unless an
      earlier version wrote it, 'pixels' as `PixelFormat.from_dict` takes it.

    Raises:
      ValueError: the directory was written by something else, or in another format.
    """
    builder = tfds.builder_from_directory(os.fspath(directory))
    metadata = dict((builder.info.metadata or {}).items())
    for key, kind in {**_METADATA_FIELDS, 'spec': dict}.items():
        if not isinstance(metadata.get(key), kind):
            raise ValueError(
                f'{os.fspath(directory)} is a TFDS dataset but not one of `pdl_jax prepare`: '
                f'metadata.json lacks the field {key!r}'
            )
    if str(builder.version) != FORMAT_VERSION:
        raise ValueError(
            f'{os.fspath(directory)} has record format {builder.version}, this version reads '
            f'{FORMAT_VERSION}: prepare it again with --overwrite'
        )
    return metadata


def _make_features(num_channels: int) -> tfds.features.FeaturesDict:
    # Numbers of channels that PNG does not have are stored as grey planes, see `record_images`.
    stored_channels = num_channels if num_channels in (1, 3, 4) else 1
    return tfds.features.FeaturesDict(
        {
            # Bytes of the original file, in any format and mode that `images.decode_image` takes,
            # or of a PNG if the original is not of 8 bits or not upright.
            'image': tfds.features.Image(shape=(None, None, stored_channels)),
            # semantic * label_divisor + instance = R + 256 G + 65536 B.
            'panoptic': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
            'image_id': tfds.features.Text(),
            'file_name': tfds.features.Text(),
            'annotation_file_name': tfds.features.Text(),
            'height': tfds.features.Scalar(np.int32),
            'width': tfds.features.Scalar(np.int32),
        }
    )


def _to_text(value: bytes | str) -> str:
    return value.decode('utf-8') if isinstance(value, bytes) else value
