"""Reads classified images of TensorFlow Datasets: CIFAR-10, ImageNet and all with image and label.

The folder is that of one version, such as tfds/cifar10/3.0.2, with ArrayRecord files. Its JSON
files are read here and not by TFDS, which imports whatever class features.json names; TensorFlow is
not needed.
"""

import functools
import os
from typing import Any

from etils import epath

from pdl_jax.data.annotated_split import AnnotatedSplit
from pdl_jax.data.classified_split import (
    MAX_SIDE_PX,
    ClassifiedImage,
    make_class_spec,
    make_classified_split,
)
from pdl_jax.data.json_fields import get_field, get_integer
from pdl_jax.data.notices import Notices
from pdl_jax.data.split_metadata import Shard
from pdl_jax.data.text_files import read_json, read_names
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import refuse_irregular

_REMEDY = 'give the folder of one version, such as tfds/cifar10/3.0.2'
_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
_FORMAT = 'array_record'
_MAX_SHARDS = 2**16
_MAX_CLASSES = 2**14
_FEATURES = 'tensorflow_datasets.core.features.'
_IMAGE, _LABEL = f'{_FEATURES}image_feature.Image', f'{_FEATURES}class_label_feature.ClassLabel'


def read_split(
    root: str | os.PathLike, split: str, *, max_side_px: int = MAX_SIDE_PX
) -> AnnotatedSplit:
    """Reads a split of a data set of TFDS with the features 'image' and 'label'.

    Args:
      root: folder of a version of the data set.
      split: name of the split in TFDS, such as 'train' or 'test'.
      max_side_px: longest side of stored images, see `make_classified_split`.

    Raises:
      ValueError: the data set has other features or another file format, or a file is damaged.
      FileNotFoundError: a file is missing.
    """
    # TFDS takes seconds to import: only reading imports it.
    root = paths.make_path(root)
    name, shards = _read_shards(root, split)
    names = _read_class_names(root)
    read_record = functools.partial(_Records.of, tuple(map(_to_tuple, shards)))
    labels = [read_record().read_label(i, len(names)) for i in range(sum(s.take for s in shards))]
    width = max(6, len(str(len(labels))))
    items = [ClassifiedImage(f'{split}_{i:0{width}d}.png', x) for i, x in enumerate(labels)]
    notices = Notices()
    return make_classified_split(
        make_class_spec(name, names, source=os.fspath(root), notices=notices),
        items,
        images_dir=root,
        max_side_px=max_side_px,
        read=functools.partial(_read_image, shards=tuple(map(_to_tuple, shards))),
        notices=notices,
    )


def _read_shards(root: epath.Path, split: str) -> tuple[str, list[Shard]]:
    """Reads the name of the data set and the record files of a split."""
    path = root / 'dataset_info.json'
    info, where = read_json(path, remedy=_REMEDY), os.fspath(path)
    name = get_field(info, 'name', str, where)
    file_format = get_field(info, 'fileFormat', str, where) if 'fileFormat' in info else 'tfrecord'
    if file_format != _FORMAT:
        raise ValueError(
            f'{where}: fileFormat is {file_format!r}, which needs TensorFlow: build the data set '
            f'with `tfds build {name} --file_format={_FORMAT}`, or convert it with `tfds '
            f'convert_format`'
        )
    splits = {
        get_field(entry, 'name', str, f'splits of {where}'): entry
        for entry in get_field(info, 'splits', list, where)
    }
    if split not in splits:
        raise ValueError(f'{where} has no split {split!r}: choose {" or ".join(splits)}')
    entry, place = splits[split], f'split {split!r} of {where}'
    if entry.get('filepathTemplate', _TEMPLATE) not in (_TEMPLATE, ''):
        raise ValueError(f'{place}: filepathTemplate must be {_TEMPLATE!r}')
    lengths = get_field(entry, 'shardLengths', list, place)
    if not 1 <= len(lengths) <= _MAX_SHARDS or '/' in name + split:
        raise ValueError(f'{place}: shardLengths must list 1 .. {_MAX_SHARDS} files')
    shards = []
    for i, length in enumerate(lengths):
        count = get_integer({'n': length}, 'n', f'shardLengths of {place}', low=0, high=2**31 - 1)
        file = root / f'{name}-{split}.{_FORMAT}-{i:05d}-of-{len(lengths):05d}'
        if not file.exists():
            raise FileNotFoundError(f'{os.fspath(root)} lacks {file.name}: copy it again')
        # ArrayRecord would wait for ever for somebody to write into a pipe.
        refuse_irregular(file)
        shards.append(Shard(os.fspath(file), 0, count, count))
    return name, shards


