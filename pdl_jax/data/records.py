"""Format of prepared records, and random access to the records of a split.

A split is one directory that plain TFDS reads as well:
`tfds.builder_from_directory('DIR/train').as_data_source('train')`.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from pdl_jax.data import images, split_directory
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.record_images import decode_record_image
from pdl_jax.data.split_metadata import FORMAT_VERSION, SplitMetadata, read_split_metadata
from pdl_jax.data.statistics import SplitStatistics
from pdl_jax.storage import paths

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

    def __init__(self, directory: epath.Path, split: str, metadata: SplitMetadata) -> None:
        values = metadata.values
        self.directory = directory
        self.split = split
        self.spec = metadata.spec
        self.max_size = (values['max_height_px'], values['max_width_px'])
        self.max_segments = values['max_segments']
        self.max_instances = values['max_instances']
        self.fingerprint = values['fingerprint']
        statistics = values.get('statistics')
        where = f'{os.fspath(directory)}/metadata.json'
        self.statistics = None
        if statistics:
            self.statistics = SplitStatistics.from_dict(
                statistics, num_classes=self.spec.num_classes, where=f'statistics of {where}'
            )
        # Splits of earlier versions do not name it: they have three channels.
        self.pixels = PixelFormat.from_dict(values.get('pixels', {}), source=where)
        self._num_images = values['num_images']
        self._image_id_type = _IMAGE_ID_TYPES[values['image_id_type']]
        self._stored_divisor = self.spec.label_divisor
        self._shards = metadata.shards
        # array_record's class of random access is no `Sequence` to type checkers.
        self._records: Any = None
        self._lock = threading.Lock()

    def with_label_divisor(self, label_divisor: int) -> Self:
        """Returns the split with another label divisor, to which labels are translated.

        The splits of a data set may have different ones, since an image of one of them had too many
        objects for the usual one.

        Args:
          label_divisor: the divisor, at least the one of the records.

        Raises:
          ValueError: the divisor is smaller.
        """
        if label_divisor < self._stored_divisor:
            raise ValueError(
                f'label_divisor (={label_divisor}) is smaller than that of {self!r}, '
                f'{self._stored_divisor}'
            )
        changed = type(self).__new__(type(self))
        changed.__setstate__(self.__getstate__())
        changed.spec = dataclasses.replace(self.spec, label_divisor=label_divisor)
        return changed

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
            return self._parse(records[index])
        except MemoryError:
            raise
        except Exception as error:
            # ArrayRecord and protobuf raise exceptions of several types for damaged files.
            raise ValueError(
                f'record {index} of {self.directory} cannot be read: {error}; if the storage '
                f'can be reached, the file is damaged: prepare the split again with --overwrite'
            ) from error

    def _parse(self, data: bytes) -> dict[str, Any]:
        # Generated protobuf modules have no stubs.
        example_class = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
        features = example_class.FromString(data).features.feature
        texts = {
            key: features[key].bytes_list.value[0].decode('utf-8')
            for key in ('image_id', 'file_name', 'annotation_file_name')
        }
        for key in ('file_name', 'annotation_file_name'):
            if texts[key].startswith('/') or '..' in texts[key].split('/'):
                raise ValueError(f'{key} {texts[key]!r} leads out of a folder')
        return {
            'image': features['image'].bytes_list.value[0],
            'panoptic': features['panoptic'].bytes_list.value[0],
            **texts,
            'image_id': self._image_id_type(texts['image_id']),
            'height': features['height'].int64_list.value[0],
            'width': features['width'].int64_list.value[0],
        }

    def decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads and decodes one record.

        Returns:
          The image u8[H, W, pixels.num_channels] and the panoptic label i32[H, W].

        Raises:
          ValueError: the record is damaged; the message names the image file.
        """
        image, panoptic, _ = self.decode_named(index)
        return image, panoptic

    def decode_named(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Reads and decodes one record; see `decode`. The name of the image file comes last."""
        record = self[index]
        return *self._decode(index, record), record['file_name']

    def _decode(self, index: int, record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        name = f'{record["file_name"]} (record {index} of {self.directory})'
        num_channels = self.pixels.num_channels
        image = decode_record_image(record['image'], name=name, num_channels=num_channels)
        panoptic = images.decode_ids(record['panoptic'], name=f'label of {name}')
        if image.shape[:2] != panoptic.shape:
            raise ValueError(f'{name}: image {image.shape[:2]} and label {panoptic.shape} differ')
        if any(np.array(panoptic.shape) > self.max_size):
            raise ValueError(
                f'{name} has {panoptic.shape[0]}x{panoptic.shape[1]} pixels, metadata.json says at '
                f'most {self.max_size[0]}x{self.max_size[1]}: prepare the split again'
            )
        self._check_labels(panoptic, name)
        if self.spec.label_divisor != self._stored_divisor:
            semantic, instance = np.divmod(panoptic, np.int32(self._stored_divisor))
            panoptic = semantic * np.int32(self.spec.label_divisor) + instance
        return image, panoptic

    def _check_labels(self, panoptic: np.ndarray, name: str) -> None:
        """Refuses classes that the split does not have, which would be counted as others."""
        divisor = self._stored_divisor
        outside = panoptic[panoptic >= self.spec.num_classes * divisor]
        strange = outside[outside != self.spec.ignore_label * divisor]
        if strange.size:
            raise ValueError(
                f'label of {name} holds class {strange[0] // divisor} (value {strange[0]}), the '
                f'split has {self.spec.num_classes} classes: prepare it again with --overwrite'
            )

    def as_annotated_split(self) -> AnnotatedSplit:
        """Returns the split as readers return theirs, to check it."""
        return AnnotatedSplit(
            self.spec, tuple(range(len(self))), self._load, fingerprint=self.fingerprint
        )

    def _load(self, index: int) -> LoadedRecord:
        record = self[index]
        image, panoptic = self._decode(index, record)
        is_plain = self.pixels.num_channels == 3
        return LoadedRecord(
            image=record['image'] if is_plain else images.encode_image(images.show_channels(image)),
            panoptic=panoptic,
            image_id=record['image_id'],
            file_name=record['file_name'],
            annotation_file_name=record['annotation_file_name'],
        )

    def info(self, index: int) -> dict[str, Any]:
        """Returns image_id (int or str), file_name, annotation_file_name, height, width."""
        record = self[index]
        return {key: record[key] for key in record if key not in ('image', 'panoptic')}

    def _open(self) -> Any:
        # Here, so that preparing data does not wait for checkpoints to be imported.
        import grain

        with self._lock:
            if self._records is None:
                self._records = grain.sources.ArrayRecordDataSource(list(self._shards))
            return self._records

    def __getstate__(self) -> dict[str, Any]:
        return {key: v for key, v in self.__dict__.items() if key not in ('_records', '_lock')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._records = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f'RecordSource({os.fspath(self.directory)!r}, {len(self)} records)'

    def __str__(self) -> str:
        return f'the {len(self)} records of {os.fspath(self.directory)}'


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
            f'{os.fspath(path)} has no split {split!r} ({found}): prepare it with {command}'
        )
    return RecordSource(directory, split, read_split_metadata(directory))


def unify_label_divisors(*sources: RecordSource) -> tuple[RecordSource, ...]:
    """Returns splits with the largest of their label divisors."""
    largest = max(source.spec.label_divisor for source in sources)
    return tuple(
        source if source.spec.label_divisor == largest else source.with_label_divisor(largest)
        for source in sources
    )


def read_metadata(directory: epath.Path) -> dict[str, Any]:
    """Reads the metadata that `prepare` stored with the records; see `split_metadata`."""
    return read_split_metadata(directory).values


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