def _read_class_names(root: epath.Path) -> tuple[str, ...]:
    """Reads the names of the labels, or numbers if there are none."""
    path = root / 'features.json'
    content, where = read_json(path, remedy=_REMEDY), os.fspath(path)
    features = get_field(content, 'featuresDict', dict, where)
    features = get_field(features, 'features', dict, where)
    for name, kind in (('image', _IMAGE), ('label', _LABEL)):
        feature = features.get(name)
        if not isinstance(feature, dict) or feature.get('pythonClassName') != kind:
            raise ValueError(
                f'{where} has no feature {name!r} of {kind.rpartition(".")[2]}: choose a data set '
                f'of classified images'
            )
    label = get_field(features['label'], 'classLabel', dict, where)
    count = get_integer(label, 'numClasses', where, low=1, high=_MAX_CLASSES)
    listed = root / 'label.labels.txt'
    if not listed.exists():
        return tuple(map(str, range(count)))
    names = read_names(listed, remedy=_REMEDY)
    if len(names) != count:
        raise ValueError(f'{os.fspath(listed)} has {len(names)} names for {count} classes')
    return names


def _to_tuple(shard: Shard) -> tuple[Any, ...]:
    return shard.filename, shard.skip, shard.take, shard.examples_in_shard


def _read_image(item: ClassifiedImage, *, shards: tuple[tuple[Any, ...], ...]) -> bytes:
    index = int(item.image_path.rpartition('_')[2].removesuffix('.png'))
    return _Records.of(shards).read_image(index)


class _Records:
    """Random access to the examples of a split; one for each process."""

    def __init__(self, shards: tuple[tuple[Any, ...], ...]) -> None:
        import grain

        self._records: Any = grain.sources.ArrayRecordDataSource([Shard(*s) for s in shards])

    @classmethod
    @functools.cache
    def of(cls, shards: tuple[tuple[Any, ...], ...]) -> '_Records':
        """Returns the same access for the same files."""
        return cls(shards)

    def read_label(self, index: int, num_classes: int) -> int:
        """Reads the class of an example.

        Raises:
          ValueError: the example is damaged, or has no such class.
        """
        values = self._read(index)['label'].int64_list.value
        if len(values) != 1 or not 0 <= values[0] < num_classes:
            raise ValueError(
                f'example {index} has the label {list(values)}, which is none of the {num_classes} '
                f'classes; data sets for tests have no labels: choose another split'
            )
        return values[0]

    def read_image(self, index: int) -> bytes:
        """Reads the image file of an example.

        Raises:
          ValueError: the example is damaged.
        """
        values = self._read(index)['image'].bytes_list.value
        if len(values) != 1:
            raise ValueError(f'example {index} has {len(values)} images')
        return values[0]

    def _read(self, index: int) -> Any:
        from tensorflow_datasets.proto import tf_example_pb2

        # Generated protobuf modules have no stubs.
        example_class = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return example_class.FromString(self._records[index]).features.feature
        except MemoryError:
            raise
        except Exception as error:
            # ArrayRecord and protobuf raise exceptions of several types for damaged files.
            raise ValueError(f'example {index} cannot be read: {error}') from error
